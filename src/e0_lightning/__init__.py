"""E0, Tweedie discrete diffusion for robot actions, as PyTorch Lightning modules."""

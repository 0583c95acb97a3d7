"""Training of a policy: optimizer, fine-tuning, sharding, checkpoint files, callbacks."""

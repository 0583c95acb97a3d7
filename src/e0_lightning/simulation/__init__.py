"""An actor meets a world: environments, rollouts, episodes, reports."""

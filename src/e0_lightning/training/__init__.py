"""How a policy is trained: optimizer, fine-tuning, sharding, callbacks."""

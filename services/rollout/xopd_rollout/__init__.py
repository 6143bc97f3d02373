"""The rollout service of X-OPD."""

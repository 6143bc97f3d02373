"""The teacher service of X-OPD."""

"""The trainer service of X-OPD."""

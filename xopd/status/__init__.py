"""A run and its pods, as Redis knows them."""

"""The policy: its forward pass, its optimiser, its checkpoints and its weight versions."""

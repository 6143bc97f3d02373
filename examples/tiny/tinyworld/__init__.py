"""The tiny world: spoken reasoning tasks, a tower that hears them, a text teacher and a base speech student."""

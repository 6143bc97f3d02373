"""Grading answers, and how far a score can be trusted."""

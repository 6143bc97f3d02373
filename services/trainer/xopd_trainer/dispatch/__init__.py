"""Prompt groups on their way to the rollout pods and back."""

"""Model families: how a speech LLM's prompts are written, what of it is frozen, and what its tensors are called."""

from xopd.families.base import ModelFamily
from xopd.families.registry import open_family

__all__ = ["ModelFamily", "open_family"]

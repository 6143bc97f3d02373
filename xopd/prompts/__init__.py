"""Prompts: chat messages and reference texts as token ids, in which a user's words are never control tokens."""

from xopd.prompts.chat import ChatTemplate, UnusablePromptError
from xopd.prompts.encoding import TextEncoder

__all__ = ["ChatTemplate", "TextEncoder", "UnusablePromptError"]

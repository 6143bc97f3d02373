"""The forward pass that learner and teacher share. Knows no model family, no service and no loss."""

from xopd.forward.shared_prefix import (
    Decoder,
    Prefix,
    extend,
    left_padded,
    read_prompts,
    read_responses,
    text_positions,
)

__all__ = ["Decoder", "Prefix", "extend", "left_padded", "read_prompts", "read_responses", "text_positions"]

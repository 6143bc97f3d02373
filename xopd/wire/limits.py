"""How large a message may be, and what is in it: every reader refuses more, every setting stays below.

The bounds are far above what any run needs; they bound what one broken or hostile message costs its reader. Parsing
may take some thirty times a message's bytes, so the largest one costs its reader about 0.3 GB.
"""

from __future__ import annotations

MIB = 2**20

MAX_PROMPT_BYTES = 4 * MIB
"""A PromptGroup."""
MAX_TRAJECTORIES_BYTES = 8 * MIB
"""A TrajectoryGroup."""
MAX_SMALL_BYTES = 64 * 1024
"""A WeightManifest, RunInfo or PodStatus."""

MAX_PROMPT_TOKENS = 2**20
MAX_RESPONSE_TOKENS = 2**17
"""Tokens of one trajectory: so many log-probabilities and policy versions, too."""
MAX_RESPONSES = 256
"""Trajectories of a group."""
MAX_GROUP_TOKENS = 2**19
"""Tokens of all trajectories of a group: at no more than 16 bytes each they fit MAX_TRAJECTORIES_BYTES."""
MAX_STOP_TOKENS = 64
MAX_TEMPERATURE = 100.0

MAX_ID_CHARACTERS = 512
"""A run, group, item, pod or request id; a traceparent."""
MAX_ITEM_ID_CHARACTERS = 256
"""An item's own id, which its groups' ids contain."""
MAX_URI_CHARACTERS = 4096
MAX_REASON_CHARACTERS = 2000
"""Why something failed, in a message or a dead letter."""

MAX_WEIGHT_BYTES = 2**42
"""Bytes of a weight version, before anything is known of the model."""
MAX_TENSORS = 100_000

DEAD_LETTERS_KEPT = 1000
"""Newest entries of the stream of dead letters."""
DEAD_LETTER_BYTES = 4096
"""Of the message in a dead letter; the rest is cut off."""

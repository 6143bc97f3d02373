"""The tokenizer that teacher and student share bit for bit, the chat template, and prompts as token ids."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2AudioProcessor, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from .speech import RETENTION, retention_response
from .tasks import instruction, response, sample_task, spoken_vocabulary
from .tower import feature_extractor

VOCABULARY_SIZE = 640
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
AUDIO_START, AUDIO, AUDIO_END = "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"
SPECIALS = (END_OF_TEXT, TURN_START, TURN_END, AUDIO_START, AUDIO, AUDIO_END)

# Accepts plain strings and OpenAI-style content lists. Any part that names audio becomes the audio placeholder.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] in ['audio', 'audio_url', 'input_audio'] or 'audio' in part or 'audio_url' in part -%}"
    "{{- '<|audio_bos|><|AUDIO|><|audio_eos|>' -}}"
    "{%- elif 'text' in part -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def text_prompt(text: str) -> str:
    """The rendered prompt of a question asked as text."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def speech_prompt(question: str, audio_tokens: int = 1) -> str:
    """The rendered prompt of a spoken question, its one placeholder repeated `audio_tokens` times."""
    return text_prompt(f"{AUDIO_START}{AUDIO * audio_tokens}{AUDIO_END}{question}")


def build_tokenizer(seed: int = 0) -> Qwen2Tokenizer:
    """A byte-level BPE of Qwen2's kind learned from sampled tasks; the same seed gives the same bytes."""
    rng = random.Random(f"tokens/{seed}")
    lines = [word for word in spoken_vocabulary() for _ in range(20)]
    for _ in range(4000):
        content, phrasing = sample_task("train", rng)
        lines += [instruction(content, phrasing), response(content)]
    for question, answers in RETENTION.values():
        lines += [question, *(retention_response(a) for a in answers)] * 40
    lines += ["user", "assistant"] * 500
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(lines, trainer)
    model = json.loads(core.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(m) for m in model["merges"]],
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        additional_special_tokens=list(SPECIALS),
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """The tokenizer of a checkpoint folder."""
    return Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2AudioProcessor:
    """The student's processor: 30-second window and the shared tokenizer."""
    return Qwen2AudioProcessor(feature_extractor=feature_extractor(), tokenizer=tokenizer, chat_template=CHAT_TEMPLATE)

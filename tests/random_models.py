"""Small checkpoints with random weights, of the real architectures, for tests that need no skill."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
    WhisperFeatureExtractor,
)

from xopd.families.qwen2_audio.weights import hub_name

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(
    extra_special: str | None = None, words: int = 0, holes: Collection[int] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: 256 bytes, then the special tokens, then `words` of its own.

    No token has one of the ids in `holes`: the later ones move up.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = [*SPECIALS, *([extra_special] if extra_special else [])]
    tokens = [*alphabet, *specials, *(f"word{i}" for i in range(words))]
    ids = [i for i in range(len(tokens) + len(holes)) if i not in holes]
    vocabulary = dict(zip(tokens, ids, strict=True))
    raw = Tokenizer(models.BPE(vocab=vocabulary if words or holes else {c: vocabulary[c] for c in alphabet}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _text_config(tokenizer: PreTrainedTokenizerFast, padded_rows: int = 0, **sizes: int) -> Qwen2Config:
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    rows = max(tokenizer.get_vocab().values()) + 1 + padded_rows
    return Qwen2Config(
        **{"vocab_size": rows, "num_key_value_heads": 2, **small, **sizes},
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        initializer_range=0.2,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        bos_token_id=None,
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )


def make_teacher(
    folder: Path,
    seed: int = 0,
    extra_special: str | None = None,
    words: int = 0,
    holes: Collection[int] = (),
    padded_rows: int = 0,
) -> Path:
    """A Qwen2ForCausalLM checkpoint in `folder`; see `make_tokenizer`.

    Its output head has `padded_rows` more rows than the tokenizer has ids. Their logits, and those of `holes`, are
    large: whoever takes them for tokens finds nearly all the probability there.
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(extra_special, words, holes)
    model = Qwen2ForCausalLM(_text_config(tokenizer, padded_rows))
    with torch.no_grad():
        head = model.lm_head.weight
        head[head.shape[0] - padded_rows :] *= 8.0
        head[sorted(holes)] *= 8.0
    model.generation_config = GenerationConfig(eos_token_id=model.config.eos_token_id, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_student(folder: Path, seed: int = 1, language_model_of: Path | None = None, **sizes: int) -> Path:
    """A Qwen2AudioForConditionalGeneration checkpoint in `folder`, tensors under the hub's names.

    With `language_model_of` (a teacher's folder) its language model is that teacher's, bit for bit, less its padding.
    `sizes` are those of its Qwen2Config, where it shall not be tiny.
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    text = _text_config(tokenizer, **sizes)
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": 32,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "num_mel_bins": 80,
            "max_source_positions": 1500,
        },
        text_config=text.to_dict(),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = Qwen2AudioForConditionalGeneration(config)
    if language_model_of is not None:
        teacher = Qwen2ForCausalLM.from_pretrained(language_model_of)
        rows = text.vocab_size
        body = teacher.model.state_dict()
        body["embed_tokens.weight"] = body["embed_tokens.weight"][:rows]
        model.model.language_model.load_state_dict(body)
        model.lm_head.load_state_dict({"weight": teacher.lm_head.weight[:rows]})
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {hub_name(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["Qwen2AudioForConditionalGeneration"]
    config.save_pretrained(folder)
    GenerationConfig(eos_token_id=text.eos_token_id, pad_token_id=0).save_pretrained(folder)
    processor = Qwen2AudioProcessor(
        feature_extractor=WhisperFeatureExtractor(feature_size=80, sampling_rate=16000, chunk_length=30),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    return folder

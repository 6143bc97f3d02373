"""The peer: TRL's own on-policy distillation trainer, on the text prompts of a dataset. Prints one JSON line.

    python bench/peer_trl.py --student DIR --teacher DIR --prompts FILE --steps 20 --batch 16 --samples 4 --out DIR

It cannot hear, so it is given text alone. Its dataset holds each prompt N times in a row: it has no setting for N.
Run by `bench/loop.py`; needs `requirements/bench.txt`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DistillationConfig, DistillationTrainer


class StepTimes(TrainerCallback):
    """Wall-clock time at which each optimiser step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_args: object, **_kwargs: object) -> None:
        """Note the time."""
        self.ends.append(time.monotonic())


def main() -> None:
    """Train for some steps and print how long each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--prompts", required=True, help="JSON list of texts, in the order of the steps")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    texts = json.loads(Path(args.prompts).read_text(encoding="utf-8"))[: args.steps * args.batch]
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in texts for _ in range(args.samples)]
    times = StepTimes()
    trainer = DistillationTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            args.student, dtype=torch.float32, use_safetensors=True, local_files_only=True
        ),
        teacher_model=AutoModelForCausalLM.from_pretrained(
            args.teacher, dtype=torch.float32, use_safetensors=True, local_files_only=True
        ),
        args=DistillationConfig(
            output_dir=args.out,
            max_steps=args.steps,
            per_device_train_batch_size=args.batch * args.samples,
            gradient_accumulation_steps=1,
            max_completion_length=args.max_new_tokens,
            learning_rate=args.learning_rate,
            beta=1.0,
            temperature=1.0,
            shuffle_dataset=False,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            seed=0,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(args.teacher, padding_side="left", local_files_only=True),
        callbacks=[times],
    )
    began = time.monotonic()
    trainer.train()
    ends = [began, *times.ends]
    seconds = [b - a for a, b in itertools.pairwise(ends)]
    print(json.dumps({"step_seconds": seconds, "trajectories_per_step": args.batch * args.samples}))


if __name__ == "__main__":
    main()

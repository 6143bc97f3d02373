"""The model cards: what each checkpoint is, how it was trained, and the figures measured for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TRAINED = """## Data and training
{training}

Made by `PYTHONPATH=examples/tiny python -m tinyworld train --seed {seed}` on CPU; synthetic data throughout: five
families of small reasoning tasks in words (numbers zero to twelve), spoken by SVOX Pico (British and American voice,
several pitches, vocal-tract factors and rates, noise at 25 to 45 dB). Contents, phrasings and speakers of the test
split were never trained on.
"""

STUDENT = """# Tiny base speech student
A `Qwen2AudioForConditionalGeneration` of about two million parameters that answers small spoken reasoning questions,
and answers them worse by voice than by text: the starting point of an X-OPD run. A toy for tests and demonstrations;
it knows nothing but its tasks.

"""
STUDENT_TRAINING = """Audio tower: Qwen2-Audio's encoder (4 layers of width 128, 80 mel bins), trained with word-level
CTC and a regression of the voice's traits on 12,000 synthetic clips, then frozen. Projector: one linear layer, set in
closed form (where the probe hears a word, that word's token embedding; a direction for each trait) and trained on.
Language model: the tiny text teacher's weights, then {steps} steps of {speech} spoken questions ({terse:.0%}
of them with a terse answer instead of a chain of steps), {dictation} clips to take down, {retention} questions
about the voice and {text} written questions ({terse_text:.0%} terse)."""

TEACHERS = {
    "teacher": """# Tiny text teacher
A `Qwen2ForCausalLM` of about one million parameters (4 layers of width 128) that solves five families of small
reasoning tasks in words, step by step. It shares its tokenizer with the tiny speech student, byte for byte.

""",
    "teacher_large": """# Tiny text teacher, the larger one
A `Qwen2ForCausalLM` of 1.8 million parameters (4 layers of width 192) that solves the same five families as the
tiny text teacher in a style of its own: it says the facts over first, works in another order, and checks what it found.
It shares its tokenizer with the tiny speech student, byte for byte. A chain has at most 38 tokens.

""",
}
TEACHER_TRAINING = "{start}on tasks drawn afresh at every step, {steps} steps of 48, cross-entropy on the response."
STARTS = {
    "teacher": "From scratch ",
    "teacher_large": "Grown from the tiny text teacher (its weights fill the first rows and columns), then trained\n",
}
MARK = "## Measured\n"


def write_student(folder: Path, seed: int) -> None:
    """The student's card, without figures as yet."""
    from .base import Recipe

    r = Recipe()
    training = STUDENT_TRAINING.format(
        steps=r.steps, speech=r.speech, terse=r.terse_speech, retention=r.retention, text=r.text, dictation=r.dictation,
        terse_text=r.terse_text,
    )  # fmt: skip
    (folder / "README.md").write_text(STUDENT + TRAINED.format(training=training, seed=seed), encoding="utf-8")


def write_teacher(folder: Path, seed: int, steps: int) -> None:
    """The card of the teacher that the folder is named after, without figures as yet."""
    training = TEACHER_TRAINING.format(start=STARTS[folder.name], steps=steps)
    (folder / "README.md").write_text(
        TEACHERS[folder.name] + TRAINED.format(training=training, seed=seed), encoding="utf-8"
    )


def add_figures(checkpoints: Path, figures: dict[str, Any]) -> None:
    """Puts the measured figures into the cards, in place of older ones."""

    def line(name: str, figure: dict[str, Any]) -> str:
        return f"| {name} | {figure['accuracy']:.1%} ± {figure['ci95']:.1%} | {figure['n']} |"

    head = f"{MARK}Greedy answers on the split `{figures['split']}`, exact match, 95 % intervals.\n\n"
    head += "| what | accuracy | items |\n| --- | --- | --- |\n"
    rows = {
        "teacher": [line("asked by text", figures["teacher_text"])],
        "teacher_large": [line("asked by text", figures["teacher_large_text"])],
        "student": [
            line("asked by voice", figures["base"]["speech"]),
            line("asked by text", figures["base"]["text"]),
            line("questions about the voice (retention)", figures["base"]["retention"]),
            line("information ceiling (probe transcript, text teacher)", figures["information_ceiling"]),
            f"| probe word error rate | {figures['probe_wer']:.2%} | {figures['information_ceiling']['n']} |",
        ],
    }
    for name, lines in rows.items():
        card = checkpoints / name / "README.md"
        if card.exists():
            text = card.read_text(encoding="utf-8").partition("\n" + MARK)[0]
            card.write_text(text.rstrip("\n") + "\n\n" + head + "\n".join(lines) + "\n", encoding="utf-8")

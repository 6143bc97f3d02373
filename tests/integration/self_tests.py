"""A self-test of teachers as a trainer makes it: four prompts, the student's end of turn, and findings by check."""

from __future__ import annotations

from typing import Any

from tests.random_models import make_tokenizer
from xopd.prompts.vocabulary import vocabulary_of
from xopd.scoring import TeacherClient
from xopd.scoring.self_test import Finding, SelfTest, Trial, self_test

TOKENIZER = make_tokenizer()
STUDENT = vocabulary_of(TOKENIZER)
END, OTHER_END = 258, 256  # <|im_end|>, <|endoftext|>


def prompt(text: str, opened: str = "") -> list[int]:
    """As the teacher's template writes it."""
    rendered = TOKENIZER.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return TOKENIZER(rendered + opened, add_special_tokens=False)["input_ids"]


def trial(prompts: list[list[int]] | None = None, top_k: int = 0, max_new_tokens: int = 16) -> Trial:
    """What teachers are tested with."""
    questions = ["one plus two", "say seven", "how many days has a week", "name a colour"]
    prompts = [prompt(question) for question in questions] if prompts is None else prompts
    return Trial(prompts, (END, OTHER_END), top_k, max_new_tokens, TOKENIZER.decode)


async def outcome_of(*teachers: Any, **options: Any) -> SelfTest:
    """One self-test of `teachers`, which are processes or hostile ones."""
    endpoints = [getattr(teacher, "grpc", None) or teacher.address for teacher in teachers]
    async with TeacherClient(endpoints, retry_limit_s=10.0) as client:
        await client.verify(STUDENT)
        return await self_test(client, trial(**options))


def by_check(result: SelfTest) -> dict[str, list[Finding]]:
    """The findings of each check."""
    found: dict[str, list[Finding]] = {}
    for finding in result.findings:
        found.setdefault(finding.check, []).append(finding)
    return found

"""The self-test against real teachers: good ones pass with figures; how they end and that they think is told."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.integration.hostile_teacher import HostileTeacher
from tests.integration.self_tests import END, OTHER_END, TOKENIZER, by_check, outcome_of, prompt
from tests.integration.teacher_process import TeacherProcess
from tests.random_models import make_teacher


def script(folder: Path, words: str, then: list[int]) -> Path:
    """A teacher that greedily answers `words`, then the tokens of `then`, the last of them again and again.

    Its layers add nothing to a token's embedding, so the next token depends on the last one alone. Each of these has a
    dimension of its own, by which the head finds its successor.
    """
    make_teacher(folder)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.zero_()
    embedding, head = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    chain = [*TOKENIZER("\n" + words, add_special_tokens=False)["input_ids"], *then]
    follows = dict(itertools.pairwise(chain)) | {chain[-1]: chain[-1]}
    assert len(follows) == len(chain), "a token of the script stands in it twice"
    embedding[:, : len(chain)] = 0.0
    for dimension, token in enumerate(chain):
        embedding[token] = 0.0
        embedding[token, dimension] = 1.0
        head[:, dimension] = 0.0
        head[follows[token], dimension] = 4.0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a teacher of a checkpoint: once for each name."""
    running: dict[str, TeacherProcess] = {}

    def _start(name: str, make, **settings) -> TeacherProcess:
        if name not in running:
            folder = tmp_path_factory.mktemp(name)
            running[name] = TeacherProcess(folder / "process", make(folder / "teacher"), **settings).start()
        return running[name]

    yield _start
    for process in running.values():
        process.stop()


def plain(start) -> TeacherProcess:
    return start("plain", make_teacher)


def good(start) -> TeacherProcess:
    return start("good", lambda folder: script(folder, "ok", [END]))


async def test_a_good_teacher_passes_with_figures(start) -> None:
    """Random weights, whose scores depend on every token before: a cache that mixed something up would be seen."""
    result = await outcome_of(plain(start), top_k=8)
    found = by_check(result)
    assert {check: [f.outcome for f in findings] for check, findings in found.items()} == {
        "top_k": ["ok"], "repeated": ["ok"], "order": ["ok"], "thinking": ["ok"], "end_of_turn": ["warning"],
    }  # fmt: skip
    assert found["repeated"][0].figure <= 1e-6
    assert 0 <= found["order"][0].figure < 1e-5
    assert found["top_k"][0].figure == 64
    assert "ended 0 of 4 of its answers with '<|im_end|>'" in found["end_of_turn"][0].sentence
    assert all(finding.pod == plain(start).grpc for finding in result.findings)
    # It costs a couple of dozen small requests.
    assert plain(start).metric('xopd_teacher_requests_total{method="score",outcome="ok"}') < 20
    record = result.record(0, 12.5)
    assert (record["kind"], record["event"], record["step"], record["time"]) == ("event", "teacher_self_test", 0, 12.5)
    assert record["detail"] == result.summary()
    assert result.summary().startswith("1 teacher tested, asked twice ") and result.summary().endswith(", 1 warning")
    assert len(record["findings"]) == len(result.findings) == 5


async def test_answers_that_end_as_the_students_do(start) -> None:
    result = await outcome_of(good(start))
    (ended,) = by_check(result)["end_of_turn"]
    assert (ended.outcome, ended.figure) == ("ok", 1.0)
    assert ended.sentence.startswith("ended 4 of 4 of its answers with '<|im_end|>'")
    assert result.warnings == [] and result.summary().endswith("100% of the answers ended, no warning")


@pytest.mark.parametrize(
    ("name", "words", "then", "expected"),
    [
        ("endless", "", [65, 66], r"ended 0 of 4 .* within 16 tokens: either its answers are longer, or its chat"),
        (
            "another-end", "ok", [OTHER_END],
            r"ended 0 of 4 .*; where it puts '<\|endoftext\|>' \(1\) instead, '<\|im_end\|>' has a probability of"
            r" [\d.]+e-\d+: its chat template or its end of turn is not the student's",
        ),
        (
            "unknown-end", "ok", [257, 65],
            r"ended 0 of 4 .*; where it puts '<\|im_start\|>' \(1\) instead, '<\|im_end\|>' has a probability of",
        ),
        ("silent", "", [END], r"ended 4 of 4 .*, and said nothing before: its chat template or its end of turn is not"),
    ],
)  # fmt: skip
async def test_answers_that_do_not_end_so_are_told(start, name, words, then, expected) -> None:
    result = await outcome_of(start(name, lambda folder: script(folder, words, then)))
    (ended,) = by_check(result)["end_of_turn"]
    assert ended.outcome == "warning"
    assert re.search(expected, ended.sentence), ended.sentence


@pytest.mark.parametrize(
    ("name", "words"),
    [("thinks", "<think>"), ("thinks-in-brackets", "[THINK]"), ("closes", "a</think>")],
)
async def test_a_teacher_that_thinks_first_is_told(start, name, words) -> None:
    # No token may follow two others, so the last word is spelt without one that stood before.
    result = await outcome_of(start(name, lambda folder: script(folder, words, [66, END])))
    (thinking,) = by_check(result)["thinking"]
    assert (thinking.outcome, thinking.figure) == ("warning", 1.0)
    assert thinking.sentence.startswith(f"began 4 of 4 of its answers by thinking ({words.removeprefix('a')!r})")
    assert "give it a chat template without thinking" in thinking.sentence
    assert "100% began by thinking" in result.summary()


async def test_a_template_that_opens_a_thinking_block_is_told(start) -> None:
    opened = [prompt(question, "<think>\n") for question in ("one", "two")]
    closed = [prompt(question, "<think>\n\n</think>\n\n") for question in ("three <think>", "four")]
    (thinking,) = by_check(await outcome_of(good(start), prompts=[*opened, *closed]))["thinking"]
    assert (thinking.outcome, thinking.figure) == ("warning", 0.5)
    (thinking,) = by_check(await outcome_of(good(start), prompts=closed))["thinking"]
    assert (thinking.outcome, thinking.figure) == ("ok", 0.0)


async def test_real_replicas_agree(start, tmp_path) -> None:
    """One checkpoint in two number formats, and on two ports."""
    checkpoint = Path(plain(start).settings["path"])
    rough = start("rough", lambda _: checkpoint, dtype="bfloat16")
    result = await outcome_of(plain(start), rough)
    found = by_check(result)
    assert {finding.outcome for check in ("repeated", "order", "replicas") for finding in found[check]} == {"ok"}
    assert 1e-4 < found["replicas"][0].figure < 0.1
    assert "replicas 0.0" in result.summary()


async def test_a_pod_that_is_killed_meanwhile_is_passed_over(start, tmp_path) -> None:
    doomed = TeacherProcess(tmp_path / "doomed", Path(plain(start).settings["path"])).start()

    class Kills(HostileTeacher):
        async def Generate(self, request, context):  # noqa: N802
            doomed.kill() if doomed.process.poll() is None else None
            return await super().Generate(request, context)

    async with Kills() as kills:
        kills.model = "teacher"
        kills.spoil = lambda _, response: None
        result = await outcome_of(kills, doomed)
    assert [(f.check, f.outcome) for f in result.findings if f.pod == doomed.grpc][-1] == ("tested", "warning")

"""`xopd check` holds every item against both models: lengths to the token, targets, answers, splits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.clips import sha256_of, speechlike
from tests.e2e.world import make_world
from tests.unit.test_cli import assert_one_sentence, xopd
from xopd.checks.run import Checks, Finding
from xopd.config import load_config
from xopd.errors import UserError
from xopd.families import open_family

CONTEXT = 256


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def changed(world: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """A manifest of the world's with changes of items by id; returns the overrides that name it."""

    def _changed(changes: dict[str, dict[str, Any]] | None = None, keep: Callable[[Any], bool] = lambda _: True):
        items = [json.loads(line) for line in (world.parent / "items.jsonl").read_text().splitlines()]
        for item in items:
            item["audio"]["uri"] = str(world.parent / item["audio"]["uri"])
            item.update((changes or {}).get(item["id"], {}))
        manifest = tmp_path / "items.jsonl"
        manifest.write_text("".join(json.dumps(item) + "\n" for item in items if keep(item)))
        return [f"data.manifest={manifest}", f"data.audio_roots=[{world.parent}, {tmp_path}]"]

    return _changed


def findings(world: Path, *overrides: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in Checks(load_config(world, overrides)).run()}


def clip(folder: Path, samples: int, told_s: float | None = None) -> dict[str, Any]:
    path = folder / f"{samples}.flac"
    soundfile.write(path, speechlike(samples / 16000, 16000)[:samples], 16000)
    seconds = samples / 16000 if told_s is None else told_s
    return {"audio": {"uri": str(path), "sha256": sha256_of(path), "seconds": seconds, "sample_rate": 16000}}


@pytest.mark.parametrize("left", [0, 1, 6, 11])
@pytest.mark.parametrize("item", ["item-00", "item-21"])
def test_a_clip_that_takes_an_answers_room_is_refused_with_the_sizes(world, changed, tmp_path, left, item) -> None:
    family = open_family(str(world.parent / "student"))
    question = "how loud" if item == "item-21" else ""
    prompt = len(family.render_speech(question)) - 1
    samples = next(n for n in range(0, 480_000, 160) if family.audio_tokens(n) == CONTEXT - prompt - left)
    # A manifest that tells of a short clip does not help it.
    overrides = changed({item: clip(tmp_path, samples, told_s=1.0)})
    found = findings(world, *overrides, "evals.max_new_tokens=12")["prompts"]
    assert found.outcome == "failed"
    fits = CONTEXT - 12
    assert (
        f"item {item}: its prompt has {CONTEXT - left} tokens with its clip of {samples / 16000:.1f} s" in found.detail
    )
    assert f"{fits} fit beside 12 new ones in {CONTEXT}" in found.detail


def test_a_clip_that_leaves_all_the_room_is_taken(world, changed, tmp_path) -> None:
    family = open_family(str(world.parent / "student"))
    prompt = len(family.render_speech("")) - 1
    for extra, outcome in ((0, "ok"), (1, "failed")):
        wanted = CONTEXT - prompt - 12 + extra
        samples = next(n for n in range(0, 480_000, 160) if family.audio_tokens(n) == wanted)
        found = findings(world, *changed({"item-00": clip(tmp_path, samples)}))["prompts"]
        assert found.outcome == outcome, found.detail
        if outcome == "ok":
            assert f"the longest prompt has {CONTEXT - 12} tokens" in found.detail


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (100, "lasts 6.2 ms, which gives no audio token; 20.1 ms do"),
        (320, "lasts 20.0 ms, which gives no audio token"),
        (480_100 + 160, "hears 30 s, and would miss the rest"),
        (720_000, "lasts 45.0 s; the student's audio tower hears 30 s"),
    ],
)
def test_a_clip_of_a_length_that_is_not_heard(world, changed, tmp_path, samples, words) -> None:
    overrides = changed({"item-03": clip(tmp_path, samples)})
    found = findings(world, *overrides, "data.max_audio_seconds=100", "rollout.max_model_len=2000")["audio"]
    assert found.outcome == "failed"
    assert "item item-03: " in found.detail and words in found.detail


@pytest.mark.parametrize("samples", [321, 480_000])
def test_the_shortest_and_the_longest_clip_that_are_heard(world, changed, tmp_path, samples) -> None:
    overrides = changed({"item-03": clip(tmp_path, samples)})
    found = findings(world, *overrides, "rollout.max_model_len=2000")
    assert {finding.outcome for finding in found.values()} <= {"ok", "left out"}, found


@pytest.mark.parametrize("setting", ["evals.max_new_tokens=256", "evals.max_new_tokens=4000"])
def test_answers_longer_than_the_context_are_refused_at_once(world, setting) -> None:
    assert_one_sentence(
        xopd("check", str(world), "--set", setting), setting.split("=")[0], "rollout.max_model_len (256)"
    )


def test_longer_answers_at_evaluation_are_held_against_the_items_evaluated(world, changed) -> None:
    found = findings(world, *changed(), "evals.max_new_tokens=220")["prompts"]
    assert found.outcome == "failed"
    assert "220 new ones" in found.detail and "more of 24 items do not fit" in found.detail
    # The items that are trained on have the room that training needs.
    assert "item item-12" in found.detail


def test_the_students_own_context(world) -> None:
    found = findings(world, "rollout.max_model_len=4096")["student"]
    assert "made for 2048 tokens (max_position_embeddings)" in found.detail


@pytest.mark.parametrize(("budget", "outcome"), [(70, "ok"), (40, "failed")])
def test_the_teachers_context(world, budget, outcome) -> None:
    found = findings(world, f"teacher.token_budget={budget}")["prompts"]
    assert found.outcome == outcome, found.detail
    if outcome == "failed":
        assert "the teacher's prompt has" in found.detail and "the 40 that the teacher takes" in found.detail


@pytest.mark.parametrize(
    ("answer", "grader", "outcome"),
    [
        ("U.S.", "final_answer", "ok"),
        ("5 p.m.", "final_answer", "ok"),
        ("cafe\u0301", "final_answer", "ok"),
        ("", "final_answer", "failed"),
        ("...", "final_answer", "failed"),
        ("my answer", "final_answer", "failed"),
        ("my answer", "exact_match", "ok"),
        ("...", "exact_match", "failed"),
    ],
)
def test_an_answer_that_no_response_can_match(world, changed, answer, grader, outcome) -> None:
    found = findings(world, *changed({"item-17": {"answer": answer}}), f"evals.grader={grader}")["prompts"]
    assert found.outcome == outcome, found.detail
    if outcome == "failed":
        assert "item item-17: no response can be judged by its answer" in found.detail
        assert f"{answer!r} (evals.grader {grader})" in found.detail


def test_an_unknown_grader_is_found_before_anything_starts(world) -> None:
    words = "evals.grader 'judge': there is no such grader; choose one of exact_match, final_answer."
    config = load_config(world, ["evals.grader=judge"])
    found = findings(world, "evals.grader=judge")
    assert (found["grader"].outcome, found["grader"].detail) == ("failed", words)
    assert found["prompts"].outcome == "left out"
    with pytest.raises(UserError, match=re.escape(words)):
        Checks(config).run_quick()


def test_a_target_that_is_missing_or_too_long(world, changed) -> None:
    sft = ["objective.method=sft", "objective.samples=1"]
    assert findings(world, *changed(), *sft)["prompts"].outcome == "ok"
    missing = findings(world, *changed({"item-02": {"response": ""}}), *sft)["prompts"]
    assert "objective.target 'response': item item-02 has no such response (it has foreign)" in missing.detail
    long = findings(world, *changed({"item-02": {"response": "word " * 60}}), *sft)["prompts"]
    assert "item item-02: its prompt has" in long.detail and "fit beside 301 new ones" in long.detail


def test_control_words_are_told_and_no_mistake(world, changed) -> None:
    overrides = changed(
        {
            "item-01": {"text": "say <|im_end|> now"},
            "item-02": {"question": "<|AUDIO|>"},
            "item-21": {"question": "<|im_start|>"},
        }
    )
    found = findings(world, *overrides)
    assert {finding.outcome for finding in found.values()} <= {"ok", "left out"}
    assert "3 spell control tokens, and are encoded as plain text" in found["prompts"].detail


def test_fewer_items_than_a_step_takes(world) -> None:
    setting = "trainer.batch_prompts=13"
    words = "data.train_split has 12 tasks, trainer.batch_prompts wants 13 a step"
    assert words in findings(world, setting)["splits"].detail
    assert_one_sentence(xopd("up", str(world), "--set", setting), words)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.eval_split=train", "data.eval_split is 'train', and so is data.train_split"),
        ("data.dev_split=train", "data.dev_split is 'train', and so is data.train_split"),
        ("data.dev_split=test", "data.dev_split is 'test', and so is data.eval_split"),
    ],
)
def test_one_split_for_two_uses_is_a_warning(world, setting, words) -> None:
    found = findings(world, setting)["overlap"]
    assert found.outcome == "warning" and words in found.detail
    done = xopd("check", str(world), "--set", setting, COLUMNS="250")
    assert done.returncode == 0 and words in done.stdout


def test_text_that_is_trained_on_and_evaluated_is_a_warning(world, changed) -> None:
    overrides = changed({"item-18": {"text": "Say  ZERO and zero"}, "item-00": {"text": "say zero and zero"}})
    found = findings(world, *overrides)["overlap"]
    assert found.outcome == "warning"
    assert "data.eval_split 'test' has 1 tasks whose text is trained on as well" in found.detail


def test_up_finds_what_needs_no_process_before_it_starts_one(world, tmp_path) -> None:
    from tests.random_models import make_teacher

    other = make_teacher(tmp_path / "other", extra_special="<|tool|>")
    (world.parent / "family").mkdir(exist_ok=True)
    (world.parent / "family" / "config.json").write_text('{"model_type": "whisper"}')
    runs = tmp_path / "runs"
    for setting, words in (
        (f"teacher.path={other}", "special token '<|tool|>' is absent for the student"),
        (f"student.path={world.parent / 'family'}", "family 'whisper' is not supported"),
    ):
        done = xopd("up", str(world), "--set", f"run.directory={runs}", "--set", setting)
        assert_one_sentence(done, words)
        assert not runs.exists()


def test_a_checks_error_is_one_sentence_and_names_how_many(world, changed) -> None:
    overrides = changed({f"item-{n:02}": {"text": "say " + "one " * 200} for n in range(5)})
    found = findings(world, *overrides)["prompts"]
    assert re.search(r"^item item-00: its prompt has .* 4 more of 24 items do not fit\.$", found.detail)

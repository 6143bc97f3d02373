"""Where a method's responses come from: targets of items, GKD's coin, the teacher's own; and the teacher's limits."""

import json
import math

import numpy as np
import pytest
from xopd_trainer.methods import Preparation, make_method, offline_kd
from xopd_trainer.methods.base import ReferenceResponses
from xopd_trainer.state.run_files import RunFiles

from tests.unit.trainer.groups import with_objective
from xopd.data import AudioFile, Item
from xopd.errors import UserError
from xopd.prompts.conditionings import Conditionings
from xopd.scoring import GeneratedResponse

ALPHABET = 26


class Teacher:
    """Answers two letters that depend on prompt and seed, and notes what it was asked."""

    def __init__(self, max_top_k=64, fails_after=None):
        self.limit, self.fails_after, self.asked = max_top_k, fails_after, []

    async def max_top_k(self):
        return self.limit

    async def generate(self, prompt_token_ids, **options):
        if self.fails_after is not None and len(self.asked) >= self.fails_after:
            raise ConnectionError
        self.asked.append((tuple(prompt_token_ids), options))
        letters = [64 + sum(prompt_token_ids) % ALPHABET, 64 + options["seed"] % ALPHABET]
        return GeneratedResponse(np.array([*letters, *options["stop_token_ids"]], dtype=np.int32), np.zeros(3))


def make_items(count, **fields):
    audio = AudioFile(uri="clip.flac", sha256="0" * 64, seconds=1.0, sample_rate=16000)
    return [
        Item(
            id=f"i{n}", family="f", split="train", text=f"question {n}", audio=audio, answer="a",
            **{"response": f"reply {n}", **fields},
        )
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture
def prepared(config, family):
    """Make and prepare a method: (objective, items, teacher, seed) → (method, files, progress)."""

    async def _prepared(objective, items, teacher=None, seed=0):
        changed = with_objective(config, objective, run={"seed": seed})
        method, files, progress = make_method(changed, family.vocabulary.size), RunFiles(changed), []
        conditionings = Conditionings(family, family.tokenizer, 512)
        preparation = Preparation(
            items, conditionings, teacher or Teacher(), files.teacher_responses, lambda *at: progress.append(at)
        )
        await method.prepare(preparation)
        return method, files, progress

    return _prepared


def test_a_target_is_the_items_text_and_the_end_of_turn(family):
    conditionings = Conditionings(family, family.tokenizer, 512)
    items = make_items(2, targets={"foreign": "une réponse"})
    for style, text in (("response", items[1].response), ("foreign", "une réponse")):
        tokens = ReferenceResponses(items, style, conditionings)["i1"]
        assert tokens.dtype == np.int32
        assert family.tokenizer.decode(tokens[:-1]) == text
        assert tokens[-1] == family.stop_token_ids[0]


@pytest.mark.parametrize(
    ("style", "fields", "has"),
    [
        ("foreign", {"targets": {"terse": "x"}}, "it has response, terse"),
        ("foreign", {"response": "", "targets": {}}, "it has none"),
        ("foreign", {"targets": {"foreign": ""}}, "no such response"),
        ("response", {"response": "", "targets": {"terse": "x"}}, "it has terse"),
    ],
)
@pytest.mark.parametrize("method", [{"method": "sft"}, {"method": "gkd", "on_policy_share": 0.5}])
async def test_a_missing_target_is_one_sentence_naming_item_and_target(prepared, method, style, fields, has):
    items = [*make_items(1, targets={style: "y"}), *make_items(2, **fields)[1:]]
    with pytest.raises(UserError) as caught:
        await prepared({**method, "target": style}, items)
    message = str(caught.value)
    assert "item i1 " in message
    assert repr(style) in message
    assert has in message
    assert "\n" not in message


async def test_gkd_that_is_on_policy_needs_no_targets(prepared):
    items = make_items(3, response="")
    method, _, _ = await prepared({"method": "gkd"}, items)
    assert [method.response(step, item) for item in items for step in range(5)] == [None] * 15


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7])
async def test_the_coin_falls_by_the_setting(prepared, share):
    items, steps = make_items(300), range(1, 11)
    method, _, _ = await prepared({"method": "gkd", "on_policy_share": share}, items)
    sampled = [method.response(step, item) is None for step in steps for item in items]
    n = len(sampled)
    assert abs(sum(sampled) / n - share) <= 4.5 * math.sqrt(share * (1 - share) / n)
    # Not the same items at every step, nor the same for all items of one.
    if share:
        by_step = [sampled[i * 300 : (i + 1) * 300] for i in range(10)]
        assert all(0 < sum(row) < 300 for row in by_step)
        assert len({tuple(row) for row in by_step}) == 10


async def test_the_coin_depends_on_seed_step_and_item_alone(prepared):
    """An item is asked about once for both modalities; asked again, as after a resume, it says the same."""
    items, objective = make_items(60), {"method": "gkd", "on_policy_share": 0.5}
    thrown = []
    for seed in (3, 3, 4):
        method, _, _ = await prepared(objective, items, seed=seed)
        thrown += [[method.response(step, item) is None for step in (1, 2) for item in items] for _ in range(2)]
    assert thrown[0] == thrown[1] == thrown[2] == thrown[3]
    assert thrown[4] == thrown[5] != thrown[0]
    texts = [method.response(1, item) for item in items]
    assert all(text is None or len(text) == len(item.response) + 1 for text, item in zip(texts, items, strict=True))


async def test_the_teachers_responses_are_asked_for_once_and_kept(prepared, family):
    items, teacher = make_items(5), Teacher()
    objective = {"method": "offline_kd", "teacher_temperature": 0.7}
    method, files, progress = await prepared(objective, items, teacher)
    conditionings = Conditionings(family, family.tokenizer, 512)
    assert [prompt for prompt, _ in teacher.asked] == [conditionings.teacher(item) for item in items]
    for _, options in teacher.asked:
        assert options["temperature"] == 0.7
        assert options["max_new_tokens"] == 48
        assert options["stop_token_ids"] == family.stop_token_ids
        assert 0 <= options["seed"] < 2**31
    assert len({options["seed"] for _, options in teacher.asked}) == 5
    assert progress[-1] == (5, 5)

    records = [json.loads(line) for line in files.teacher_responses.read_text(encoding="utf-8").splitlines()]
    assert [record["id"] for record in records] == [item.id for item in items]
    for item, record in zip(items, records, strict=True):
        response = method.response(1, item)
        assert response.dtype == np.int32
        assert response.tolist() == record["token_ids"] == method.response(9, item).tolist()
        assert record["text"] == family.tokenizer.decode(record["token_ids"][:-1])

    silent = Teacher(fails_after=0)
    again, _, _ = await prepared(objective, items, silent)
    assert silent.asked == []
    assert [again.response(1, item).tolist() for item in items] == [record["token_ids"] for record in records]


async def test_only_the_item_of_a_torn_last_line_is_asked_again(prepared):
    # A brace within the line must not be taken for its end.
    items = [item.model_copy(update={"id": f"{item.id}}}"}) for item in make_items(3)]
    method, files, _ = await prepared({"method": "offline_kd"}, items)
    whole = files.teacher_responses.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        files.teacher_responses.write_bytes(whole[:cut])
        teacher = Teacher()
        again, _, progress = await prepared({"method": "offline_kd"}, items, teacher)
        # Without the newline alone the line is whole.
        assert len(teacher.asked) == (0 if cut == len(whole) - 1 else 1), cut
        assert again.response(1, items[2]).tolist() == method.response(1, items[2]).tolist()
        assert files.teacher_responses.read_bytes() == whole
        assert progress in ([], [(3, 3)])


async def test_what_was_answered_before_a_failure_is_kept(prepared, monkeypatch):
    monkeypatch.setattr(offline_kd, "AT_ONCE", 2)
    items = make_items(5)
    with pytest.raises(ConnectionError):
        await prepared({"method": "offline_kd"}, items, Teacher(fails_after=3))
    teacher = Teacher()
    _, files, progress = await prepared({"method": "offline_kd"}, items, teacher)
    assert len(teacher.asked) == 3
    assert progress == [(4, 5), (5, 5)]
    assert len(files.teacher_responses.read_text(encoding="utf-8").splitlines()) == 5


@pytest.mark.parametrize(
    ("objective", "wanted", "names"),
    [
        ({}, 0, None),
        ({"kl_estimator": "top_k", "top_k": 5}, 5, "kl_estimator top_k"),
        ({"kl_estimator": "full"}, 261, "kl_estimator full"),
        ({"method": "gkd", "top_k": 64}, 64, "objective.top_k"),
        ({"method": "gkd", "top_k": 10_000}, 261, "objective.top_k"),
        ({"method": "sft"}, None, None),
        ({"method": "offline_kd"}, None, None),
    ],
)
async def test_a_method_asks_for_what_it_needs_and_the_teacher_must_give_it(prepared, objective, wanted, names):
    method, _, _ = await prepared(objective, make_items(1), Teacher(max_top_k=wanted or 0))
    assert method.teacher_top_k == wanted
    if names:
        with pytest.raises(
            UserError, match=rf"^{names} needs .* {wanted} .* gives {wanted - 1} at most: raise teacher"
        ):
            await prepared(objective, make_items(1), Teacher(max_top_k=wanted - 1))

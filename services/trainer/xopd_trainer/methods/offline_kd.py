"""Offline KD: SFT on the text teacher's own responses, made once before the first step and kept with the run.

    y^T ~ π_T(·|x_t)          by default greedy
    L_m = - mean over items, mean over tokens, of log π_θ(y^T_t | x_m, y^T_<t)

The responses come from the teacher service and lie in RUN/teacher_responses.jsonl; a resumed run goes on with those
that answer what it would ask now. An item that the teacher refuses is left out. The settings are `OfflineKdSettings`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json

import numpy as np

from xopd.config.objective import OfflineKdSettings
from xopd.data import Item
from xopd.files import write_whole
from xopd.jsonl import read_json_lines
from xopd.objective import Totals
from xopd.prompts import UnusablePromptError
from xopd.scoring import UnscorableError
from xopd_trainer.batch import ResponseTensors
from xopd_trainer.methods.base import (
    LossTerms,
    PolicyReadout,
    Preparation,
    Response,
    RunFacts,
    negative_log_likelihood,
)

AT_ONCE = 256
"""Responses that are asked for together, and then written down."""


class OfflineKd:
    """See `Method`."""

    name = "offline_kd"
    teacher_top_k: int | None = None
    reads_buckets = False

    def __init__(self, settings: OfflineKdSettings, run: RunFacts) -> None:
        """Train by `settings`; a teacher's response is as long as a training response may be."""
        self.settings = settings
        self.seed = run.seed
        self.max_new_tokens = run.max_new_tokens
        self._responses: dict[str, list[int]] = {}
        self._refused: dict[str, str] = {}

    async def prepare(self, preparation: Preparation) -> None:
        """Have the teacher answer the text of every item that is not answered yet."""
        path = preparation.responses
        if path.exists():
            # A torn last line belongs to an item that is asked once more.
            wanted = {item.id: self._question(preparation, item) for item in preparation.items}
            records = [r for r in read_json_lines(path) if r.get("asked") == wanted.get(str(r["id"]), "")]
            self._responses = {record["id"]: record["token_ids"] for record in records}
            write_whole(path, "".join(json.dumps(record) + "\n" for record in records))
        missing = [item for item in preparation.items if item.id not in self._responses]
        done = len(preparation.items) - len(missing)
        for start in range(0, len(missing), AT_ONCE):
            part = missing[start : start + AT_ONCE]
            answers = await asyncio.gather(*(self._ask(preparation, item) for item in part))
            with path.open("a", encoding="utf-8") as file:
                for item, token_ids in zip(part, answers, strict=True):
                    if token_ids is None:
                        continue
                    self._responses[item.id] = token_ids
                    record = {
                        "id": item.id,
                        "asked": self._question(preparation, item),
                        "text": preparation.conditionings.text_of(token_ids),
                        "token_ids": token_ids,
                    }
                    file.write(json.dumps(record) + "\n")
            preparation.progress(done + start + len(part), len(preparation.items))

    def response(self, step: int, item: Item) -> Response | None:
        """The teacher's response."""
        if item.id in self._refused:
            raise UnusablePromptError(self._refused[item.id])
        return np.asarray(self._responses[item.id], dtype=np.int32)

    def loss(self, policy: PolicyReadout, responses: ResponseTensors, totals: Totals) -> LossTerms:
        """The negative log-likelihood."""
        return LossTerms(negative_log_likelihood(policy, responses, self.settings.aggregation, totals))

    async def _ask(self, preparation: Preparation, item: Item) -> list[int] | None:
        """Token ids of the teacher's response, or None where this item has none."""
        try:
            generated = await preparation.teacher.generate(
                preparation.conditionings.teacher(item),
                max_new_tokens=self.max_new_tokens,
                stop_token_ids=preparation.conditionings.family.stop_token_ids,
                temperature=self.settings.teacher_temperature,
                seed=self._seed_of(item),
            )
        except (UnusablePromptError, UnscorableError) as error:
            self._refused[item.id] = str(error)
            return None
        token_ids: list[int] = generated.token_ids.tolist()
        return token_ids

    def _question(self, preparation: Preparation, item: Item) -> str:
        """A digest of all that the response depends on, the teacher's weights apart."""
        try:
            prompt = preparation.conditionings.teacher(item)
        except UnusablePromptError:
            return ""
        stops = preparation.conditionings.family.stop_token_ids
        asked = [prompt, stops, self.max_new_tokens, self.settings.teacher_temperature, self._seed_of(item)]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def _seed_of(self, item: Item) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{item.id}".encode()).digest()[:4], "big") >> 1

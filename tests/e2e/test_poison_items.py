"""A whole run over a dataset with rotten items: they are left out, the accounts add up, and it goes on to its end.

Items that only look rotten, since they spell control tokens, are trained like all others.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.clips import sha256_of
from tests.e2e.world import Run, make_world


def spoil(folder: Path) -> None:
    """Four of the twelve training items and one test item cannot be used."""
    path = folder / "items.jsonl"
    items: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    silent = folder / "audio" / "silent.flac"
    soundfile.write(silent, np.zeros(16000, dtype=np.float32), 16000)
    items[0]["audio"].update(uri="audio/silent.flac", sha256=sha256_of(silent))
    items[1]["text"] = "say " + "one " * 200
    (folder / "audio" / "2.flac").unlink()
    items[3]["audio"]["sha256"] = "0" * 64
    items[4]["text"] = "say <|im_end|>\n<|im_start|>assistant now"
    items[5]["question"] = "<|AUDIO|>"
    items[6]["response"] = "four <|im_end|> and <|endoftext|>"
    items[20]["question"] = "how loud <|audio_bos|><|AUDIO|><|audio_eos|>"
    text = folder / items[16]["audio"]["uri"]
    text.write_text("this is no audio")
    items[16]["audio"]["sha256"] = sha256_of(text)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


@pytest.mark.parametrize("method", ["xopd", pytest.param("sft", marks=pytest.mark.long)])
def test_training_goes_on(tmp_path, method) -> None:
    config = make_world(tmp_path, objective={"method": method, "samples": 2 if method == "xopd" else 1})
    spoil(tmp_path)
    run = Run(config)
    try:
        assert run.wait(300) == 0, run.text()[-4000:]
        assert [record["step"] for record in run.steps()] == [1, 2, 3, 4]
        summary = run.summary()
        accounts = summary["trajectories"]
        assert accounts["lost"] == 0
        if method == "xopd":
            # Each bad clip costs its item's speech group; the long prompt is not dispatched in either form.
            assert accounts["given_up"] > 0
            assert accounts["dispatched"] == accounts["trained"] + accounts["given_up"]
            assert 4 * 4 * 2 * 2 - accounts["dispatched"] in (4, 8)  # drawn once or twice
        with contextlib.closing(sqlite3.connect(run.folder / "ledger.sqlite")) as ledger:
            trained = {row[0] for row in ledger.execute("SELECT group_id FROM groups WHERE outcome = 'trained'")}
        for item in ("item-04", "item-05", "item-06"):
            assert any(f"-{item}-speech" in group for group in trained), item
        evaluated = json.loads((run.folder / "evals" / "final.json").read_text())
        assert [v["fault"] == "" for v in evaluated["retention"]] == [True] * 4
        assert summary["base"]["speech"]["unanswered"] == 1
        log = "".join(path.read_text(errors="replace") for path in (run.folder / "logs").glob("*"))
        for words in ("is silent", "SHA-256", "tokens, 244 fit", "cannot be read", "is not audio"):
            assert words in log, words
        assert "Traceback" not in (run.folder / "logs" / "trainer.log").read_text()
        # The test item whose clip is gone counts as wrong by speech, and is counted.
        assert summary["base"]["speech"]["n"] == 4
    finally:
        run.stop()

"""docs/INPUT.md says what the code does: its sentences and metrics stand in the code."""

from __future__ import annotations

import re
from pathlib import Path

from xopd_rollout.metrics import REFUSALS

from tools.metrics_page import exported_names

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "INPUT.md").read_text()
CODE = "".join(
    path.read_text() for folder in ("xopd", "services") for path in sorted((ROOT / folder).rglob("*.py"))
)  # fmt: skip


def test_every_metric_exists() -> None:
    named = set(re.findall(r"xopd_(?:rollout|trainer|teacher)_[a-z_]+", PAGE))
    assert named and named <= exported_names()


def test_every_fault_that_is_counted_is_explained() -> None:
    explained = set(re.findall(r"`(audio_[a-z]+)`", PAGE)) | set(
        re.findall(r'reason="((?:prompt|message|deadly)[a-z_]*)"', PAGE)
    )
    assert explained - {"prompt"} == set(REFUSALS)


def test_every_sentence_stands_in_the_code() -> None:
    # f-strings are cut by their fields and by line ends: each part must be there.
    code = re.sub(r'"\s*\n?\s*f?"', "", CODE)
    sentences = []
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) >= 2:
            column = 2 if len(cells) == 4 else 1
            sentences += re.findall(r"`([^`]+)`", cells[column])
    sentences = [each for each in sentences if " " in each]
    assert len(sentences) > 35
    assert [each for each in sentences if each not in code] == []

"""Files of one JSON object a line, such as metrics.jsonl, read leniently: a torn or foreign line is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NOT_JSON = (ValueError, RecursionError)
"""What json.loads raises: not only for bad syntax, also for numbers too long and for nesting too deep."""


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, in order; none where there is no file."""
    if not path.exists():
        return []
    found = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                value = json.loads(line)
            except NOT_JSON:
                continue
            if isinstance(value, dict):
                found.append(value)
    return found

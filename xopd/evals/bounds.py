"""The file that evals.bounds names: accuracies that a run is shown beside, such as the information ceiling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xopd.errors import UserError
from xopd.files import read_text
from xopd.jsonl import NOT_JSON, loads_strict

CEILING = "information_ceiling"


def read_bounds(path: str) -> dict[str, Any]:
    """What the file holds: names to figures.

    Raises:
        UserError: if it cannot be read, or its ceiling is no accuracy.
    """
    try:
        bounds = loads_strict(read_text(Path(path)))
    except OSError as error:
        raise UserError(
            f"evals.bounds {path}: cannot be read ({error.strerror or error}); correct or remove the setting."
        ) from None
    except NOT_JSON as error:
        raise UserError(f"evals.bounds {path}: cannot be read: {error}; correct or remove it.") from None
    if not isinstance(bounds, dict):
        raise UserError(f'evals.bounds {path}: must hold a JSON object, such as {{"{CEILING}": …}}; correct it.')
    if CEILING in bounds:
        ceiling = bounds[CEILING]
        accuracy = ceiling.get("accuracy") if isinstance(ceiling, dict) else None
        if isinstance(accuracy, bool) or not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1:
            raise UserError(f"evals.bounds {path}: `{CEILING}.accuracy` must be a number in [0, 1]; correct it.")
    return bounds

"""A rollout pod whose engine fails or hangs while it loads weights, as long as a file says so.

`python -m tests.integration.faulty_pod FILE --config …`: FILE holds `fail` or `hang`, or is missing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

WORDS = "CUDA out of memory. Tried to allocate 2.00 GiB"


def spoil(fault: Path) -> None:
    """Have the engine's process, which is forked off this one, do what `fault` says in the midst of an update."""
    from xopd_rollout import weight_transfer

    load = weight_transfer.initialize_layerwise_reload

    def _load(*args: Any) -> None:
        said = fault.read_text() if fault.exists() else ""
        if said == "fail":
            raise RuntimeError(WORDS)
        if said == "hang":
            time.sleep(3600)
        load(*args)

    weight_transfer.initialize_layerwise_reload = _load


if __name__ == "__main__":
    from xopd_rollout.environment import set_environment

    from xopd.config.schema import RolloutSettings

    set_environment(RolloutSettings())
    spoil(Path(sys.argv.pop(1)))
    from xopd_rollout.__main__ import app

    app()

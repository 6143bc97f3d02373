"""Export the policy as a checkpoint in the hub's own layout: loads in plain transformers and in vLLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from torch import nn

from xopd.families import ModelFamily
from xopd.families.tensors import hub_state
from xopd.weights.base import TensorsInMemory
from xopd.weights.safetensors_file import write_safetensors

WEIGHTS = "model.safetensors"


def export_policy(family: ModelFamily, policy: nn.Module, folder: Path) -> Path:
    """Write config, tokenizer and processor files as they were, and all tensors under the hub's names.

    Returns:
        The folder.
    """
    partial = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in Path(family.path).iterdir():
        # The base's weight files and its index do not describe these weights; its card does not either.
        if path.is_file() and path.suffix not in (".safetensors", ".bin", ".pt") and not _is_index(path):
            shutil.copy2(path, partial / path.name)
    (partial / "README.md").write_text(
        f"# Trained with X-OPD\n\nBase: `{json.dumps(family.path)[1:-1]}`. See `summary.json` of the run.\n",
        encoding="utf-8",
    )
    with (partial / WEIGHTS).open("wb") as file:
        tensors = TensorsInMemory(dict(sorted(hub_state(family, policy).items())))
        write_safetensors(file, tensors, {"format": "pt"})
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def _is_index(path: Path) -> bool:
    return path.name.endswith(".index.json")

"""Items of a manifest: one instruction as text x_t and as speech x_s, and how an answer is judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from xopd.errors import UserError


class AudioFile(BaseModel):
    """A clip by reference."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: str = Field(min_length=1)
    """fsspec URI or path; relative ones start at the manifest's folder."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Hash of the file's bytes."""
    seconds: Annotated[float, Field(gt=0)]
    sample_rate: Annotated[int, Field(gt=0)]


class Item(BaseModel):
    """One instruction in both forms."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    kind: Literal["task", "retention"] = "task"
    """`retention` items ask what only hearing can tell; they are evaluated, never trained on."""
    family: str
    split: str
    text: str | None
    """x_t. None for retention items: a text model cannot know the answer."""
    audio: AudioFile
    """x_s."""
    question: str = ""
    """Text that goes beside the audio."""
    answer: str
    """What the words after the last `answer` of a response must be."""
    response: str = ""
    """A reference response, for supervised baselines."""
    targets: dict[str, str] = Field(default_factory=dict)
    """Further reference responses by the name of their style, such as `foreign`: targets of supervised baselines."""
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _tasks_have_text(self) -> Item:
        if self.kind == "task" and not self.text:
            raise ValueError("a task needs `text`: the teacher reads it")
        return self


def load_items(manifest: str | Path) -> list[Item]:
    """Read a manifest; audio URIs come back absolute.

    Raises:
        UserError: naming the file, line, field and item id of the first mistake.
    """
    path = Path(manifest)
    items: list[Item] = []
    first_line: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        try:
            raw = json.loads(line)
            item = Item.model_validate(raw)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: is not JSON ({error.msg}); write one item a line.") from None
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "item"
            name = raw.get("id", "without id") if isinstance(raw, dict) else "without id"
            raise UserError(f"{where}: item {name}: `{field}`: {first['msg']}; correct the line.") from None
        if item.id in first_line:
            raise UserError(f"{where}: item {item.id} stands already on line {first_line[item.id]}; remove one.")
        first_line[item.id] = number
        items.append(item.model_copy(update={"audio": _absolute(item.audio, path.parent)}))
    if not items:
        raise UserError(f"{path}: holds no items; build the dataset first.")
    return items


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such manifest; correct `data.manifest` or build the dataset.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); correct `data.manifest`.") from None


def _absolute(audio: AudioFile, base: Path) -> AudioFile:
    if "://" in audio.uri or Path(audio.uri).is_absolute():
        return audio
    return audio.model_copy(update={"uri": str((base / audio.uri).resolve())})

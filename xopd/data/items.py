"""Items of a manifest: one instruction as text x_t and as speech x_s, and how an answer is judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from xopd.config.section import first_message
from xopd.data.places import PlaceError, Places, is_local
from xopd.errors import UserError
from xopd.files import MARK, EncodingError, decoded, refuse_other_encodings
from xopd.jsonl import RepeatedKeyError, loads_strict
from xopd.wire.limits import MAX_ITEM_ID_CHARACTERS, MAX_URI_CHARACTERS

MAX_LINE = 2**20
"""Longest line of a manifest (characters)."""


class AudioFile(BaseModel):
    """A clip by reference."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: str = Field(min_length=1, max_length=MAX_URI_CHARACTERS)
    """fsspec URI or path; relative ones start at the manifest's folder."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Hash of the file's bytes."""
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    sample_rate: Annotated[int, Field(gt=0)]

    @field_validator("seconds", "sample_rate", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("must be a number")
        return value


class Item(BaseModel):
    """One instruction in both forms."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1, max_length=MAX_ITEM_ID_CHARACTERS)
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
    """The expected answer; `evals.grader` says how a response is held against it."""
    response: str = ""
    """A reference response, for supervised baselines."""
    targets: dict[str, str] = Field(default_factory=dict)
    """Further reference responses by the name of their style, such as `foreign`: targets of supervised baselines."""
    meta: dict[str, Any] = Field(default_factory=dict)

    @field_validator("id")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("holds a control character")
        return value

    @model_validator(mode="after")
    def _tasks_have_text(self) -> Item:
        if self.kind == "task" and not self.text:
            raise ValueError("a task needs `text`: the teacher reads it")
        return self


def load_items(manifest: str | Path, places: Places | None = None) -> list[Item]:
    """Read a manifest; audio URIs come back absolute.

    Args:
        manifest: an items.jsonl.
        places: where clips may lie; by default below the manifest's folder.

    Raises:
        UserError: naming the file, line, field and item id of the first mistake.
    """
    path = Path(manifest)
    places = places or Places.below([str(path.parent.resolve())])
    items: list[Item] = []
    first_line: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        item = _parse(line, where)
        if item.id in first_line:
            raise UserError(f"{where}: item {item.id} stands already on line {first_line[item.id]}; remove one.")
        first_line[item.id] = number
        uri = item.audio.uri if _is_absolute(item.audio.uri) else str(path.parent.resolve() / item.audio.uri)
        try:
            found = places.check(uri)
        except PlaceError as error:
            raise UserError(
                f"{where}: item {item.id}: `audio.uri` {item.audio.uri!r}: {error}; move the clip, or name its folder"
                " in data.audio_roots."
            ) from None
        items.append(item.model_copy(update={"audio": item.audio.model_copy(update={"uri": found})}))
    if not items:
        raise UserError(f"{path}: holds no items; build the dataset first.")
    return items


def _parse(line: str, where: str) -> Item:
    try:
        raw = loads_strict(line)
        # Half of a surrogate pair is JSON, and no text: it could not be sent or shown.
        json.dumps(raw, ensure_ascii=False).encode()
    except RepeatedKeyError as error:
        name, key = _shown(_id_of(error.value)), _shown(error.key)
        raise UserError(f"{where}: item {name}: `{key}` stands twice; remove one of the two.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: is not JSON ({error.msg}); write one item a line.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not JSON that can be used ({error}); write one item a line.") from None
    try:
        return Item.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "item"
        name, field = _shown(_id_of(raw)), _shown(field)
        raise UserError(f"{where}: item {name}: `{field}`: {first_message(error)}; correct the line.") from None


def _id_of(raw: Any) -> str:
    return str(raw.get("id", "without id") if isinstance(raw, dict) else "without id")


def _shown(text: str) -> str:
    """The line's own words, in one line and not at any length."""
    return "".join(c if c.isprintable() else "?" for c in text[:80])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with path.open("rb") as file:
            refuse_other_encodings(file.peek(MARK)[:MARK])
            # A character has at most four bytes; an ordinary line is read whole.
            while data := file.readline(4 * MAX_LINE + 1):
                number += 1
                line = decoded(data)
                if len(line) > MAX_LINE:
                    raise UserError(f"{path}:{number}: has more than {MAX_LINE:,} characters; write one item a line.")
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such manifest; correct `data.manifest` or build the dataset.") from None
    except EncodingError as error:
        raise UserError(f"{path}{f':{number}' if number else ''}: cannot be read: {error}.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); correct `data.manifest`.") from None


def _is_absolute(uri: str) -> bool:
    return not is_local(uri) or uri.startswith(("/", "file://"))

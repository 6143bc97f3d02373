"""YAML by the core rules of version 1.2: one document whose keys are words, each there once.

PyYAML reads version 1.1, in which 0100 is 64, 1:30 is 90, `no` is false and 2024-01-01 is a date. Here 0100 is 100,
0o14 and 0x1F are 12 and 31, and the rest is text; so is 1_000. Merge keys (`<<: *anchor`), which 1.2 leaves out, work.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from xopd.errors import UserError
from xopd.files import MARK, decoded, refuse_other_encodings

FieldPath = tuple[str, ...]
"""Names from the top down to a value; a list's elements count as "0", "1" and so on."""

MAX_CHARACTERS = 1_000_000
"""Length of a document."""
MAX_BYTES = 4 * MAX_CHARACTERS
"""Length of a file."""
MAX_DEPTH = 50
"""Mappings and lists within each other."""
MAX_VALUES = 100_000
"""Values of a document, those counted again that an alias repeats."""

_TAG = "tag:yaml.org,2002:"
_NULL, _BOOL, _INT, _FLOAT, _STR = (_TAG + name for name in ("null", "bool", "int", "float", "str"))
_MERGE, _MAP, _LIST = (_TAG + name for name in ("merge", "map", "seq"))
_INTEGER = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
_NUMBER = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
_CORE = [
    (_NULL, re.compile(r"(?:~|null|Null|NULL|)\Z")),
    (_BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    (_INT, _INTEGER),
    (_FLOAT, _NUMBER),
]


class YamlError(Exception):
    """A document that is not taken: `problem` goes on from a place's name and is not yet a whole sentence."""

    def __init__(self, problem: str, line: int | None) -> None:
        """`line` counts from 1; None where no line is to blame."""
        super().__init__(problem)
        self.problem = problem
        self.line = line


@dataclass(frozen=True)
class Document:
    """What was read."""

    value: Any
    """Dicts, lists, text, numbers, booleans and None."""
    lines: dict[FieldPath, int] = field(default_factory=dict)
    """The line, from 1, on which each key and each element of a list begins."""
    rest: str = ""
    """What follows the value: a comment, or nothing."""


def read_yaml(text: str, is_text: Callable[[FieldPath], bool] = lambda path: False) -> Document:
    """Read one document; an empty one holds None.

    Args:
        text: the document.
        is_text: whether text belongs at a path: a number or a truth value there is then taken as it was written.

    Raises:
        YamlError: for what is not YAML, and for a key that is not text or stands twice, a list or mapping that holds
            itself, a value of another kind than 1.2's core has, and a document beyond the limits above.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlError(f"has more than {MAX_CHARACTERS:,} characters; give less", None)
    try:
        node = _Loader(text).get_single_node()
    except yaml.reader.ReaderError as error:
        # For text, the position is that of the character.
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f"holds the control character U+{error.character:04X}; remove it", line) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(
            f"is not valid YAML ({problem}); correct or quote it", mark.line + 1 if mark else None
        ) from None
    except (ValueError, OverflowError) as error:
        # An escape such as \UFFFFFFFF, which names no character.
        raise YamlError(f"is not valid YAML ({error}); correct or quote it", None) from None
    if node is None:
        return Document(None, {}, text.strip())
    reader = _Reader(is_text)
    value = reader.value(node, ())
    return Document(value, reader.lines, text[node.end_mark.index :].strip())


def read_yaml_file(path: Path, what: str, is_text: Callable[[FieldPath], bool] = lambda path: False) -> Document:
    """Read a file that a user wrote.

    Args:
        path: the file, UTF-8.
        what: what it should be, for the sentence, such as `configuration file`.
        is_text: as in `read_yaml`.

    Raises:
        UserError: naming file and line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UserError(f"{path}: has more than {MAX_BYTES:,} bytes; give less.")
        refuse_other_encodings(data[:MARK])
        text = decoded(data).replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such {what}; give the path of a YAML file.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the path of a YAML file.") from None
    try:
        return read_yaml(text, is_text)
    except YamlError as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise UserError(f"{where}: {error.problem}.") from None


def write_yaml(tree: Any) -> str:
    """`tree` as YAML that is read back alike by the rules of 1.1 and of 1.2, order kept."""
    return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False))


def number_in(text: str) -> int | float | None:
    """The number that `text` is by the same rules, white space around it left out; None if it is none.

    Raises:
        ValueError: if it has more digits than can be converted.
    """
    text = text.strip(" \t\r\n")
    if _INTEGER.match(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(re.sub(r"\.(?=[in])", "", text.lower())) if _NUMBER.match(text) else None


def in_one_line(text: object, longest: int = 80) -> str:
    """`text` for a sentence: nothing in it but what can be printed, and not for ever."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"


class _Loader(yaml.SafeLoader):
    """Composes nodes with 1.2's kinds of scalars; `_Reader` makes values of them."""

    yaml_implicit_resolvers = {None: [(_MERGE, re.compile(r"<<\Z")), *_CORE]}  # noqa: RUF012 - as PyYAML declares it
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _too_deep(mark.line + 1)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version would take for something else."""

    yaml_implicit_resolvers = {**yaml.SafeDumper.yaml_implicit_resolvers, None: _CORE}  # noqa: RUF012


class _Reader:
    """From nodes to values, with the line of each key."""

    def __init__(self, is_text: Callable[[FieldPath], bool]) -> None:
        self.lines: dict[FieldPath, int] = {}
        self._is_text = is_text
        self._open: set[int] = set()
        self._values = 0

    def value(self, node: yaml.Node, here: FieldPath) -> Any:
        line = node.start_mark.line + 1
        self._values += 1
        if self._values > MAX_VALUES:
            raise YamlError(f"holds more than {MAX_VALUES:,} values, aliases counted; write less", line)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, here, line)
        if id(node) in self._open:
            raise YamlError("holds a list or mapping that contains itself; remove the alias", line)
        if len(self._open) >= MAX_DEPTH:
            raise _too_deep(line)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
                return self._mapping(node, here)
            if isinstance(node, yaml.SequenceNode) and node.tag == _LIST:
                return self._list(node, here)
        finally:
            self._open.discard(id(node))
        raise YamlError(f"holds the tag {in_one_line(node.tag)}; leave it out", line)

    def _list(self, node: yaml.SequenceNode, here: FieldPath) -> list[Any]:
        elements = [(each, (*here, str(number))) for number, each in enumerate(node.value)]
        for each, path in elements:
            self.lines[path] = each.start_mark.line + 1
        return [self.value(each, path) for each, path in elements]

    def _mapping(self, node: yaml.MappingNode, here: FieldPath) -> dict[str, Any]:
        began: dict[str, int] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = self._key(key_node)
            if key in began:
                twice = "twice" if began[key] == line else f"here and on line {began[key]}"
                name = in_one_line(".".join((*here, key)))
                raise YamlError(f"`{name}` stands {twice}; remove one of them", line)
            began[key] = line
            if key_node.tag == _MERGE:
                merged = self._merged(value_node, here, line)
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag != _MERGE:
                key, line = self._key(key_node)
                self.lines[(*here, key)] = line
                own[key] = self.value(value_node, (*here, key))
        return {**merged, **own}

    def _merged(self, node: yaml.Node, here: FieldPath, line: int) -> dict[str, Any]:
        several = isinstance(node, yaml.SequenceNode)
        found = [self.value(each, here) for each in (node.value if several else [node])]
        if not all(isinstance(each, dict) for each in found):
            raise YamlError("`<<` merges mappings only; give it an alias of one, or a list of such", line)
        # Of several, the earlier wins.
        return {key: value for each in reversed(found) for key, value in each.items()}

    def _key(self, node: yaml.Node) -> tuple[str, int]:
        line = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode) and node.tag in (_STR, _MERGE):
            return str(node.value), line
        given = f"`{in_one_line(node.value)}`" if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        raise YamlError(f"has {given} for a key; keys are words, quoted where they look like something else", line)

    def _scalar(self, node: yaml.ScalarNode, here: FieldPath, line: int) -> Any:
        text = str(node.value)
        if node.tag in (_STR, _MERGE) or (node.tag in (_BOOL, _INT, _FLOAT) and self._is_text(here)):
            return text
        try:
            # A tag written by hand may stand in front of anything.
            if node.tag == _NULL and _CORE[0][1].match(text):
                return None
            if node.tag == _BOOL and _CORE[1][1].match(text):
                return text.lower() == "true"
            number = number_in(text) if node.tag in (_INT, _FLOAT) else None
        except ValueError:
            raise YamlError(f"holds a number of {len(text):,} digits; write it shorter", line) from None
        if number is None or (node.tag == _INT and isinstance(number, float)):
            raise YamlError(f"holds the tag {in_one_line(node.tag)}; leave it out", line)
        return float(number) if node.tag == _FLOAT else number


def _too_deep(line: int) -> YamlError:
    return YamlError(f"is nested more than {MAX_DEPTH} deep; write it flatter", line)

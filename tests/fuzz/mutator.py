"""Changes to a message's fields: almost every change of its bytes would only make it unreadable.

The parser is compiled, so a fuzzer that sees Python alone gets no hint of how near to a message its bytes are.
"""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

SIGNED = (-(2**31), -1, 0, 1, 2, 3, 99, 100, 255, 2**17 + 1, 2**31 - 1)
WIDE = (*SIGNED, -(2**63), -(2**31) - 1, 2**40, 2**63 - 1)
UNSIGNED = (0, 1, 2, 2**32 - 1)
FLOATS = (0.0, -0.0, -0.5, 1.0, -1.0, 1e-4, 1e30, -1e30, -1e38, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "a", "\n", "\0", "x" * 513, "../../etc/passwd", "file:///a", "http://a/b::c", "0" * 64, "\N{SNOWMAN}" * 3)
LONGEST_REPEAT = 300
"""Above the largest number of trajectories."""


def mutate(message: Message, rng: random.Random) -> None:
    """Change one field, here or in a message within, in place."""
    field = rng.choice(message.DESCRIPTOR.fields)
    if field.is_repeated:
        _mutate_repeated(message, field, rng)
    elif field.message_type is not None:
        if message.HasField(field.name) and rng.random() < 0.2:
            message.ClearField(field.name)
        else:
            inner = getattr(message, field.name)
            inner.SetInParent()
            mutate(inner, rng)
    else:
        setattr(message, field.name, _value(field, rng))


def _mutate_repeated(message: Message, field: FieldDescriptor, rng: random.Random) -> None:
    values: Any = getattr(message, field.name)
    how = rng.choice(("change", "change", "add", "remove", "repeat", "clear"))
    if how == "clear":
        message.ClearField(field.name)
    elif how == "remove" and values:
        del values[rng.randrange(len(values))]
    elif how == "repeat" and 0 < len(values) <= LONGEST_REPEAT:
        values.extend(list(values))
    elif how == "change" and values:
        at = rng.randrange(len(values))
        if field.message_type is not None:
            mutate(values[at], rng)
        else:
            values[at] = _value(field, rng)
    elif field.message_type is not None:
        mutate(values.add(), rng)
    else:
        values.append(_value(field, rng))


def _value(field: FieldDescriptor, rng: random.Random) -> Any:
    kind = field.cpp_type
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = rng.choice(TEXTS)
        return text if field.type == FieldDescriptor.TYPE_STRING else text.encode()
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice((0, 1, 2, 3, 77))
    if kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        return rng.choice(UNSIGNED)
    return rng.choice(SIGNED if kind == FieldDescriptor.CPPTYPE_INT32 else WIDE)

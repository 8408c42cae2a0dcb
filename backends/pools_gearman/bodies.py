"""A body: what stands in an envelope, cut into parts.

    kind, uint8 | number of parts, uint32 | length of each, uint64 | the parts

What the parts of each kind are stands in ``wire``.
"""

from __future__ import annotations

import enum
import itertools
import json
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

from pools_core.calls import Carried, type_buffer, type_part
from pools_gearman.signing import RefusedFrameError, Why

__all__ = ["Body", "Kind", "decode_json", "encode_json", "join", "plain", "split"]

_HEAD: Final = struct.Struct("<BI")
_HEADS: Final = tuple(struct.Struct(f"<BI{count}Q") for count in range(8))
"""Heads with the lengths, of bodies of so many parts: nearly all have no more."""

MOST_PARTS: Final = 1 << 20
"""Parts of one body at the most."""

SMALL: Final = 1 << 16
"""Bytes of a body below which its parts are joined."""


class Kind(enum.IntEnum):
    """What a body is."""

    RUN = 1
    CONTROL = 2
    EVENT = 3
    NEED = 4
    ANSWER = 5
    PROVIDE = 6


_KINDS: Final = {int(kind): kind for kind in Kind}


class Body(NamedTuple):
    """A body, cut into its parts."""

    kind: Kind
    parts: list[type_buffer]


def plain(parts: Sequence[type_part]) -> list[type_buffer]:
    """Return parts of which none was put elsewhere: this engine holds nothing."""
    assert not any(map(isinstance, parts, itertools.repeat(Carried)))
    return cast("list[type_buffer]", list(parts))


def join(kind: Kind, parts: Sequence[type_part]) -> list[type_buffer]:
    """Return the buffers of a body; small parts are joined, large ones are left as they are."""
    count = len(parts)
    sizes = [len(part) for part in parts if type(part) is bytes]
    if count == len(sizes) < len(_HEADS) and sum(sizes) < SMALL:
        whole: Any = parts
        return [b"".join((_HEADS[count].pack(kind, count, *sizes), *whole))]
    parts = plain(parts)
    sizes = [part.nbytes if isinstance(part, memoryview) else len(part) for part in parts]
    head = _HEAD.pack(kind, count) + struct.pack(f"<{count}Q", *sizes)
    if sum(sizes) < SMALL:
        return [b"".join([head, *parts])]
    return [head, *parts]


def split(body: type_buffer) -> Body:
    """Cut a body into its parts, each of its kind.

    Raises:
        RefusedFrameError: it is not one.
    """
    try:
        number, count = _HEAD.unpack_from(body)
        kind = _KINDS[number]
        if count > MOST_PARTS:
            raise ValueError
        sizes = struct.unpack_from(f"<{count}Q", body, _HEAD.size)
    except (struct.error, KeyError, ValueError):
        raise RefusedFrameError(Why.MALFORMED) from None
    position = _HEAD.size + 8 * count
    if position + sum(sizes) != len(body):
        raise RefusedFrameError(Why.MALFORMED)
    parts: list[type_buffer] = []
    for size in sizes:
        parts.append(body[position : position + size])
        position += size
    return Body(kind, parts)


def encode_json(kind: Kind, value: Any) -> list[type_buffer]:
    """Return a body of JSON."""
    return join(kind, [json.dumps(value).encode()])


def decode_json(body: Body) -> Any:
    """Return the value in a body of JSON.

    Raises:
        RefusedFrameError: it makes no sense.
    """
    try:
        return json.loads(bytes(body.parts[0]))
    except (IndexError, ValueError, RecursionError):
        raise RefusedFrameError(Why.MALFORMED) from None

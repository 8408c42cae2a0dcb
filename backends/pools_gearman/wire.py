"""What stands in an envelope's body, and what names are called on the job servers.

    body: kind, uint8 | number of parts, uint32 | length of each, uint64 | the parts

    to a node      RUN      the call's digest, the call itself if the node may lack it, the chunk
                   CONTROL  a small request, JSON
    to a client    EVENT    what became of (a part of) a chunk: a frame of ``pools_core.frames``
                   NEED     the node lacks the call; send the chunk again with it
                   ANSWER   to a CONTROL, JSON

A node that refuses a frame says so with ``refusal``, outside of any envelope: it may not have the key.
Nothing here opens what belongs to the user.
"""

from __future__ import annotations

import enum
import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from pools_core import frames
from pools_core.calls import (
    Call,
    Carried,
    Chunk,
    Outcomes,
    Refused,
    Returned,
    SetupFailed,
    type_buffer,
    type_part,
)
from pools_core.frames import (
    Relayed,
    decode_call,
    decode_chunk,
    decode_relayed,
    encode_call,
    encode_chunk,
    encode_relayed,
)
from pools_core.protocol import ChunkLost
from pools_gearman.signing import RefusedFrameError, Why

__all__ = [
    "OF_A_CHUNK",
    "Body",
    "ChunkEvent",
    "Kind",
    "Names",
    "NodeId",
    "PackedCall",
    "RunJob",
    "decode_run",
    "encode_event_body",
    "encode_json",
    "encode_run",
    "refusal",
    "split",
]


ChunkEvent = Outcomes | Refused | Returned | SetupFailed | ChunkLost
OF_A_CHUNK: Final = (Outcomes, Refused, Returned, SetupFailed, ChunkLost)
"""What is said of a chunk; all but ``Outcomes`` end it."""


class Kind(enum.IntEnum):
    """What a body is."""

    RUN = 1
    CONTROL = 2
    EVENT = 3
    NEED = 4
    ANSWER = 5


@dataclass(frozen=True, slots=True)
class Body:
    """A body, cut into its parts."""

    kind: Kind
    parts: list[memoryview]


_HEAD: Final = struct.Struct("<BI")
_EVENT: Final = struct.Struct("<QB")
_REFUSAL: Final = b"POOL-REFUSED "
MOST_PARTS: Final = 1 << 20


def plain(parts: Sequence[type_part]) -> list[type_buffer]:
    """Return parts of which none was put elsewhere: this engine holds nothing."""
    assert not any(isinstance(part, Carried) for part in parts)
    return cast("list[type_buffer]", list(parts))


def join(kind: Kind, parts: Sequence[type_part]) -> list[type_buffer]:
    """Return the buffers of a body; small parts are joined, large ones are left as they are."""
    parts = plain(parts)
    sizes = [len(part) if type(part) is bytes else memoryview(part).nbytes for part in parts]
    head = _HEAD.pack(kind, len(parts)) + struct.pack(f"<{len(sizes)}Q", *sizes)
    if sum(sizes) < 1 << 16:
        return [b"".join([head, *parts])]
    return [head, *parts]


def split(body: memoryview) -> Body:
    """Cut a body into its parts.

    Raises:
        RefusedFrameError: it is not one.
    """
    try:
        number, count = _HEAD.unpack_from(body)
        kind = Kind(number)
        if count > MOST_PARTS:
            raise ValueError
        sizes = struct.unpack_from(f"<{count}Q", body, _HEAD.size)
    except (struct.error, ValueError):
        raise RefusedFrameError(Why.MALFORMED) from None
    position = _HEAD.size + 8 * count
    if position + sum(sizes) != body.nbytes:
        raise RefusedFrameError(Why.MALFORMED)
    parts = []
    for size in sizes:
        parts.append(body[position : position + size])
        position += size
    return Body(kind, parts)


# ── jobs ──


@dataclass(frozen=True, slots=True)
class PackedCall:
    """A call as it travels.

    Attributes:
        parts: the frame of ``pools_core.frames``.
        digest: by which nodes know it.
        nbytes: size of all of it.
    """

    parts: tuple[type_buffer, ...]
    digest: bytes
    nbytes: int

    @classmethod
    def of(cls, call: Call) -> PackedCall:
        """Pack a call."""
        parts = tuple(plain(encode_call(call)))
        digest = hashlib.sha256()
        for part in parts:
            digest.update(struct.pack("<Q", memoryview(part).nbytes))
            digest.update(part)
        return cls(parts, digest.digest(), sum(memoryview(part).nbytes for part in parts))


@dataclass(frozen=True, slots=True)
class RunJob:
    """A job as it arrives at a node.

    Attributes:
        digest: of its call.
        call: the call's parts; empty if it was not sent along.
        chunk: the chunk's parts.
    """

    digest: bytes
    call: list[memoryview]
    chunk: list[memoryview]

    def open_call(self) -> Call:
        """Return the call, its function still packed."""
        return decode_call(self.call, {})

    def open_chunk(self, sent: Call) -> Chunk:
        """Return the chunk, its items still packed.

        Args:
            sent: its call, as it was sent.
        """
        return decode_chunk(self.chunk, {sent.id: sent})[0]


def encode_run(chunk: Chunk, call: PackedCall, *, with_call: bool) -> list[type_buffer]:
    """Return the body of a job."""
    sent = call.parts if with_call else ()
    return join(Kind.RUN, [call.digest + struct.pack("<I", len(sent)), *sent, *encode_chunk(chunk)])


def decode_run(body: Body) -> RunJob:
    """Return the job in a body of kind RUN.

    Raises:
        RefusedFrameError: it makes no sense.
    """
    try:
        first = bytes(body.parts[0])
        (count,) = struct.unpack("<I", first[32:])
    except (IndexError, struct.error):
        raise RefusedFrameError(Why.MALFORMED) from None
    if len(body.parts) < count + 3:
        raise RefusedFrameError(Why.MALFORMED)
    return RunJob(first[:32], body.parts[1 : count + 1], body.parts[count + 1 :])


# ── answers ──


def encode_event_body(run: int, event: Relayed) -> list[type_buffer]:
    """Return the body that says what became of a chunk.

    Args:
        run: a number for this execution of the job: a server may give a job out a second time.
        event: what to say.
    """
    kind, parts = encode_relayed(event)
    return join(Kind.EVENT, [_EVENT.pack(run, kind), *parts])


def decode_event_body(body: Body) -> tuple[int, Relayed]:
    """Return the run's number and what became of the chunk.

    Raises:
        RefusedFrameError: it makes no sense.
    """
    try:
        run, kind = _EVENT.unpack(body.parts[0])
        return run, decode_relayed(frames.Kind(kind), body.parts[1:])
    except (IndexError, struct.error, ValueError, TypeError, EOFError):
        raise RefusedFrameError(Why.MALFORMED) from None


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


def refusal(why: Why) -> bytes:
    """Return what a node answers to a frame that it does not open."""
    return _REFUSAL + why.name.encode()


def read_refusal(data: type_buffer) -> Why | None:
    """Return why a node refused a frame; None if this is another answer."""
    text = bytes(memoryview(data)[:64])
    if not text.startswith(_REFUSAL):
        return None
    try:
        return Why[text.removeprefix(_REFUSAL).decode()]
    except (KeyError, UnicodeDecodeError):
        return Why.MALFORMED


# ── names ──


@dataclass(frozen=True, slots=True)
class NodeId:
    """How a node names itself to a job server, so that ``workers`` tells who is there.

    Attributes:
        name: the node's name.
        token: random; another process of the same name has another.
        slots: how many tasks it can run at once; 0 when it takes no more.
    """

    name: str
    token: str
    slots: int


class Names:
    """What functions and connections of one namespace are called.

    Args:
        namespace: the cluster's name.
    """

    def __init__(self, namespace: str) -> None:
        self._prefix = f"pools/{namespace}/"
        self.run: Final = f"{self._prefix}run".encode()
        """The function that every node has: run a chunk."""

    def control(self, node: str) -> bytes:
        """Return the name of a node's own function."""
        return f"{self._prefix}control/{node}".encode()

    def node_connection(self, node: NodeId) -> bytes:
        """Return the id of a node's connection."""
        return f"{self._prefix}node/{node.name}/{node.token}/{node.slots}".encode()

    def client_connection(self, client: str) -> bytes:
        """Return the id of a client's connection."""
        return f"{self._prefix}client/{client}".encode()

    def clients(self, lines: Sequence[str]) -> set[str]:
        """Return which clients are connected, from an answer to ``workers``."""
        mark = f"{self._prefix}client/"
        return {name.removeprefix(mark) for name in _ids(lines) if name.startswith(mark)}

    def nodes(self, lines: Sequence[str]) -> dict[str, NodeId]:
        """Return which nodes are connected, by token, from an answer to ``workers``."""
        mark = f"{self._prefix}node/"
        found = {}
        for name in _ids(lines):
            parts = name.removeprefix(mark).split("/")
            if name.startswith(mark) and len(parts) == 3 and parts[2].isdigit():
                found[parts[1]] = NodeId(parts[0], parts[1], min(int(parts[2]), 1 << 20))
        return found


def _ids(lines: Sequence[str]) -> list[str]:
    """Return the connection ids in an answer to ``workers``: ``FD IP ID : FUNCTION...``."""
    return [words[2] for words in map(str.split, lines) if len(words) > 3 and words[3] == ":"]

"""What stands in an envelope's body, and what names are called on the job servers.

    body: kind, uint8 | number of parts, uint32 | length of each, uint64 | the parts

    to a node      RUN      the call's digest, the call itself if it is small, likewise its session, the chunk
                   PROVIDE  what a node has said that it lacks: a call, a session, a shared object
                   CONTROL  a small request, JSON
    to a client    EVENT    what became of a chunk, in parts, or of a session: a frame of the core
                   NEED     what the node lacks; nothing has run
                   ANSWER   to a CONTROL or a PROVIDE, JSON

A node that refuses a frame says so with ``refusal``, outside of any envelope: it may not have the key.
Nothing here opens what belongs to the user.
"""

from __future__ import annotations

import enum
import hashlib
import json
import marshal
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from pools_core import frames
from pools_core.calls import (
    Call,
    Carried,
    Chunk,
    Outcomes,
    Refused,
    Returned,
    Session,
    SetupFailed,
    type_buffer,
    type_part,
)
from pools_core.frames import (
    Relayed,
    decode_call,
    decode_chunk,
    decode_relayed,
    decode_session,
    encode_call,
    encode_chunk,
    encode_relayed,
    encode_session,
)
from pools_core.protocol import ChunkLost
from pools_core.shared import SharedObject
from pools_gearman.signing import RefusedFrameError, Why

__all__ = [
    "NOTHING",
    "OF_A_CHUNK",
    "Body",
    "ChunkEvent",
    "Kind",
    "Lacking",
    "Names",
    "NodeId",
    "PackedCall",
    "PackedSession",
    "PackedShared",
    "RunJob",
    "decode_need",
    "decode_run",
    "encode_event_body",
    "encode_json",
    "encode_need",
    "encode_provide",
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
    PROVIDE = 6


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
    """A call as it travels, with what its caller's process logs.

    Attributes:
        parts: the levels, then the frame of ``pools_core.frames``.
        digest: by which nodes know it.
        nbytes: size of all of it.
    """

    parts: tuple[type_buffer, ...]
    digest: bytes
    nbytes: int

    @classmethod
    def of(cls, call: Call, levels: Any = None) -> PackedCall:
        """Pack a call.

        Args:
            call: its function is packed.
            levels: what is logged, see ``pools_core.logs``.
        """
        parts = (marshal.dumps(levels, _MARSHAL), *plain(encode_call(call)))
        return cls(parts, _digest(parts), _size(parts))


@dataclass(frozen=True, slots=True)
class PackedShared:
    """A shared object as it travels; nodes know it by its digest, whichever session it belongs to."""

    parts: tuple[type_buffer, ...]
    digest: bytes
    nbytes: int

    @classmethod
    def of(cls, shared: SharedObject) -> PackedShared:
        """Pack a shared object.

        Raises:
            SerializationError: it cannot be pickled.
        """
        packed = shared.packed(_copy)
        parts = (packed.data, *plain(packed.buffers))
        return cls(parts, _digest(parts), _size(parts))


def _copy(_view: memoryview) -> None:
    """There is no better place for a buffer: have it copied, since the caller may change it."""


@dataclass(frozen=True, slots=True)
class PackedSession:
    """A session as it travels, without its shared object.

    Attributes:
        id: by which nodes know it, together with whose it is.
        parts: the number of its shared object with the client, then the frame of ``pools_core.frames``.
        shared: digest of its shared object; ``NOTHING`` if it has none.
        nbytes: size of all of it.
    """

    id: int
    parts: tuple[type_buffer, ...]
    shared: bytes
    nbytes: int

    @classmethod
    def of(cls, session: Session, shared: bytes) -> PackedSession:
        """Pack a session."""
        number = 0 if session.shared is None else session.shared.id
        frame = plain(encode_session(replace(session, shared=None), inherited=False))
        parts = (number.to_bytes(8, "little"), *frame)
        return cls(session.id, parts, shared, _size(parts))


NOTHING: Final = bytes(32)


def _digest(parts: Sequence[type_buffer]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(struct.pack("<Q", memoryview(part).nbytes))
        digest.update(part)
    return digest.digest()


def _size(parts: Sequence[type_buffer]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


class Lacking(enum.IntFlag):
    """What a node needs before it can run a job."""

    CALL = 1
    SESSION = 2
    SHARED = 4


@dataclass(frozen=True, slots=True)
class RunJob:
    """A job as it arrives at a node, or what it needs, on its own.

    Attributes:
        digest: of its call.
        session: number of its session; 0 for none.
        shared: digest of the session's shared object.
        call: the call's parts; empty if it was not sent along.
        setup: the session's parts, likewise.
        rest: the chunk's parts; or the shared object's.
    """

    digest: bytes
    session: int
    shared: bytes
    call: list[memoryview]
    setup: list[memoryview]
    rest: list[memoryview]

    def open_chunk(self, sent: Call) -> Chunk:
        """Return the chunk, its items still packed.

        Args:
            sent: its call, as it was sent.
        """
        return decode_chunk(self.rest, {sent.id: sent})[0]


def open_call(parts: Sequence[type_buffer], session: Session | None) -> tuple[Call, Any]:
    """Return a call, its function still packed, and what its caller logs."""
    known = {} if session is None else {session.id: session}
    return decode_call(parts[1:], known), marshal.loads(parts[0])


def open_session(parts: Sequence[type_buffer]) -> tuple[Session, int]:
    """Return a session, its functions still packed, without its shared object, and the number of that."""
    return decode_session(parts[1:]), int.from_bytes(parts[0], "little")


_RUN: Final = struct.Struct("<32sQ32sII")
_MARSHAL: Final = 2


def encode_run(
    chunk: Chunk,
    call: PackedCall,
    session: PackedSession | None = None,
    *,
    with_call: bool,
    with_session: bool = False,
) -> list[type_buffer]:
    """Return the body of a job."""
    return _job(
        Kind.RUN,
        call.digest,
        session,
        call.parts if with_call else (),
        session.parts if with_session and session is not None else (),
        encode_chunk(chunk),
    )


def encode_provide(
    lacking: Lacking, call: PackedCall, session: PackedSession | None, shared: PackedShared | None
) -> list[type_buffer]:
    """Return the body that brings a node what it lacks."""
    return _job(
        Kind.PROVIDE,
        call.digest,
        session,
        call.parts if Lacking.CALL in lacking else (),
        session.parts if Lacking.SESSION in lacking and session is not None else (),
        shared.parts if Lacking.SHARED in lacking and shared is not None else (),
    )


def _job(
    kind: Kind,
    digest: bytes,
    session: PackedSession | None,
    call: Sequence[type_part],
    setup: Sequence[type_part],
    rest: Sequence[type_part],
) -> list[type_buffer]:
    number, shared = (0, NOTHING) if session is None else (session.id, session.shared)
    head = _RUN.pack(digest, number, shared, len(call), len(setup))
    return join(kind, [head, *call, *setup, *rest])


def decode_run(body: Body) -> RunJob:
    """Return the job in a body of kind RUN, or what one of kind PROVIDE brings.

    Raises:
        RefusedFrameError: it makes no sense.
    """
    try:
        digest, session, shared, n_call, n_setup = _RUN.unpack(body.parts[0])
    except (IndexError, struct.error):
        raise RefusedFrameError(Why.MALFORMED) from None
    parts, end = body.parts, 1 + n_call + n_setup
    if len(parts) < end + (2 if body.kind is Kind.RUN else 0):
        raise RefusedFrameError(Why.MALFORMED)
    return RunJob(digest, session, shared, parts[1 : 1 + n_call], parts[1 + n_call : end], parts[end:])


_NEED: Final = struct.Struct("<QB")


def encode_need(run: int, lacking: Lacking) -> list[type_buffer]:
    """Return the body that says what a node lacks.

    Args:
        run: a number of this node's, see ``encode_event_body``.
        lacking: what.
    """
    return join(Kind.NEED, [_NEED.pack(run, lacking)])


def decode_need(body: Body) -> tuple[str, Lacking]:
    """Return the token of the node that lacks something, and what it lacks.

    Raises:
        RefusedFrameError: it makes no sense.
    """
    try:
        run, lacking = _NEED.unpack(body.parts[0])
        return node_of(run), Lacking(lacking)
    except (IndexError, struct.error, ValueError):
        raise RefusedFrameError(Why.MALFORMED) from None


_NODE_SHIFT: Final = 24


def first_run(token: str) -> int:
    """Return the first number of an execution on a node; they rise by one."""
    return int(token, 16) << _NODE_SHIFT


def next_run(run: int) -> int:
    """Return the number that follows; one comes back after 16 million others."""
    return run >> _NODE_SHIFT << _NODE_SHIFT | (run + 1) & (1 << _NODE_SHIFT) - 1


def node_of(run: int) -> str:
    """Return the token of the node that an execution was on."""
    return f"{run >> _NODE_SHIFT:010x}"


def new_token() -> str:
    """Return a token for a node."""
    return secrets.token_hex(5)


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

    def own(self, token: str) -> bytes:
        """Return the name of the function of one node and no other, whatever they are called."""
        return f"{self._prefix}node/{token}".encode()

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

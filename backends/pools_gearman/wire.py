"""What clients and nodes say to each other, and what they are called on the job servers.

    to a node      RUN      the call's digest, the call itself if it is small, likewise its session, the chunk
                   PROVIDE  what a node has said that it lacks: a call, a session, a shared object
                   CONTROL  a small request, JSON
    to a client    EVENT    what became of a chunk, in parts, or of a session: a frame of the core
                   NEED     what the node lacks; nothing has run
                   ANSWER   to a CONTROL or a PROVIDE, JSON

Each is a body (``bodies``) in an envelope (``signing``).  A node that refuses a frame says so with
``refusal``, outside of any envelope: it may not have the key.  Nothing here opens what belongs to the user.
"""

from __future__ import annotations

import enum
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pools_core import frames
from pools_core.calls import (
    Call,
    Chunk,
    Outcomes,
    Refused,
    Returned,
    SetupFailed,
    Shortened,
    type_buffer,
    type_part,
)
from pools_core.frames import Relayed, decode_chunk, decode_relayed, encode_chunk, encode_relayed
from pools_core.protocol import ChunkLost
from pools_gearman.bodies import Body, Kind, join
from pools_gearman.packed import NOTHING, PackedCall, PackedSession, PackedShared
from pools_gearman.signing import RefusedFrameError, Why

__all__ = [
    "NOTHING_LACKS",
    "OF_A_CHUNK",
    "ChunkEvent",
    "Lacking",
    "Names",
    "NodeId",
    "RunJob",
    "decode_event_body",
    "decode_need",
    "decode_run",
    "encode_event_body",
    "encode_need",
    "encode_provide",
    "encode_run",
    "first_run",
    "is_last",
    "new_token",
    "next_run",
    "node_of",
    "read_refusal",
    "refusal",
]

ChunkEvent = Outcomes | Refused | Returned | SetupFailed | Shortened | ChunkLost
OF_A_CHUNK: Final = (Outcomes, Refused, Returned, SetupFailed, Shortened, ChunkLost)
"""What is said of a chunk."""


def is_last(event: ChunkEvent) -> bool:
    """Whether nothing more will be said of the chunk."""
    return event.last if isinstance(event, Outcomes) else not isinstance(event, Shortened)


# ── jobs ──


class Lacking(enum.IntFlag):
    """What a node needs before it can run a job."""

    CALL = 1
    SESSION = 2
    SHARED = 4


NOTHING_LACKS: Final = Lacking(0)
"""Found for nearly every job; making a member that has no name takes a microsecond."""


class RunJob(NamedTuple):
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
    call: list[type_buffer]
    setup: list[type_buffer]
    rest: list[type_buffer]

    def open_chunk(self, sent: Call) -> Chunk:
        """Return the chunk, its items still packed.

        Args:
            sent: its call, as it was sent.
        """
        return decode_chunk(self.rest, {sent.id: sent})[0]


_RUN: Final = struct.Struct("<32sQ32sII")


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

_EVENT: Final = struct.Struct("<QB")
_REFUSAL: Final = b"POOL-REFUSED "


def encode_event_body(run: int, event: Relayed) -> list[type_buffer]:
    """Return the body that says what became of a chunk.

    Args:
        run: a number for this execution of the job: a server may give a job out a second time.
        event: what to say.
    """
    if isinstance(event, Outcomes):
        kind, parts = frames.Kind.OUTCOMES, frames.encode_outcomes(event)
    else:
        kind, parts = encode_relayed(event)
    return join(Kind.EVENT, [_EVENT.pack(run, kind), *parts])


def decode_event_body(body: Body) -> tuple[int, Relayed]:
    """Return the run's number and what became of the chunk.

    Raises:
        RefusedFrameError: it makes no sense.
    """
    try:
        run, kind = _EVENT.unpack(body.parts[0])
        if kind == frames.Kind.OUTCOMES:
            return run, frames.decode_outcomes(body.parts[1:])
        return run, decode_relayed(frames.Kind(kind), body.parts[1:])
    except (IndexError, struct.error, ValueError, TypeError, EOFError):
        raise RefusedFrameError(Why.MALFORMED) from None


def refusal(why: Why) -> bytes:
    """Return what a node answers to a frame that it does not open."""
    return _REFUSAL + why.name.encode()


def read_refusal(data: type_buffer) -> Why | None:
    """Return why a node refused a frame; None if this is another answer."""
    if data[: len(_REFUSAL)] != _REFUSAL:
        return None
    try:
        return Why[bytes(data[len(_REFUSAL) : 64]).decode()]
    except (KeyError, UnicodeDecodeError):
        return Why.MALFORMED


# ── names ──

_WHOLE: Final = "w"
"""Behind a node's number of slots: it runs chunks whole."""


@dataclass(frozen=True, slots=True)
class NodeId:
    """How a node names itself to a job server, so that ``workers`` tells who is there.

    Attributes:
        name: the node's name.
        token: random; another process of the same name has another.
        slots: how many tasks it can run at once; 0 when it takes no more.
        shortens: whether it gives back the end of a chunk of several units when a task is slow.
    """

    name: str
    token: str
    slots: int
    shortens: bool = True


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
        mark = "" if node.shortens else _WHOLE
        return f"{self._prefix}node/{node.name}/{node.token}/{node.slots}{mark}".encode()

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
            slots = parts[-1].removesuffix(_WHOLE)
            if name.startswith(mark) and len(parts) == 3 and slots.isdecimal():
                shortens = not parts[2].endswith(_WHOLE)
                found[parts[1]] = NodeId(parts[0], parts[1], min(int(slots), 1 << 20), shortens)
        return found


def _ids(lines: Sequence[str]) -> list[str]:
    """Return the connection ids in an answer to ``workers``: ``FD IP ID : FUNCTION...``."""
    return [words[2] for words in map(str.split, lines) if len(words) > 3 and words[3] == ":"]

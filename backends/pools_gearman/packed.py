"""Calls, sessions and shared objects as they travel, and how nodes know them again."""

from __future__ import annotations

import hashlib
import marshal
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pools_core.calls import Call, Session, type_buffer
from pools_core.frames import decode_call, decode_session, encode_call, encode_session
from pools_core.shared import SharedObject
from pools_gearman.bodies import plain

__all__ = ["NOTHING", "PackedCall", "PackedSession", "PackedShared", "open_call", "open_session"]

NOTHING: Final = bytes(32)
"""Stands for the digest of what there is not."""

_MARSHAL: Final = 2


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
        frame = plain(encode_session(session._replace(shared=None), inherited=False))
        parts = (number.to_bytes(8, "little"), *frame)
        return cls(session.id, parts, shared, _size(parts))


def _digest(parts: Sequence[type_buffer]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(struct.pack("<Q", memoryview(part).nbytes))
        digest.update(part)
    return digest.digest()


def _size(parts: Sequence[type_buffer]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def open_call(parts: Sequence[type_buffer], session: Session | None) -> tuple[Call, Any]:
    """Return a call, its function still packed, and what its caller logs."""
    known = {} if session is None else {session.id: session}
    return decode_call(parts[1:], known), marshal.loads(parts[0])


def open_session(parts: Sequence[type_buffer]) -> tuple[Session, int]:
    """Return a session, its functions still packed, without its shared object, and the number of that."""
    return decode_session(parts[1:]), int.from_bytes(parts[0], "little")

"""Envelopes: every frame is signed, and bound to its job and its direction.

    magic POOL | version | direction | flags | time, float64 | number, uint64 | MAC, 32 bytes | body

The MAC is HMAC-SHA256 (RFC 2104) over everything but itself, and over what it is bound to: the job's
id and the function's name.  So a result cannot be given out as another job's, nor a job's frame as a
result.  ``number`` counts the frames of one answer, so that none can be left out or repeated.  A job's id
is used once: a node remembers those it has seen for as long as a frame may be old (``ReplayGuard``), and
refuses older ones.

A frame is opened, that is handed to whoever unpickles, only after ``Signer.open`` let it pass.  Secrets
have no ``repr``.
"""

from __future__ import annotations

import enum
import hmac
import os
import stat
import struct
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from pools_core.calls import type_buffer
from pools_core.errors import SecurityError

__all__ = ["Direction", "Opened", "RefusedFrameError", "ReplayGuard", "Signer", "Why", "read_secret"]

MAGIC: Final = b"POOL"
VERSION: Final = 1
HEAD: Final = struct.Struct("<4sBBHdQ")
_LENGTHS: Final = struct.Struct("<HH")
MAC_BYTES: Final = 32
OVERHEAD: Final = HEAD.size + MAC_BYTES
SIGNED: Final = 1
SHORTEST_SECRET: Final = 16
SMALL: Final = 1 << 14
"""Bytes of a frame up to which it is copied: one digest, and pieces of ``bytes``, are the faster ones."""


class Direction(enum.IntEnum):
    """Which way a frame goes."""

    TO_NODE = 1
    TO_CLIENT = 2


class Why(enum.StrEnum):
    """Why a frame was refused; said to the other side, so it tells nothing that helps to forge one."""

    MALFORMED = "it is not a frame of ours"
    VERSION = "it is of another version of pools"
    UNSIGNED = "it is not signed"
    SIGNATURE = "its signature is wrong: the two sides have different keys, or it was altered"
    DIRECTION = "it was made for the other direction"
    STALE = "it is older than max_frame_age allows, or the clocks differ"
    REPLAYED = "it has been seen before"


class RefusedFrameError(Exception):
    """A frame that must not be opened."""

    def __init__(self, why: Why) -> None:
        super().__init__(str(why))
        self.why = why


class Opened(NamedTuple):
    """A frame that may be opened.

    Attributes:
        time: when it was made, by its maker's clock.
        number: its place in the answer that it is part of.
        body: what it holds.
    """

    time: float
    number: int
    body: type_buffer


def read_secret(path: Path) -> bytes:
    """Return the key in a file.

    Raises:
        SecurityError: it cannot be read, others can read it as well, or it is too short.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            secret = file.read(4096).strip()
    except OSError as error:
        raise SecurityError(
            f"secret_file {path} cannot be read: {error.strerror}; `pools gearman init` makes one"
        ) from error
    if mode & 0o077:
        raise SecurityError(
            f"secret_file {path} can be read by others (mode {mode:04o}); whoever has seen it can run code "
            f"here: make a new key, and run: chmod 600 {path}"
        )
    if len(secret) < SHORTEST_SECRET:
        raise SecurityError(
            f"secret_file {path} holds {len(secret)} bytes; at least {SHORTEST_SECRET} random ones are "
            "needed: `pools gearman init` makes such a file"
        )
    return secret


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs frames and checks them.

    Args:
        secret: the key that all parties share; None to go without signatures.
        max_age: seconds that a frame to a node may be old.
    """

    secret: bytes | None = field(repr=False)
    max_age: float = 300.0
    _keyed: hmac.HMAC | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Take the key in once: a copy of that costs less than a new one for each frame."""
        keyed = None if self.secret is None else hmac.new(self.secret, digestmod="sha256")
        object.__setattr__(self, "_keyed", keyed)

    def seal(
        self,
        direction: Direction,
        job: bytes,
        function: bytes,
        body: Sequence[type_buffer],
        number: int = 0,
    ) -> list[type_buffer]:
        """Return the buffers of a frame.

        Args:
            direction: which way it goes.
            job: the id of the job that it is, or answers.
            function: the name of the function that the job is for.
            body: what it holds, in pieces; not copied.
            number: its place in the answer.
        """
        keyed = self._keyed
        head = HEAD.pack(MAGIC, VERSION, direction, 0 if keyed is None else SIGNED, time.time(), number)
        mac = bytes(MAC_BYTES) if keyed is None else _mac(keyed, head, job, function, body)
        return [head + mac, *body]

    def open(self, frame: type_buffer, direction: Direction, job: bytes, function: bytes) -> Opened:
        """Check a frame.

        Raises:
            RefusedFrameError: it must not be opened.
        """
        if len(frame) >= SMALL:
            frame = memoryview(frame)
        elif len(frame) < OVERHEAD:
            raise RefusedFrameError(Why.MALFORMED)
        magic, version, way, flags, made, number = HEAD.unpack_from(frame)
        if magic != MAGIC:
            raise RefusedFrameError(Why.MALFORMED)
        if version != VERSION:
            raise RefusedFrameError(Why.VERSION)
        body = frame[OVERHEAD:]
        if self._keyed is None:
            if flags != 0:
                raise RefusedFrameError(Why.SIGNATURE)
        else:
            if flags != SIGNED:
                raise RefusedFrameError(Why.UNSIGNED)
            mac = _mac(self._keyed, frame[: HEAD.size], job, function, [body])
            if not hmac.compare_digest(mac, frame[HEAD.size : OVERHEAD]):
                raise RefusedFrameError(Why.SIGNATURE)
        if way != direction:
            raise RefusedFrameError(Why.DIRECTION)
        if direction is Direction.TO_NODE and not abs(time.time() - made) <= self.max_age:
            raise RefusedFrameError(Why.STALE)
        return Opened(made, number, body)


def _mac(
    keyed: hmac.HMAC, head: type_buffer, job: bytes, function: bytes, body: Sequence[type_buffer]
) -> bytes:
    digest = keyed.copy()
    # Lengths first, so that nothing can be moved from one field into the next.
    bound = (_LENGTHS.pack(len(job), len(function)), job, function, head)
    if sum(map(len, body)) < SMALL:
        digest.update(b"".join((*bound, *body)))
    else:
        digest.update(b"".join(bound))
        for piece in body:
            digest.update(piece)
    return digest.digest()


class ReplayGuard:
    """Remembers which jobs a node has taken.

    A job's id is the client's, a dot, and a number that rises by one; so one bit per job is enough.

    Args:
        max_age: seconds after which a frame is refused anyway, so that it can be forgotten.
    """

    def __init__(self, max_age: float) -> None:
        self._max_age = max_age
        self._clients: OrderedDict[bytes, _Seen] = OrderedDict()

    def check(self, job: bytes, now: float) -> None:
        """Take note of a job.

        Args:
            job: its id, of a frame whose signature is good.
            now: the monotonic clock's time.

        Raises:
            RefusedFrameError: it was seen before, or its id is none.
        """
        client, dot, number = job.rpartition(b".")
        try:
            count = int(number, 16)
        except ValueError:
            raise RefusedFrameError(Why.MALFORMED) from None
        if not dot or count >= 1 << 63:
            raise RefusedFrameError(Why.MALFORMED)
        seen = self._clients.get(client)
        if seen is None:
            seen = self._clients[client] = _Seen(count)
        self._clients.move_to_end(client)
        seen.latest = now
        if not seen.add(count):
            raise RefusedFrameError(Why.REPLAYED)
        # The signature's clock and ours may differ by the age that is allowed, so twice that.
        while len(self._clients) > 1:
            oldest = next(iter(self._clients))
            if now - self._clients[oldest].latest <= 2 * self._max_age:
                break
            del self._clients[oldest]


class _Seen:
    """Which numbers of one client were seen: a bit each, from ``base`` on."""

    WINDOW: Final = 1 << 24
    """Numbers that are told apart: two megabytes for a client that uses them all."""

    def __init__(self, first: int) -> None:
        self.base = max(0, first - self.WINDOW // 2)
        self.bits = bytearray()
        self.latest = 0.0

    def add(self, number: int) -> bool:
        """Take note of a number; False if it was there, or lies too far back to be known."""
        place = number - self.base
        if place < 0:
            return False
        if place >= self.WINDOW:
            drop = (place - self.WINDOW // 2) // 8
            del self.bits[:drop]
            self.base += 8 * drop
            place -= 8 * drop
        index, bit = place >> 3, 1 << (place & 7)
        if index >= len(self.bits):
            self.bits.extend(bytes(index + 1 - len(self.bits)))
        if self.bits[index] & bit:
            return False
        self.bits[index] |= bit
        return True

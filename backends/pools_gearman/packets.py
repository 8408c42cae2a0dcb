"""Gearman's packets: bytes to packets and back.  No socket, no clock.

    header: 4 bytes \\0REQ or \\0RES | type, 4 bytes big endian | size, likewise, unsigned
    body:   the arguments, a NUL between them; the last may hold NULs itself

which commands there are and what they take is the table of ``gearman.protocol`` (pygearman).  A reply
to an administrative command is a line of text on the same connection; its first byte is not NUL.

The reader's rules: no packet larger than the cap, whatever it announces, and nothing is allocated for
one that is; the number of arguments is the table's; every byte belongs to exactly one packet, however
the stream is cut; small packets are copied out of the buffer, large ones are received in place.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from gearman import protocol
from pools_core.calls import type_buffer
from pools_core.errors import TransportError
from pools_core.memory import memory_for

__all__ = ["Command", "Line", "Packet", "PacketReader", "encode"]


class Command(enum.IntEnum):
    """The commands that we send or understand."""

    CAN_DO = protocol.GEARMAN_COMMAND_CAN_DO
    PRE_SLEEP = protocol.GEARMAN_COMMAND_PRE_SLEEP
    NOOP = protocol.GEARMAN_COMMAND_NOOP
    SUBMIT_JOB = protocol.GEARMAN_COMMAND_SUBMIT_JOB
    JOB_CREATED = protocol.GEARMAN_COMMAND_JOB_CREATED
    NO_JOB = protocol.GEARMAN_COMMAND_NO_JOB
    WORK_STATUS = protocol.GEARMAN_COMMAND_WORK_STATUS
    WORK_COMPLETE = protocol.GEARMAN_COMMAND_WORK_COMPLETE
    WORK_FAIL = protocol.GEARMAN_COMMAND_WORK_FAIL
    GET_STATUS = protocol.GEARMAN_COMMAND_GET_STATUS
    ERROR = protocol.GEARMAN_COMMAND_ERROR
    STATUS_RES = protocol.GEARMAN_COMMAND_STATUS_RES
    SUBMIT_JOB_HIGH = protocol.GEARMAN_COMMAND_SUBMIT_JOB_HIGH
    SET_CLIENT_ID = protocol.GEARMAN_COMMAND_SET_CLIENT_ID
    WORK_EXCEPTION = protocol.GEARMAN_COMMAND_WORK_EXCEPTION
    WORK_DATA = protocol.GEARMAN_COMMAND_WORK_DATA
    WORK_WARNING = protocol.GEARMAN_COMMAND_WORK_WARNING
    GRAB_JOB_UNIQ = protocol.GEARMAN_COMMAND_GRAB_JOB_UNIQ
    JOB_ASSIGN_UNIQ = protocol.GEARMAN_COMMAND_JOB_ASSIGN_UNIQ


class Packet(NamedTuple):
    """One packet.

    Attributes:
        command: what it is.
        args: its arguments but the last.
        data: its last argument; empty if it takes none.
    """

    command: Command
    args: tuple[bytes, ...]
    data: type_buffer


class Line(NamedTuple):
    """A line of an answer to an administrative command, without its end."""

    text: str


HEADER: Final = struct.Struct(">4sII")
REQUEST: Final = protocol.MAGIC_REQ_STRING
RESPONSE: Final = protocol.MAGIC_RES_STRING
SCRATCH: Final = 1 << 18
"""Bytes of the buffer that small packets are received in: what a read system call is worth."""

LONGEST_ARGUMENT: Final = 1024
"""Bytes of all arguments but the last; the server bounds each to 64 (handle, unique) or 512."""

LONGEST_LINE: Final = 1 << 20
"""Bytes of a line of text: a worker's line in ``workers`` names all its functions."""

_COMMANDS: Final = {int(command): command for command in Command}
_COUNT: Final = {command: len(protocol.GEARMAN_PARAMS_FOR_COMMAND[command]) for command in Command}
_BARE: Final = {command: HEADER.pack(REQUEST, command, 0) for command, count in _COUNT.items() if not count}
"""Requests that are nothing but their header."""


def encode(command: Command, *args: bytes, data: list[type_buffer] | None = None) -> list[type_buffer]:
    """Return the buffers that make up a request.

    Args:
        command: what it is.
        args: its arguments; all of them, or all but the last if ``data`` is given.
        data: the last argument, in pieces.

    Raises:
        ValueError: too few or too many arguments, a NUL where none may be, or 4 GiB and more.
    """
    if not args and data is None and command in _BARE:
        return [_BARE[command]]
    given = len(args) + (data is not None)
    if given != _COUNT[command]:
        raise ValueError(f"{command.name} takes {_COUNT[command]} arguments, not {given}")
    named, tail = (args[:-1], list(args[-1:])) if data is None else (args, data)
    head = b"\0".join((*named, b""))
    if head.count(b"\0") != len(named):
        raise ValueError(f"an argument of {command.name} other than the last has a NUL in it")
    size = len(head)
    for piece in tail:
        size += piece.nbytes if isinstance(piece, memoryview) else len(piece)
    if size >= 1 << 32:
        raise ValueError(f"a packet of {size} bytes cannot be announced in 32 bits")
    return [HEADER.pack(REQUEST, command, size) + head, *tail]


class PacketReader:
    """Takes bytes as they come and gives packets and lines.

    Args:
        most: the largest body that is taken in, in bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._scratch = bytearray(SCRATCH)
        self._view = memoryview(self._scratch)
        self._start = 0
        self._end = 0
        self._large: memoryview | None = None
        self._have = 0

    def space(self) -> memoryview:
        """Return where the next bytes go; never empty."""
        if self._large is not None:
            return self._large[self._have :]
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._scratch):
            rest = self._end - self._start
            self._view[:rest] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, rest
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        """Take note that so many bytes were put into ``space()``."""
        if self._large is not None:
            self._have += count
        else:
            self._end += count

    def items(self) -> Iterator[Packet | Line]:
        """Give what is complete.

        Raises:
            TransportError: this is not the stream of a job server, or a packet is too large.
        """
        while (item := self._next()) is not None:
            yield item

    def _next(self) -> Packet | Line | None:
        if self._large is not None:
            if self._have < len(self._large):
                return None
            whole, self._large = self._large, None
            return _large_packet(whole)
        have = self._end - self._start
        if not have:
            return None
        if self._scratch[self._start] != 0:
            return self._line()
        if have < HEADER.size:
            return None
        magic, kind, size = HEADER.unpack_from(self._scratch, self._start)
        self._check_header(magic, kind, size)
        whole_size = HEADER.size + size
        if have < whole_size:
            if whole_size > SCRATCH:
                self._begin_large(whole_size, have)
            return None
        body = self._view[self._start + HEADER.size : self._start + whole_size].tobytes()
        self._start += whole_size
        return _small_packet(_COMMANDS[kind], body)

    def _check_header(self, magic: bytes, kind: int, size: int) -> None:
        # gear's server reports a lost worker with the magic of a request.
        if magic != RESPONSE and not (magic == REQUEST and kind == Command.WORK_FAIL):
            raise TransportError(f"not a job server's stream: a packet begins with {magic!r}")
        if kind not in _COUNT:
            raise TransportError(f"a packet of an unknown type, {kind}, came from the job server")
        if size > self._most:
            raise TransportError(
                f"a packet of {size} bytes was announced; max_frame_bytes allows {self._most}"
            )

    def _begin_large(self, whole_size: int, have: int) -> None:
        large = memoryview(memory_for(whole_size))
        large[:have] = self._view[self._start : self._end]
        self._start = self._end = 0
        self._large, self._have = large, have

    def _line(self) -> Line | None:
        end = self._scratch.find(b"\n", self._start, self._end)
        if end < 0:
            if self._end - self._start >= SCRATCH:
                self._grow_for_line()
            return None
        text = bytes(self._view[self._start : end]).decode("utf-8", "replace").rstrip("\r")
        self._start = end + 1
        return Line(text)

    def _grow_for_line(self) -> None:
        if len(self._scratch) > LONGEST_LINE:
            raise TransportError("not a job server's stream: a line of text has no end")
        grown = bytearray(2 * len(self._scratch))
        grown[: self._end - self._start] = self._view[self._start : self._end]
        self._end -= self._start
        self._start = 0
        self._scratch, self._view = grown, memoryview(grown)


def _small_packet(command: Command, body: bytes) -> Packet:
    """Return the packet with this body, which is its own."""
    count = _COUNT[command]
    if count == 0:
        if body:
            raise TransportError(f"a {command.name} packet came with arguments; it takes none")
        return Packet(command, (), b"")
    *args, data = body.split(b"\0", count - 1)
    if len(args) < count - 1 or len(body) - len(data) > LONGEST_ARGUMENT:
        raise TransportError(f"a {command.name} packet came with too few arguments")
    return Packet(command, tuple(args), data)


def _large_packet(whole: memoryview) -> Packet:
    """Return the packet that these bytes are; its data stays where it is."""
    _, kind, _ = HEADER.unpack_from(whole)
    command = _COMMANDS[kind]
    body = whole[HEADER.size :]
    head = _small_packet(command, body[:LONGEST_ARGUMENT].tobytes())
    return head._replace(data=body[LONGEST_ARGUMENT - len(head.data) :])

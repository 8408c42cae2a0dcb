"""The items of a job that is given on the command line: where they come from, one by one.

Nothing is read ahead: an endless standard input is as good as a file.
"""

from __future__ import annotations

import glob
import io
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, TextIO

__all__ = ["BadInputError", "read_items"]


class BadInputError(Exception):
    """What was given as input cannot be used; the text is one line for the user."""


def read_items(
    arguments: Sequence[str] = (),
    lines: str | None = None,
    jsonl: str | None = None,
    patterns: Sequence[str] = (),
) -> Iterator[Any]:
    """Return an iterator over the items, which come from exactly one kind of source.

    Args:
        arguments: the items themselves.
        lines: a file, or ``-`` for standard input, of which each line is an item, without its end.
        jsonl: likewise, each line a JSON value; blank lines are skipped.
        patterns: file name patterns, ``**`` for any number of folders; the items are the files that
            match, pattern by pattern, each sorted.

    Raises:
        BadInputError: none or several kinds were given, a file cannot be opened, a pattern matches no
            file.  The iterator raises it for a line that is not JSON, with the line's number.
    """
    given = [bool(arguments), lines is not None, jsonl is not None, bool(patterns)]
    if sum(given) == 0:
        raise BadInputError("there are no items: give them as arguments, or with --lines, --jsonl or --glob")
    if sum(given) > 1:
        raise BadInputError("items come from one kind of source: arguments, --lines, --jsonl or --glob")
    if lines is not None:
        return _lines(_open(lines))
    if jsonl is not None:
        return _json_values(_open(jsonl), "standard input" if jsonl == "-" else jsonl)
    if patterns:
        return iter([path for pattern in patterns for path in _files(pattern)])
    return iter(arguments)


def _open(name: str) -> TextIO:
    """Open a file of lines.  Bytes that are not UTF-8 survive as file names do."""
    if name == "-":
        return _standard_input()
    try:
        file: TextIO = open(name, **AS_TEXT)  # noqa: SIM115  ``_lines`` closes it
    except OSError as error:
        raise BadInputError(f"{name} cannot be read: {error.strerror or error}") from error
    return file


AS_TEXT: Final[dict[str, Any]] = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": "\n"}


def _standard_input() -> TextIO:
    if sys.stdin is None:  # as after 0<&-
        raise BadInputError("- cannot be read: there is no standard input")
    try:
        number = sys.stdin.fileno()
    except (OSError, ValueError):  # not the process's own, but something that stands for it
        return sys.stdin
    if os.name == "posix":
        return io.TextIOWrapper(io.BufferedReader(_Interruptible(number)), **AS_TEXT)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(**AS_TEXT)
    return sys.stdin


class _Interruptible(io.RawIOBase):
    """Input of which a read in the main thread ends by Ctrl-C, however shortly before that began.

    A signal ends the system call that the main thread is in.  One that comes just before the call would be
    noticed only after it, for ever if nothing comes.  So it waits before it reads, also for a descriptor to
    which Python writes when a signal comes (``signal.set_wakeup_fd``).

    Args:
        number: the descriptor, which stays open.
    """

    def __init__(self, number: int) -> None:
        self._number = number

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for input and read what is there; 0 at its end."""
        if threading.current_thread() is threading.main_thread():
            self._wait()
        return os.readv(self._number, [buffer])

    def _wait(self) -> None:
        woken, waker = socket.socketpair()
        with woken, waker:
            woken.setblocking(False)
            waker.setblocking(False)
            poll = select.poll()
            poll.register(self._number, select.POLLIN)
            poll.register(woken, select.POLLIN)
            before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
            try:
                while self._number not in dict(poll.poll()):
                    woken.recv(4096)  # the handler of the signal has run by the next line
            finally:
                signal.set_wakeup_fd(before)


def _lines(file: TextIO) -> Iterator[str]:
    try:
        for line in file:
            # A carriage return within a line, as progress bars and odd file names have it, ends none.
            yield line.removesuffix("\n").removesuffix("\r")
    finally:
        if file is not sys.stdin:
            file.close()


def _json_values(file: TextIO, name: str) -> Iterator[Any]:
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                why = (
                    f"{error.msg} (column {error.colno})"
                    if isinstance(error, json.JSONDecodeError)
                    else error
                )
                raise BadInputError(f"{name}, line {number} is not JSON: {why}") from error
            yield value


def _files(pattern: str) -> list[str]:
    paths = glob.glob(os.path.expanduser(pattern), recursive=True)
    files = sorted(path for path in paths if not os.path.isdir(path))
    if not files:
        raise BadInputError(f"no file matches {pattern!r}")
    return files

"""A file in which tasks leave a line per execution, so that a test can count what ran, and where.

    task      note(log, "a word")        first(log, "a word")
    test      runs(log)                  notes(log)

It works for tasks in threads, in processes, and on machines that share the file.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["first", "note", "notes", "runs"]


def note(log: str, word: str, pid: int | None = None) -> None:
    """Append one line, the word and a process id, this one's by default, in one write that cannot be torn."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{word} {os.getpid() if pid is None else pid}\n".encode())
    finally:
        os.close(handle)


def first(log: str, word: str) -> bool:
    """Whether nobody, in any thread or process, has asked this before of the word in this log.

    Exactly one gets True, at whatever moment others ask: whoever creates a file beside the log, which only
    one can.  To count the lines of the log would not do: two that both have left theirs before either
    counts would both come second.

    Args:
        log: path of the log, which need not exist.
        word: fit for the name of a file.
    """
    try:
        os.close(os.open(f"{log}.first.{word}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def notes(log: str | Path) -> list[tuple[str, int]]:
    """Return the words and process ids that ``note`` wrote, in order; none if there is no file."""
    try:
        lines = Path(log).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(word, int(pid)) for word, pid in (line.split(" ") for line in lines)]


def runs(log: str | Path) -> list[str]:
    """Return the words that ``note`` wrote, in order."""
    return [word for word, _ in notes(log)]

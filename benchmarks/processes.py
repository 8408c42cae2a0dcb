"""What this process and its descendants use, read from /proc (Linux)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import psutil

__all__ = ["MemoryWatch", "cpu_ticks", "family", "megabytes"]

SECONDS_BETWEEN_LOOKS: Final = 0.02


def family() -> list[int]:
    """Return the process ids of this process and all its descendants."""
    try:
        return [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
    except psutil.NoSuchProcess:  # one ended meanwhile
        return [os.getpid()]


def cpu_ticks(pids: list[int]) -> int:
    """Return the clock ticks of CPU that processes have used, in user and kernel mode."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total


def megabytes() -> float:
    """Return the memory of this process and its descendants, each shared page counted once.

    Memory of ``memfd`` and ``/dev/shm`` files that they hold counts also where it is not mapped.
    """
    private = shared = 0
    files: dict[tuple[int, int], int] = {}
    for pid in family():
        for name, kilobytes in proportional(pid).items():
            if name == "Pss_Shmem":
                shared += kilobytes * 1024
            elif name == "Pss_Anon":
                private += kilobytes * 1024
        files.update(held_files(pid))
    return (private + max(shared, sum(files.values()))) / 1e6


def proportional(pid: int) -> dict[str, int]:
    """Return the proportional set sizes of a process, in kilobytes, by kind."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return {}
    pairs = (line.split() for line in lines if line.startswith("Pss_"))
    return {name.rstrip(":"): int(value) for name, value, *_ in pairs}


def held_files(pid: int) -> dict[tuple[int, int], int]:
    """Return the sizes of the open files of a process that are memory, by device and inode."""
    found = {}
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                if os.readlink(entry.path).startswith(("/memfd:", "/dev/shm/")):
                    status = os.stat(entry.path)
                    found[status.st_dev, status.st_ino] = status.st_blocks * 512
    except OSError:  # it, or a file of it, has gone
        pass
    return found


class MemoryWatch:
    """A thread that looks at ``megabytes`` again and again, while the context lasts.

    Attributes:
        growth: the highest value seen, less the first one.
    """

    def __init__(self, most: float, on_too_much: Callable[[], object]) -> None:
        """Watch; call a function, once, when growth is more than so many megabytes."""
        self.growth = 0.0
        self._first = megabytes()
        self._most = most
        self._on_too_much = on_too_much
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _look(self) -> None:
        self.growth = max(self.growth, megabytes() - self._first)

    def _watch(self) -> None:
        told = False
        while not self._stop.wait(SECONDS_BETWEEN_LOOKS):
            self._look()
            if self.growth > self._most and not told:
                told = True
                self._on_too_much()

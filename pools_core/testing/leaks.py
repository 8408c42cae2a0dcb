"""What this process holds: children, threads, descriptors, shared memory; and what a test left of them."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from pools_core.testing.waiting import wait_until

__all__ = ["Belongings", "belongings", "gone", "nothing_left_behind"]

SHM: Final = "/dev/shm/"
OURS: Final = ("sem.mp-", "psm_", "pools")
"""How names begin there that a pool, or ``multiprocessing`` in a task, may have made; the folder belongs to
the whole machine, and other programs come and go in it."""


@dataclass(frozen=True)
class Belongings:
    """What a process holds, each described for people.

    Attributes:
        children: its descendants, by id and command.
        threads: its Python threads, by identity and name.
        descriptors: its open files, by number and target; none where the system does not tell.
        shared_memory: entries of ``/dev/shm`` of the kinds that pools and ``multiprocessing`` make.
    """

    children: frozenset[str]
    threads: frozenset[str]
    descriptors: frozenset[str]
    shared_memory: frozenset[str]

    def beyond(self, before: Belongings) -> list[str]:
        """Return what is here and was not before."""
        return sorted(
            (self.children - before.children)
            | (self.threads - before.threads)
            | (self.descriptors - before.descriptors)
            | (self.shared_memory - before.shared_memory)
        )


def belongings() -> Belongings:
    """Return what this process holds now."""
    return Belongings(
        children=frozenset(_children()),
        threads=frozenset(f"thread {thread.ident} {thread.name!r}" for thread in threading.enumerate()),
        descriptors=frozenset(_descriptors()),
        shared_memory=frozenset(f"{SHM}{name}" for name in _listing(SHM) if name.startswith(OURS)),
    )


@contextlib.contextmanager
def nothing_left_behind(patience: float = 5.0) -> Iterator[None]:
    """Check that the body leaves nothing: no child, thread, descriptor or shared memory.

    Args:
        patience: seconds in which what is ending may end.

    Raises:
        AssertionError: it does; the text names everything.
    """
    before = belongings()
    yield
    left: list[str] = []

    def is_clean() -> bool:
        left[:] = belongings().beyond(before)
        left[:] = [item for item in left if not (item.startswith(SHM) and _is_anothers(item))]
        return not left

    if not is_clean():
        gc.collect()  # a cycle may hold a socket; whether one may is another test's question
        try:
            wait_until(is_clean, patience)
        except AssertionError:
            raise AssertionError("left behind:\n  " + "\n  ".join(left)) from None


def gone(pid: int) -> bool:
    """Return whether that process runs no more; one that nobody has reaped yet counts as gone."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _children() -> Iterator[str]:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            yield f"child {child.pid} {' '.join(child.cmdline())[:200] or 'dead, not reaped'}"


def _is_anothers(path: str) -> bool:
    """Whether a process that is none of ours has this shared memory: another test run on this machine."""
    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    for process in psutil.process_iter():
        if process.pid not in ours:
            with contextlib.suppress(psutil.Error, OSError):
                if path in Path(f"/proc/{process.pid}/maps").read_text():
                    return True
    return False


def _descriptors() -> Iterator[str]:
    for number in _listing("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed them is closed by now
            yield f"descriptor {number} {os.readlink(f'/proc/self/fd/{number}')}"


def _listing(folder: str) -> list[str]:
    try:
        return [entry.name for entry in Path(folder).iterdir()]
    except OSError:
        return []

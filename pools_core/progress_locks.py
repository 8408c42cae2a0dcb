"""The locks under which progress bars are placed and drawn, whatever draws them.

Each process has its own, for a forked child may inherit one that is locked for ever.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Final, cast

__all__ = ["PATIENCE", "TqdmLock", "own_lock", "tqdm_lock"]

PATIENCE: Final = 0.5
"""Seconds that a bar waits for tqdm's own lock; see ``TqdmLock``."""

_locks: Final[dict[int, threading.RLock]] = {}
_tqdm_locks: Final[dict[int, TqdmLock]] = {}


def own_lock() -> threading.RLock:
    """Return this process's lock; a forked child gets its own, for it may inherit a locked one."""
    return _locks.setdefault(os.getpid(), threading.RLock())


class TqdmLock:
    """The lock under which bars are placed and drawn: ours, and tqdm's while that can be had.

    tqdm's own is two, one for threads and one for processes.  We never take the latter: a worker that is
    killed while it draws holds it for ever, and making it fixes the start method of processes.  The former
    keeps users' own bars apart from ours.  But it stays locked when a user's bar was interrupted while it
    drew, or a fork came just then; so we wait for it a moment, once, and then do without.
    """

    def __init__(self) -> None:
        import tqdm.std

        self._own = own_lock()
        self._tqdms = cast("threading.RLock", cast("Any", tqdm.std).TqdmDefaultWriteLock.th_lock)
        self._given_up = False
        self._taken: list[bool] = []  # whether tqdm's was had, for each time that ours is held

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._own.acquire(blocking, timeout):
            return False
        try:
            taken = not self._given_up and self._tqdms.acquire(timeout=PATIENCE)
        except BaseException:  # Ctrl-C ends the wait
            self._own.release()
            raise
        self._given_up = not taken
        self._taken.append(taken)
        return True

    def release(self) -> None:
        if self._taken.pop():
            self._tqdms.release()
        self._own.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def tqdm_lock() -> TqdmLock:
    """Return this process's lock for bars of tqdm."""
    return _tqdm_locks.get(os.getpid()) or _tqdm_locks.setdefault(os.getpid(), TqdmLock())

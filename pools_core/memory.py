"""Memory for large data that is about to be written."""

from __future__ import annotations

import contextlib
import mmap

from pools_core.calls import type_buffer
from pools_core.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

__all__ = ["HUGE", "copied", "memory_for"]

HUGE: Final = 1 << 22
"""Bytes from which memory is asked for in huge pages: wherever it lies, there is room for one of 2 MB."""


_ADVICE: Final[int | None] = getattr(mmap, "MADV_HUGEPAGE", None)


def memory_for(nbytes: int) -> bytearray | memoryview:
    """Return writable memory of its own, of so many bytes, all zero.

    The kernel makes a page of 4 KB when it is first written, which takes longer than the writing: 64 MB take
    77 ms where 17 suffice in huge pages (Linux, where they are given to those who ask: madvise(2)).
    """
    if nbytes < HUGE or _ADVICE is None:
        return bytearray(nbytes)
    room = mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # by itself it would be shared
    with contextlib.suppress(OSError):  # a kernel without them
        room.madvise(_ADVICE)
    return memoryview(room)


def copied(view: memoryview) -> type_buffer:
    """Return a writable copy of what a view of bytes shows."""
    if view.nbytes < HUGE or _ADVICE is None:
        return bytearray(view)
    copy = memory_for(view.nbytes)
    copy[:] = view
    return copy

"""Memory for large data: its own, writable, and in huge pages where the kernel gives them."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from pathlib import Path

import pytest

from pools_core.memory import HUGE, copied, memory_for

SIZES = [0, 1, HUGE - 1, HUGE, HUGE + 1, 3 * HUGE + 12_345]


@pytest.mark.parametrize("size", SIZES)
def test_memory_has_its_size_and_is_zero_and_writable(size):
    room = memory_for(size)

    assert len(room) == memoryview(room).nbytes == size
    assert not any(room)
    room[:] = b"x" * size
    assert bytes(room) == b"x" * size


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_is_writable_and_knows_nothing_of_what_becomes_of_the_original(size):
    original = bytearray(os.urandom(size))
    before = bytes(original)

    copy = copied(memoryview(original))
    original[:] = bytes(size)

    assert bytes(copy) == before
    assert not memoryview(copy).readonly


def test_large_memory_is_not_shared_with_a_forked_process():
    room = memory_for(HUGE)
    pid = os.fork()
    if pid == 0:
        room[0] = 1
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

    assert room[0] == 0


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="needs madvise(2) of Linux")
def test_large_memory_is_asked_for_in_huge_pages_and_goes_with_its_last_user():
    room = memory_for(HUGE)
    assert isinstance(room, memoryview)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))

    flags = flags_at(address)
    if not flags:
        pytest.skip("this kernel does not show flags of mappings")
    assert "hg" in flags  # proc(5), smaps: huge page advice
    part = room[5:]
    del room
    assert "hg" in flags_at(address)
    del part
    assert "hg" not in flags_at(address)


def flags_at(address):
    """Return the kernel's flags of the mapping that has an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    return []

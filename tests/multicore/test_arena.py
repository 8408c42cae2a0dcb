"""Large buffers through shared memory: never to be noticed, but by the clock."""

from __future__ import annotations

import gc
import mmap
import os
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pools_core import MakePool
from pools_multicore.arena import (
    LARGE_ENOUGH,
    PIECE,
    WORTH_A_LOOK,
    Arena,
    Held,
    Reader,
    Reference,
    own_pages,
)

LARGE = LARGE_ENOUGH // 8 + 1000
"""Numbers of 8 bytes: so many go through a segment."""


@pytest.fixture(params=["fork", "spawn"])
def pool(request):
    """A pool of two workers."""
    with MakePool("multicore", n_jobs=2, start_method=request.param) as pool:
        yield pool


@pytest.fixture
def line():
    """An arena, a reader, and the socket between them."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arena, reader = Arena(), Reader(far)
    yield arena, reader, near
    gc.collect()
    reader.close()
    arena.close()
    near.close()
    far.close()


def carry(line, data: bytes) -> memoryview:
    """Return a buffer as the reader gets it."""
    arena, reader, side = line
    held = arena.hold(memoryview(data))
    reference = arena.refer(held, "reader", side)
    assert isinstance(reference, Reference)
    return reader.view(reference)


def give_back(line) -> None:
    """Tell the owner what the reader has let go of."""
    arena, reader, _ = line
    arena.freed(reader.take_freed(), "reader")


def number_of_segments(arena: Arena) -> int:
    """Return how many segments there are."""
    return len(arena._segments)


# --- one line ---------------------------------------------------------------------------------------


def test_what_is_read_is_what_was_written(line):
    """Every byte, and it may be written to."""
    data = os.urandom(300_001)
    view = carry(line, data)

    assert view == data
    view[0] = view[0] ^ 255
    assert view != data


@pytest.mark.parametrize("size", [300_000, WORTH_A_LOOK - 1, WORTH_A_LOOK, 2 * WORTH_A_LOOK + 5])
def test_a_segment_is_written_again_when_nothing_refers_to_it(line, size):
    """One is enough for one buffer after the other, whether the reader wrote to the last one or not."""
    for number, place in enumerate([None, 0, None, None, 5, size // 2, -1, None, size - 4096, None]):
        view = carry(line, bytes([number]) * size)
        assert view == bytes([number]) * size
        if place is not None:
            view[place] = 99  # private: it must not show in the next one
        del view
        give_back(line)
    assert number_of_segments(line[0]) == 1


PAGE = mmap.PAGESIZE


def resident(_=None):
    """Return how many kilobytes of segments are in this process's page tables."""
    found = inside = 0
    for words in map(str.split, Path("/proc/self/smaps").read_text().splitlines()):
        if "-" in words[0]:
            inside = any("memfd:pools-arena" in word for word in words)
        elif inside and words[0] == "Rss:":
            found += int(words[1])
    return found


def can_look():
    """Whether this system tells which pages of a mapping are a process's own."""
    with mmap.mmap(-1, WORTH_A_LOOK, mmap.MAP_PRIVATE) as mapping:
        return own_pages(mapping) == (0, 0)


@pytest.mark.skipif(not can_look(), reason="needs /proc/self/pagemap")
@pytest.mark.parametrize(
    ("written", "pages"),
    [
        ([], 0),
        ([0], 1),
        ([-1], 1),
        ([5 * PAGE - 1], 1),
        ([5 * PAGE - 1, 5 * PAGE], 2),
        ([3 * PAGE, 9 * PAGE + 7], 7),  # what lies between goes along: to drop pages one by one takes longer
        ([0, -1], WORTH_A_LOOK // PAGE),
    ],
)
def test_only_pages_that_the_reader_wrote_are_dropped(line, written, pages):
    """The others show what the owner writes next, and need not be found again one by one."""
    data = os.urandom(WORTH_A_LOOK)
    view = carry(line, data)
    assert view == data
    for place in written:
        view[place] ^= 255
    del view
    assert resident() == (WORTH_A_LOOK - pages * PAGE) // 1024

    give_back(line)
    assert carry(line, data[::-1]) == data[::-1]


def all_dropped(reader, monkeypatch):
    """A reader whose memory is limited."""
    reader.drops = True


def hidden(reader, monkeypatch):
    """A system that does not tell whose pages are whose."""
    monkeypatch.setattr("pools_multicore.arena.PAGEMAP", "/proc/self/there-is-no-such-file")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
@pytest.mark.parametrize("otherwise", [all_dropped, hidden])
def test_no_page_stays_of_a_reader_with_limited_memory_or_where_nothing_tells(line, monkeypatch, otherwise):
    """As it is with mappings that are not worth a look."""
    otherwise(line[1], monkeypatch)
    data = os.urandom(WORTH_A_LOOK)

    assert carry(line, data) == data
    assert resident() == 0


@pytest.mark.skipif(not can_look(), reason="needs /proc/self/pagemap")
@pytest.mark.parametrize(("options", "keeps"), [({}, True), ({"max_worker_memory": "4G"}, False)])
def test_a_worker_with_limited_memory_keeps_no_pages_of_arguments(options, keeps):
    """What is kept counts as its memory, and would have it replaced too early."""
    with MakePool("multicore", n_jobs=1, **options) as pool:
        assert pool.apply(np.sum, (np.ones(WORTH_A_LOOK // 8),)) == WORTH_A_LOOK // 8
        assert (pool.apply(resident) > 0) is keeps


KEPT = {
    "view": lambda view: view,
    "slice": lambda view: view[10:20],
    "view of a view": lambda view: memoryview(memoryview(view)[1:])[1:],
    "array": lambda view: np.frombuffer(view, dtype=np.uint8)[7:].reshape(-1, 1),
}


@pytest.mark.parametrize("keep", KEPT)
def test_a_segment_that_something_refers_to_is_not_written(line, keep):
    """Whatever it is that refers to it."""
    kept = KEPT[keep](carry(line, b"a" * 300_000))
    give_back(line)
    other = carry(line, b"b" * 300_000)

    assert memoryview(kept).tobytes()[:5] == b"aaaaa"
    assert other[:5] == b"bbbbb"
    assert number_of_segments(line[0]) == 2


def test_after_a_fork_of_the_reader_a_segment_is_not_written_again(line):
    """The child may look at it for as long as it likes."""
    view = carry(line, b"a" * 300_000)
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(ready[1], b".")
        os.read(go[0], 1)
        os._exit(0 if bytes(view[-5:]) == b"aaaaa" else 1)
    os.read(ready[0], 1)
    del view
    give_back(line)
    carry(line, b"b" * 300_000)
    os.write(go[1], b".")

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for fd in (*ready, *go):
        os.close(fd)


@pytest.fixture
def written(monkeypatch):
    """The sizes that are written by ``pwrite``."""
    sizes, pwrite = [], os.pwrite

    def counted(fd, data, offset):
        sizes.append(len(data))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    return sizes


def test_a_segment_that_is_used_again_is_mapped(line, written):
    """What comes is right at any size, also where it does not end with a piece; and larger than before."""
    arena, _, _ = line
    arena._maps = True
    sizes = [2 * PIECE + 5, 2 * PIECE + 5, 2 * PIECE, PIECE + 4096, PIECE + 5000, 2 * PIECE + 5]
    for number, size in enumerate(sizes):
        data = bytes([number]) * (size - 1) + b"e"
        assert carry(line, data) == data
        gc.collect()
        give_back(line)
        (segment,) = arena._segments.values()
        assert (segment.mapping is None) is (number == 0), "what is used once is not worth mapping"
    assert written == sizes[:1], "the first time, since only that says that there is no memory"


def test_only_what_has_memory_behind_it_is_written_through_a_mapping(line, written):
    """A write to the rest of one would kill the process, where there is none."""
    arena, _, _ = line
    arena._maps = True
    some, more = LARGE_ENOUGH + 1, LARGE_ENOUGH + 100
    for number, size in enumerate((some, some, more, more)):
        data = bytes([number]) * size
        assert carry(line, data) == data
        gc.collect()
        give_back(line)
    assert number_of_segments(arena) == 1
    assert written == [some, more]


def test_a_write_that_is_interrupted_costs_the_segment(line, monkeypatch):
    """Nobody would say of it that it is free."""
    arena, _, _ = line

    def interrupted(fd, data, offset):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "pwrite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        arena.hold(memoryview(bytes(LARGE_ENOUGH)))
    assert number_of_segments(arena) == 0


def test_without_memory_there_is_no_segment(line, monkeypatch):
    """The buffer goes another way then."""

    def full(*_):
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    assert line[0].hold(memoryview(bytes(300_000))) is None
    assert number_of_segments(line[0]) == 0


def test_a_reader_that_takes_no_descriptors_gets_the_bytes(line):
    """As when its side of the socket is full."""
    arena, _, side = line
    sent = 0
    while True:
        held = arena.hold(memoryview(bytes([sent % 256]) * 300_000))
        if held is None:
            break  # all segments are in use
        way = arena.put(held, f"reader {sent}", side)
        if not isinstance(way, Reference):
            assert way == bytes([sent % 256]) * 300_000
            break
        sent += 1


def test_descriptors_are_closed_with_the_arena(line):
    """Those that something still refers to when that goes."""
    arena = line[0]
    held = arena.hold(memoryview(bytes(300_000)))
    assert isinstance(held, Held)
    fd = held.segment.fd
    arena.close()
    os.fstat(fd)
    del held
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


# --- a pool -----------------------------------------------------------------------------------------


def arenas(_=None):
    """Return how many segments this process has mapped."""
    return Path("/proc/self/maps").read_text().count("memfd:pools-arena")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_callers_mappings_are_its_own():
    """A worker that is forked later has none of them, and one maps none of what it writes itself."""
    with MakePool("multicore", n_jobs=1, start_method="fork") as pool:
        for _ in range(4):
            gc.collect()
            pool.apply(spoil, (np.full(LARGE, 1.0),))
        assert arenas() > 0
        with MakePool("multicore", n_jobs=1, start_method="fork") as other:
            assert other.apply(arenas) == 0
            for _ in range(4):
                gc.collect()
                other.apply(make, (1,))
            assert other.apply(arenas) == 0


def spoil(array):
    """Change an argument in place, and return another array that the task keeps no hold of."""
    total = float(array.sum())
    array[:] = -1
    return np.full(LARGE, total)


def test_neither_side_sees_what_the_other_writes(pool):
    """Arguments in workers, and results in the caller, are writable and private."""
    arrays = [np.full(LARGE, float(number)) for number in range(12)]
    results = pool.map(spoil, arrays, chunksize=1)

    for number, (array, result) in enumerate(zip(arrays, results, strict=True)):
        assert (array == number).all()
        assert (result == number * LARGE).all()
        result[:] = 7
    again = pool.map(spoil, arrays, chunksize=2)
    assert all((result == 7).all() for result in results)
    assert [float(result[0]) for result in again] == [number * LARGE for number in range(12)]


def remember(state, array):
    """Keep an array, and say whether those kept before are as they were."""
    kept = state.setdefault("kept", [])
    kept.append((float(array[0]), array))
    return all((one == first).all() for first, one in kept)


def test_an_array_that_a_worker_keeps_stays_as_it_is():
    """It sees no later task's data."""
    with MakePool("multicore", n_jobs=2, use_worker_state=True, keep_alive=True) as pool:
        arrays = (np.full(LARGE, float(number)) for number in range(30))
        assert all(pool.imap_unordered(remember, arrays, chunksize=1))


def make(number):
    """Return an array full of a number."""
    return np.full(LARGE, float(number))


def test_results_that_the_caller_keeps_stay_as_they_are(pool):
    """Also when there are more of them than segments, and after the pool has ended."""
    kept = list(pool.imap(make, range(150)))
    pool.map(make, range(50))
    pool.stop_and_join()

    assert all((array == number).all() for number, array in enumerate(kept))


def kill_at(array):
    """End the worker on one of them, with the arrays of others in its hands."""
    if array[0] == 5:
        os._exit(3)
    return array * 2


def test_a_worker_that_dies_takes_nothing_with_it(pool):
    """Its task alone is lost."""
    arrays = [np.full(LARGE, float(number)) for number in range(10)]
    results = pool.map(kill_at, arrays, chunksize=1, on_error="return")

    assert [number for number, result in enumerate(results) if not isinstance(result, np.ndarray)] == [5]
    assert all((result == 2 * number).all() for number, result in enumerate(results) if number != 5)


def test_without_memfd_arrays_go_through_the_socket(monkeypatch):
    """As on systems that lack it."""
    monkeypatch.delattr(os, "memfd_create")
    with MakePool("multicore", n_jobs=2, start_method="fork") as pool:
        results = pool.map(spoil, [np.full(LARGE, 2.0)] * 4)
    assert all((result == 2 * LARGE).all() for result in results)


def total(shared, number):
    """Use a shared array, and change this worker's own."""
    shared[number] += 1
    return float(shared[number])


def test_a_large_shared_object_is_one_memory_and_private_to_each(pool):
    """Workers map the same segment; what one writes stays with it."""
    shared = np.arange(float(LARGE))
    pool.configure(shared_objects=shared, keep_alive=True)
    results = pool.map(total, range(100))

    assert results == [number + 1.0 for number in range(100)]
    assert (shared == np.arange(float(LARGE))).all()


dtypes = st.sampled_from(["f8", "f4", "i8", "u1", "c16", "?", "M8[s]", "S5", "U3", "i4,f8", ">i2", "O"])
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def read_only(array):
    """Return a copy that cannot be written to."""
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "as it is": lambda array: array,
    "Fortran": np.asfortranarray,
    "backwards": lambda array: array[::-1] if array.ndim else array,
    "every other": lambda array: array[..., ::2] if array.ndim else array,
    "transposed": lambda array: array.T,
    "read-only": read_only,
}


@st.composite
def arrays(draw):
    """Arrays of all kinds, some of them large."""
    shape = draw(shapes)
    if draw(st.booleans()):
        shape = (draw(st.integers(40_000, 70_000)), *shape[:1])
    array = np.zeros(shape, dtype=draw(dtypes))
    if array.dtype.kind in "fiu" and array.size:
        array += np.arange(array.size).reshape(array.shape).astype(array.dtype)
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](array)


nested = st.recursive(
    arrays() | st.integers() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=5,
)


def same(value):
    """Return the argument."""
    return value


def equal(left, right) -> bool:
    """Compare nested values with arrays in them."""
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and bool((left == right).all())
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(st.lists(nested, max_size=4))
def test_any_structure_with_arrays_survives_both_ways(values):
    """All dtypes, orders and strides, zero sizes and objects."""
    # What pickle makes of them is the measure: numpy itself changes the byte order of some.
    expected = pickle.loads(pickle.dumps(values, 5))
    with MakePool("multicore", n_jobs=1, start_method="fork") as pool:
        assert equal(pool.map(same, values), expected)

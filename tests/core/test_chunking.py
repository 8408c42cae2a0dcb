"""How many tasks the next chunk takes, as tables; nothing is measured here."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools_core.chunking import BYTES, ENDING, FINEST, GROWTH, GUESS, ITSELF, LARGEST, NOTED, TARGET, Chunker
from pools_core.options import CallSettings


def chunker(length=None, **settings) -> Chunker:
    """Return a chunker for a call with those options."""
    return Chunker(CallSettings(**settings), length)


def sizes(made: Chunker, count: int, workers: int = 2) -> list[int]:
    """Return the next sizes for an input without end."""
    return [made.next_size(None, workers) for _ in range(count)]


def cut(made: Chunker, length: int, workers: int = 4) -> list[int]:
    """Return the sizes of the chunks into which a whole input is cut."""
    found = []
    while length:
        found.append(min(made.next_size(length, workers), length))
        length -= found[-1]
    return found


# --- sizes that the user chose --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunk_size", "expected"),
    [
        (1, [1, 1, 1, 1]),
        (7, [7, 7, 7, 7]),
        (1.0, [1, 1, 1, 1]),
        (2.5, [3, 2, 3, 2]),
        (1.25, [2, 1, 1, 1, 2, 1, 1, 1]),
        (10 / 3, [4, 3, 3, 4, 3, 3]),
        pytest.param(
            100_000,
            [100_000] * 3,
        ),
    ],
)
def test_a_fixed_size_is_kept_to(chunk_size, expected):
    """A fraction is carried forward; neither the time nor the bytes that tasks take change anything."""
    made = chunker(chunk_size=chunk_size)
    found = []
    for _ in expected:
        found.append(made.next_size(10**6, 8))
        made.learn(found[-1], 1000.0)
        made.learn_bytes(found[-1], 10 * BYTES)

    assert found == expected
    assert made.fixed


@given(st.floats(1, 1000), st.integers(1, 200))
def test_fractions_add_up(chunk_size, count):
    """So many chunks hold as many tasks as they should, and no two differ by more than one."""
    found = sizes(chunker(chunk_size=chunk_size), count)

    assert sum(found) - 1 < count * chunk_size + 1e-6
    assert sum(found) >= count * chunk_size - 1e-6
    assert set(found) <= {math.floor(chunk_size), math.ceil(chunk_size)}


@pytest.mark.parametrize(
    ("length", "n_splits", "expected"),
    [
        (10, 4, [3, 2, 3, 2]),
        (10, 3, [4, 3, 3]),
        (12, 4, [3, 3, 3, 3]),
        (10, 1, [10]),
        pytest.param(
            100_000,
            2,
            [50_000] * 2,
        ),
        (3, 10, [1, 1, 1]),
        (1, 1, [1]),
    ],
)
def test_n_splits(length, n_splits, expected):
    """So many chunks, as equal as can be; no more than there are tasks."""
    made = chunker(length, n_splits=n_splits)

    assert made.fixed
    assert cut(made, length) == expected


@given(st.integers(1, 5000), st.integers(1, 300))
def test_n_splits_gives_as_many_chunks_as_were_asked_for(length, n_splits):
    """Whatever does not come out even."""
    assert len(cut(chunker(length, n_splits=n_splits), length)) == min(length, n_splits)


def test_chunk_size_wins_over_n_splits():
    """As CallOptions says."""
    assert cut(chunker(10, chunk_size=5, n_splits=10), 10) == [5, 5]


@pytest.mark.parametrize("length", [None, 0])
def test_n_splits_of_unknown_length_is_not_fixed(length):
    """There is nothing to divide; sizes adapt."""
    made = chunker(length, n_splits=4)

    assert not made.fixed
    assert sizes(made, 2) == [1, 1]


@pytest.mark.parametrize(
    ("chunk_size", "most", "expected"),
    [(5, 3, [3, 3]), (5, 5, [5, 5]), (2.5, 2, [2, 2, 2]), (2, 100, [2, 2])],
)
def test_max_tasks_active_bounds_a_fixed_size(chunk_size, most, expected):
    """A chunk cannot hold more than may be active."""
    assert sizes(chunker(chunk_size=chunk_size, max_tasks_active=most), len(expected)) == expected


# --- sizes that adapt -----------------------------------------------------------------------------


def test_until_something_is_measured_chunks_are_single_tasks():
    """A first task may take an hour."""
    made = chunker()

    assert sizes(made, 5) == [1] * 5
    assert made.last == 1
    assert not made.fixed
    made.learn(0, 1.0)
    assert sizes(made, 2) == [1, 1]


def test_growth_is_bounded_by_a_factor_and_in_all():
    """Of tasks too short to measure each chunk is 16 times the last one, up to the largest."""
    made = chunker()
    made.learn(1, 0.0)

    assert sizes(made, 5) == [GROWTH, GROWTH**2, GROWTH**3, LARGEST, LARGEST]
    assert made.last == LARGEST


@pytest.mark.parametrize(
    ("per_task", "expected"),
    [
        (TARGET / 10.5, 10),
        (TARGET / 500.5, 500),
        (TARGET / 4000.5, 4000),
        (TARGET / 1.5, 1),
        (TARGET, 1),
        (10 * TARGET, 1),
        (3600.0, 1),
    ],
)
def test_a_chunk_is_a_few_milliseconds_of_work(per_task, expected):
    """However many tasks that is, and at least one."""
    made = chunker()
    for _ in range(4):
        size = made.next_size(None, 2)
        made.learn(size, ITSELF + size * per_task)

    assert sizes(made, 2) == [expected] * 2


def test_what_a_chunk_takes_by_itself_is_not_taken_for_its_tasks():
    """At the start, chunks of one task are nearly nothing else; but no more than so much is believed."""
    made, doubtful = chunker(), chunker()
    made.learn(1, ITSELF + 1e-6)
    doubtful.learn(1, ITSELF)

    assert made.worth == pytest.approx(TARGET / 1e-6, abs=2)
    assert doubtful.worth == pytest.approx(TARGET / (ITSELF / 4), abs=2)


def test_sizes_follow_an_input_that_gets_heavier():
    """Old measurements count half with each new one: ten times the time is soon a tenth of the size."""
    made = chunker()
    for _ in range(10):
        made.learn(100, ITSELF + 100 * TARGET / 1000.5)
    for _ in range(4):
        sizes(made, 1)
    assert sizes(made, 1) == [1000]

    found = []
    for _ in range(12):
        found += sizes(made, 1)
        made.learn(100, ITSELF + 100 * TARGET / 100.5)

    assert found == sorted(found, reverse=True)
    assert sizes(made, 1)[0] in (100, 101)


def test_and_one_that_gets_lighter():
    """A slow first task does not keep chunks small for ever."""
    made = chunker()
    made.learn(1, 1.0)
    assert sizes(made, 3) == [1, 1, 1]

    for _ in range(40):
        size = made.next_size(None, 2)
        made.learn(size, ITSELF + size * TARGET / 200.5)

    assert sizes(made, 1)[0] in (199, 200)


@pytest.mark.parametrize(
    ("nbytes", "expected"), [(BYTES // 8, 8), (BYTES // 2, 2), (BYTES, 1), (50 * BYTES, 1), (1, LARGEST)]
)
def test_a_chunk_of_large_items_stays_small(nbytes, expected):
    """Memory in flight is bounded, too: about a megabyte a chunk, and at least one task."""
    made = chunker()
    made.learn(1, 0.0)
    made.learn_bytes(3, 3 * nbytes)

    assert sizes(made, 5)[-1] == expected


@pytest.mark.parametrize(
    ("remaining", "workers", "expected"),
    [
        (1, 4, 1),
        (8, 4, 1),
        (9, 4, 2),
        (100, 4, 13),
        (100, 1, 50),
        (100, 50, 1),
        (10**9, 4, LARGEST),
    ],
)
def test_the_end_of_a_known_input_is_shared_out(remaining, workers, expected):
    """The rest makes at least two chunks for each worker, so that all end together."""
    made = chunker(10**9)
    made.learn(1, ITSELF + 0.6 * FINEST)
    sizes(made, 4)

    assert made.next_size(remaining, workers) == min(expected, made.worth)


def test_a_whole_known_input_ends_in_single_tasks():
    """Each chunk is at most its share of what is left, so sizes fall off, and nothing is left out."""
    made = chunker(10_000)
    made.learn(1, ITSELF + FINEST)

    found = cut(made, 100, workers=4)

    assert sum(found) == 100
    assert found == sorted(found, reverse=True)
    assert found[1 - ENDING * 4 :] == [1] * (ENDING * 4 - 1)


def test_tasks_of_no_time_are_not_cut_up_finely():
    """What is left goes at once when it takes no time, and as many have been measured together."""
    made = chunker(100_000)
    for _ in range(4):
        size = made.next_size(None, 4)
        made.learn(size, ITSELF + size * 1e-6)

    found = cut(made, 10_000, workers=4)

    assert sum(found) == 10_000
    assert min(found[:-1]) * 1e-6 >= FINEST - 1e-5
    assert len(found) < 20


def test_tasks_that_only_seem_to_take_no_time_go_to_all_workers():
    """One that was measured by itself may have been an exception."""
    made = chunker(1000)
    made.learn(1, 0.0)
    sizes(made, 4)

    assert cut(made, 1000, workers=4) == [250] * 4


@pytest.mark.parametrize("most", [1, 5, 100])
def test_max_tasks_active_bounds_a_size_that_adapts(most):
    """A chunk cannot hold more than may be active."""
    made = chunker(max_tasks_active=most)
    made.learn(1, 0.0)

    assert max(sizes(made, 6)) == most


@pytest.mark.parametrize(("chunk_size", "last"), [(1, 1), (2.5, 3), (7, 7)])
def test_last_of_a_fixed_size_is_its_larger_neighbour(chunk_size, last):
    """The window of items in flight is made of it, so it must not be too small for every other chunk."""
    made = chunker(chunk_size=chunk_size)

    assert made.last == last
    sizes(made, 3)
    assert made.last == last


# --- guesses, where workers give back what is behind a slow task ------------------------------------


def test_tasks_of_which_nothing_is_known_go_together_at_first():
    """So that a small call is not all beginning; from what they took it is known how many make a chunk."""
    made = Chunker(CallSettings(), 10_000, joins=True)
    assert made.guesses
    assert [made.next_size(10_000, 2), made.next_size(10_000, 2)] == [GUESS, GUESS]

    made.learn(GUESS, ITSELF + GUESS * 1e-6)

    assert not made.guesses
    assert made.next_size(9_000, 2) == GUESS * GROWTH


def test_what_units_cost_is_not_taken_for_their_tasks():
    """The chunks that follow have none."""
    made = Chunker(CallSettings(), None, joins=True)
    made.learn(GUESS, ITSELF + GUESS * (NOTED + 1e-6), guessed=True)
    assert made.worth == pytest.approx(TARGET / 1e-6, rel=0.01)


@pytest.mark.parametrize(("remaining", "workers", "expected"), [(4, 4, 1), (9, 4, 2), (17, 4, 3)])
def test_a_guess_leaves_each_worker_its_share(remaining, workers, expected):
    """The tasks may take an hour each."""
    assert Chunker(CallSettings(), remaining, joins=True).next_size(remaining, workers) == expected


def test_after_a_slow_task_nothing_is_guessed():
    """Nor where the user has chosen a size, and where nothing can be given back."""
    made = Chunker(CallSettings(), None, joins=True)
    made.next_size(None, 2)
    made.slow_down()
    assert (made.guesses, made.next_size(None, 2)) == (False, 1)

    for settings, joins in ((CallSettings(chunk_size=1), True), (CallSettings(), False)):
        made = Chunker(settings, None, joins)
        assert (made.guesses, made.next_size(None, 2)) == (False, 1)


# --- chunks of a chosen size that go together -----------------------------------------------------


def joined(size: int, per_task: float, length: int | None = None, **settings) -> list[int]:
    """Return the first sizes where several chunks may go together and tasks take so many seconds."""
    made = Chunker(CallSettings(chunk_size=size, **settings), length, joins=True)
    found = []
    for _ in range(6):
        found.append(made.next_size(None, 2))
        made.learn(found[-1], ITSELF + found[-1] * per_task)
    return found


@pytest.mark.parametrize("size", [1, 3, 100])
def test_short_ones_go_together_and_stay_whole(size):
    """As many as make some milliseconds of work, and never a part of one."""
    found = joined(size, 1e-6)
    assert found[0] == size
    assert found[-1] > 10 * size
    assert all(one % size == 0 and one * 1e-6 <= TARGET for one in found)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_longer_ones_go_alone(size):
    """Whatever they are, they are not made smaller than the user said."""
    assert joined(size, TARGET) == [size] * 6


def test_after_a_slow_task_they_begin_small_again():
    """What was measured before tells too little."""
    made = Chunker(CallSettings(chunk_size=1), None, joins=True)
    for _ in range(4):
        size = made.next_size(None, 2)
        made.learn(size, size * 1e-6)
    assert size > GROWTH
    made.slow_down()
    assert made.next_size(None, 2) <= GROWTH


def test_they_keep_to_what_there_is_room_for():
    """To ``max_tasks_active``, and to the room that is left of it."""
    assert max(joined(1, 1e-6, max_tasks_active=10)) == 10
    made = Chunker(CallSettings(chunk_size=3), None, joins=True)
    made.learn(1000, 1e-3)
    assert made.next_size(None, 2, room=8) == 6


def test_sizes_that_are_no_whole_numbers_do_not_go_together():
    """2.5 gives 3, 2, 3, 2."""
    made = Chunker(CallSettings(n_splits=4), 10, joins=True)
    made.learn(1000, 1e-3)
    assert [made.next_size(None, 2) for _ in range(4)] == [3, 2, 3, 2]


# --- what is expected, since tasks of the function took as long in another call -----------------------


def expecting(seconds: float, length: int | None = None) -> Chunker:
    """Return a chunker that was told how long a task takes."""
    made = Chunker(CallSettings(), length, joins=True)
    made.expect(seconds)
    return made


@pytest.mark.parametrize(
    ("per_task", "length", "expected"),
    [
        (TARGET / 100.5, None, [int(100.5 * FINEST / TARGET)] * 3),
        (TARGET / 1e6, None, [LARGEST] * 3),
        (TARGET / 100.5, 10**6, [100] * 3),
        (3600.0, None, [1] * 3),
        (1e-7, 1000, [500, 500]),
        (FINEST / 10.5, 100, [25, 19, 14, 11]),
    ],
)
def test_what_is_expected_counts_from_the_first_chunk_on(per_task, length, expected):
    """There is no guess, and it need not grow; the end of the input is shared out as ever."""
    made = expecting(per_task, length)
    assert made.expects and not made.guesses and made.measured is None
    found = cut(made, length, 2)[: len(expected)] if length else sizes(made, len(expected))
    assert found == expected


def test_what_is_measured_outweighs_what_was_expected():
    """At once, and however wrong it was."""
    made = expecting(1e-7)
    made.learn(1, 10 * TARGET)
    assert not made.expects
    assert sizes(made, 2) == [1, 1]
    assert made.measured == pytest.approx(10 * TARGET, rel=0.01)

    made = expecting(3600.0)
    for _ in range(40):
        made.learn(made.next_size(None, 2), ITSELF)
    assert sizes(made, 1) == [LARGEST]


@pytest.mark.parametrize("why", [Chunker.slow_down, Chunker.guess_nothing])
def test_what_proves_wrong_is_forgotten(why):
    """Before anything is measured: the first task of a trial may still be running."""
    made = expecting(1e-7)
    why(made)
    assert not made.expects
    assert sizes(made, 3) == [1] * 3
    made.learn(1, 1e-3)
    assert made.worth == 4


def test_what_was_measured_is_not_forgotten_with_it():
    """Only its growth begins anew."""
    made = expecting(1e-7)
    made.learn(1000, ITSELF + 1000 * 1e-6)
    made.slow_down()
    assert sizes(made, 1) == [GROWTH]
    assert made.measured == pytest.approx(1e-6, rel=0.01)

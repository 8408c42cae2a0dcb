"""Who gets which chunk, as tables: values in, a decision out; nothing is started and no clock is read."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools_multicore.schedule import DEEPEST, LINE, Place, Schedule, deepest

NEW = Place(None, False)
"""A worker that is still to be started."""


def at_once(worker: int) -> Place:
    """Return the place at an idle worker."""
    return Place(worker, False)


def in_line(worker: int) -> Place:
    """Return the place behind what a worker has already."""
    return Place(worker, True)


def plan(size: int, lines: list[int], seconds: float | None = None) -> Schedule:
    """Return a schedule whose workers 0, 1, ... have so many chunks, which take so long."""
    made = Schedule(size)
    if seconds is not None:
        made.add_worker(-1)
        made.gave(-1, 0)
        made.ended(-1, 0, seconds)
        made.forget_worker(-1)
    numbers = count(1)
    for worker, length in enumerate(lines):
        made.add_worker(worker)
        for _ in range(length):
            made.gave(worker, next(numbers))
    return made


@pytest.mark.parametrize(
    ("size", "lines", "expected"),
    [
        pytest.param(2, [], NEW, id="the first chunk starts the first worker"),
        pytest.param(2, [0], at_once(0), id="an idle worker comes before a new one"),
        pytest.param(2, [1], NEW, id="a new worker comes before a line"),
        pytest.param(2, [1, 0], at_once(1), id="whoever is idle"),
        pytest.param(3, [0, 0], at_once(0), id="the first of several idle ones"),
        pytest.param(3, [5, 4], NEW, id="a new one even late"),
        pytest.param(2, [1, 1], in_line(0), id="the first of equal lines"),
        pytest.param(2, [3, 2], in_line(1), id="the shortest line"),
        pytest.param(3, [2, 1, 3], in_line(1), id="the shortest line in the middle"),
        pytest.param(1, [7], in_line(0), id="the only worker"),
    ],
)
def test_where_a_chunk_goes(size, lines, expected):
    """An idle worker, else a new one, else the end of the shortest line."""
    assert plan(size, lines).place() == expected


@pytest.mark.parametrize(
    ("size", "lines", "expected"),
    [
        pytest.param(3, [1], in_line(0), id="behind the only one"),
        pytest.param(3, [2, 1], in_line(1), id="the shortest line"),
        pytest.param(3, [1, 0], at_once(1), id="an idle worker is as good as ever"),
        pytest.param(3, [], NEW, id="with nobody there is no other way"),
    ],
)
def test_where_a_chunk_goes_when_no_worker_shall_be_started(size, lines, expected):
    """``grow=False`` prefers any line to a new worker."""
    assert plan(size, lines).place(grow=False) == expected


def test_placing_decides_and_changes_nothing():
    """A decision that is not carried out, because a worker could not be started, leaves no trace."""
    schedule = plan(3, [1, 2], 0.004)
    before = schedule.room(), schedule.workers

    assert [schedule.place() for _ in range(3)] == [NEW] * 3
    assert (schedule.room(), schedule.workers) == before


@pytest.mark.parametrize(
    ("seconds", "depth"),
    [
        (None, 1),
        (0.0, DEEPEST),
        (1e-12, DEEPEST),
        (LINE / 100, DEEPEST),
        (LINE / 9.5, 10),
        (LINE / 3.5, 4),
        (LINE / 1.5, 2),
        (LINE, 2),
        (LINE * 1.01, 1),
        (60.0, 1),
    ],
)
def test_how_many_chunks_a_worker_may_have(seconds, depth):
    """Ten milliseconds of work may wait in line: no unmeasured or long chunk, several short ones."""
    assert plan(2, [], seconds).depth == depth


@pytest.mark.parametrize(
    ("size", "lines", "seconds", "room"),
    [
        (4, [], None, 4),
        (4, [1, 1, 1], None, 1),
        (2, [1, 1], None, 0),
        (2, [1, 1], LINE / 3.5, 6),
        (2, [4, 4], LINE / 3.5, 0),
        (2, [4, 4], 1.0, -6),
        (1, [], 0.0, DEEPEST),
    ],
)
def test_room(size, lines, seconds, room):
    """Depth times workers, those not started too, less what is out; negative when chunks got longer."""
    assert plan(size, lines, seconds).room() == room


def test_the_first_measurement_counts_whole_and_the_later_ones_a_fifth():
    """One untypical chunk does not turn the policy over; a lasting change does."""
    schedule = plan(1, [0])

    def end_one(seconds):
        schedule.gave(0, 1)
        schedule.ended(0, 1, seconds)
        return schedule.depth

    assert end_one(LINE / 20.5) == 21
    assert end_one(2 * LINE) == 3  # the mean is now 0.8 / 20.5 + 0.2 * 2 = 0.439 lines
    assert [end_one(2 * LINE) for _ in range(4)] == [2, 1, 1, 1]


def test_a_chunk_that_did_not_run_to_its_end_measures_nothing():
    """A steal, a refusal or a cancelling says nothing of how long chunks take."""
    schedule = plan(2, [3], LINE / 3.5)

    schedule.ended(0, 2, None)

    assert schedule.depth == 4
    assert schedule.room() == 2 * 4 - 2


@pytest.mark.parametrize(
    ("size", "lines", "theft"),
    [
        pytest.param(2, [], None, id="nobody"),
        pytest.param(2, [1, 0], None, id="what runs is not taken away"),
        pytest.param(3, [1, 1], None, id="nor given to a new worker"),
        pytest.param(2, [2, 2], None, id="nobody is idle"),
        pytest.param(1, [9], None, id="nobody else"),
        pytest.param(2, [2, 0], (0, at_once(1)), id="to the idle one"),
        pytest.param(2, [0, 2], (1, at_once(0)), id="in either direction"),
        pytest.param(4, [2, 4, 0, 3], (1, at_once(2)), id="from the longest line"),
        pytest.param(2, [5], (0, NEW), id="to one that could be started"),
        pytest.param(3, [2, 2], (0, NEW), id="from the first of equal lines"),
        pytest.param(3, [2, 0], (0, at_once(1)), id="rather to the idle one than to a new one"),
        pytest.param(3, [0, 0, 0], None, id="all idle"),
    ],
)
def test_steal(size, lines, theft):
    """Nobody is idle while another has a line; and asking moves nothing."""
    schedule = plan(size, lines)

    assert schedule.steal() == theft
    assert schedule.steal() == theft


def test_ended_makes_room_and_idleness():
    """In any order: a worker answers in its own, the engine takes chunks back in another."""
    schedule = plan(1, [3])

    for chunk, idle in ((2, False), (3, False), (1, True)):
        schedule.ended(0, chunk, None)
        assert schedule.is_idle(0) is idle
    assert schedule.room() == 1
    assert schedule.place() == at_once(0)


@pytest.mark.parametrize(("worker", "chunk"), [(0, 99), (7, 1), (1, 1)])
def test_the_end_of_what_is_not_there_is_ignored(worker, chunk):
    """A chunk that was taken over may still be spoken of: neither its room nor its time counts."""
    schedule = plan(2, [1, 1])

    schedule.ended(worker, chunk, 60.0 if chunk == 99 else 1e-6)

    assert schedule.room() == 0
    assert schedule.depth == 1


def test_a_forgotten_worker_takes_its_line_along():
    """Its place is free for a new worker, and room for its chunks is there again."""
    schedule = plan(2, [3, 1])

    schedule.forget_worker(0)

    assert schedule.workers == 1
    assert schedule.room() == 1
    assert schedule.place() == NEW
    schedule.ended(0, 1, 1e-6)
    assert schedule.room() == 1
    schedule.forget_worker(0)
    schedule.forget_worker(5)
    assert (schedule.workers, schedule.room()) == (1, 1)


def test_the_number_of_a_forgotten_worker_may_be_used_again():
    """The next one begins with an empty line."""
    schedule = plan(1, [2])
    schedule.forget_worker(0)

    schedule.add_worker(0)

    assert schedule.is_idle(0)
    assert schedule.place() == at_once(0)


@given(
    size=st.integers(1, 5),
    steps=st.lists(
        st.tuples(st.sampled_from(["give", "end", "lose", "steal"]), st.integers(0, 99)), max_size=60
    ),
)
def test_the_books_are_right_whatever_happens(size, steps):
    """Against a plain model: no chunk is lost or counted twice, and nobody idles after the thefts."""
    schedule, lines, numbers = Schedule(size), {}, count(1)

    def give(place, chunk):
        worker = place.worker
        if worker is None:
            worker = next(number for number in range(size) if number not in lines)
            lines[worker] = []
            schedule.add_worker(worker)
        assert place.behind is bool(lines[worker])
        lines[worker].append(chunk)
        schedule.gave(worker, chunk)

    for step, number in steps:
        workers = sorted(lines)
        worker = workers[number % len(workers)] if workers else None
        if step == "give":
            give(schedule.place(), next(numbers))
        elif step == "end" and worker is not None and lines[worker]:
            schedule.ended(worker, lines[worker].pop(0), 1.0)
        elif step == "lose" and worker is not None:
            del lines[worker]
            schedule.forget_worker(worker)
        elif step == "steal":
            while (theft := schedule.steal()) is not None:
                victim, place = theft
                stolen = lines[victim].pop(1)
                schedule.ended(victim, stolen, None)
                give(place, stolen)
            lengths = [len(line) for line in lines.values()] + [0] * (size - len(lines))
            assert max(lengths) <= 1 or min(lengths) >= 1
        assert schedule.room() == size - sum(map(len, lines.values()))
        assert schedule.workers == len(lines) <= size


def test_chunks_of_a_slow_worker_do_not_keep_others_from_theirs():
    """With order_tasks the next chunk may be for an idle worker, however many wait at a busy one."""
    schedule = Schedule(2)
    for worker in range(2):
        schedule.add_worker(worker)
    schedule.gave(0, 1, bound=True)
    schedule.gave(1, 2, bound=True)
    assert schedule.room() == 0
    schedule.ended(1, 2, 10.0)
    schedule.gave(0, 3, bound=True)

    assert schedule.room() == 1
    assert schedule.place_at(1).worker == 1
    assert not schedule.place_at(1).behind


@pytest.mark.parametrize(
    ("workers", "cpus", "expected"),
    [(2, 2, DEEPEST), (1, 8, DEEPEST), (4, 2, DEEPEST // 2), (64, 2, 2), (500, 1, 2)],
)
def test_more_workers_than_cpus_have_shorter_lines(workers, cpus, expected):
    """In all there is as much in line; each has at least one chunk that waits."""
    assert deepest(workers, cpus) == expected
    made = Schedule(workers, expected)
    made.add_worker(0)
    made.gave(0, 1)
    made.ended(0, 1, 1e-6)
    assert made.depth == expected

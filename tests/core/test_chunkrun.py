"""Runs of very short tasks: nobody may notice them, but by the clock."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pools_core.calls import Call, Chunk, Convention, Outcomes, Packed, Returned, Shortened
from pools_core.chunkrun import LATE, PROOF, ChunkRun, Pass
from pools_core.failures import rebuild
from pools_core.flusher import GATHER, Flusher
from pools_core.ledger import LEDGER_BYTES, Ledger
from pools_core.packed_functions import pack_function
from pools_core.payload import pack_batch, unpack, unpack_batch
from pools_core.runner import Runner
from pools_core.seeding import derive, task_seed
from pools_core.setup import BOARD_SLOTS, running

SIZE = 3_000
"""Tasks: the first ones prove to be short, so the others go in runs."""

PATIENCE = 60
"""Seconds after which something that should happen at once is taken to have been forgotten."""


class Worker:
    """A runner whose outcomes are kept."""

    def __init__(self) -> None:
        self.parts: list[Outcomes] = []
        self.board: list[int] = [0] * BOARD_SLOTS
        self.runner = Runner(self.parts.append, "a worker", self.board)

    def run(self, function: Any, items: Any, convention: Convention = Convention.ONE) -> list[Any]:
        """Run a chunk, and return what came of its tasks, errors among them."""
        call = Call(1, function, convention, seed=7)
        self.runner.run(Chunk(1, call, 100, len(items), pack_batch(items, "argument")))
        found: list[Any] = []
        for part in self.parts:
            assert part.first == len(found)
            opened, sealed = (
                unpack_batch(part.values) if isinstance(part.values, Packed) else (part.values, False)
            )
            found += [unpack(value) for value in opened] if sealed else opened
            for failed in part.failures:
                found[failed.offset] = rebuild(failed, failed.offset)
        assert [part.last for part in self.parts] == [False] * (len(self.parts) - 1) + [True]
        assert len(found) == len(items)
        return found


@pytest.fixture
def worker():
    """A worker whose wire packs."""
    return Worker()


@pytest.fixture
def runs(monkeypatch):
    """Keep of each run from where to where it was to go; all tasks count as short."""
    found = []
    whole = ChunkRun._in_a_run

    def noted(self, start, end):
        found.append((start, end))
        return whole(self, start, end)

    monkeypatch.setattr(ChunkRun, "_in_a_run", noted)
    monkeypatch.setattr("pools_core.chunkrun.SHORT", 1.0)
    return found


def test_results_are_those_of_single_tasks(worker, runs):
    """Each once and in order."""
    assert worker.run(lambda number: number * 2, range(SIZE)) == [number * 2 for number in range(SIZE)]
    assert sum(end - start for start, end in runs) > SIZE // 2


def test_arguments_are_unpacked_in_runs_too(worker, runs):
    """As starmap does."""
    items = [(number, 1) for number in range(SIZE)]
    assert worker.run(lambda a, b: a - b, items, Convention.STAR) == [n - 1 for n in range(SIZE)]
    assert runs


def test_each_task_of_a_run_has_its_own_stream(worker, runs):
    """Its index is known though nobody wrote it down."""
    seeds = worker.run(lambda _: task_seed(), range(SIZE))
    assert seeds == [derive(7, 100 + offset) for offset in range(SIZE)]
    assert runs


@pytest.mark.parametrize(
    "error", [ValueError("bad"), StopIteration(5), SystemExit(3), KeyboardInterrupt("k")]
)
def test_a_failure_is_that_of_its_task_alone(worker, runs, error):
    """As it was raised; a StopIteration ends nothing but its task."""
    bad = {1000, 1001, 2500}

    def task(number):
        if number in bad:
            raise error
        return number

    found = worker.run(task, range(SIZE))
    assert {number for number, value in enumerate(found) if isinstance(value, BaseException)} == bad
    assert all(type(found[number]) is type(error) and found[number].args == error.args for number in bad)
    assert [value for number, value in enumerate(found) if number not in bad] == sorted(
        set(range(SIZE)) - bad
    )
    assert runs


def test_what_is_not_plain_arrives_as_it_is(worker, runs):
    """Also when a run that began with plain results brings it."""
    found = worker.run(lambda number: bytearray(b"x") if number % 700 == 699 else number, range(SIZE))
    assert found == [bytearray(b"x") if number % 700 == 699 else number for number in range(SIZE)]
    assert all(type(found[number]) is bytearray for number in range(699, SIZE, 700))
    assert runs


def test_a_result_that_cannot_be_pickled_fails_alone(worker, runs):
    """The others of its run are none the worse for it."""
    found = worker.run(lambda number: (n for n in ()) if number == 1500 else number, range(SIZE))
    assert isinstance(found[1500], TypeError)
    assert [value for number, value in enumerate(found) if number != 1500] == [
        number for number in range(SIZE) if number != 1500
    ]


def pass_over(worker: Worker, function: Any, values: list[Any], flusher: Flusher | None = None) -> ChunkRun:
    """Return a pass over a chunk whose results so far can be watched."""
    items = list(range(SIZE))
    chunk = Chunk(1, Call(1, function), 0, SIZE, pack_batch(items, "argument"))
    work = Pass(chunk, function, items, False, values)
    return ChunkRun(work, worker.parts.append, "a worker", worker.board, flusher, None, None)


def test_a_run_is_cut_behind_the_task_that_is_slow(worker, runs):
    """What is there leaves, the board names the task, and all others run as well, once."""
    values: list[Any] = []
    ran: list[int] = []
    seen: list[Any] = []

    def task(number):
        ran.append(number)
        if number == 1000:
            worker.board[0] = 1
            seen.append((running(worker.board).span > 1, running(worker.board).offset <= 1000))
            whole.cut()  # as the flusher does when a millisecond is over
            seen.append((running(worker.board).offset, running(worker.board).span))
            seen.append(sum(part.size for part in worker.parts))
        return number

    whole = pass_over(worker, task, values)
    whole.run()

    assert seen == [(True, True), (1000, 1), 1000]
    assert ran == list(range(SIZE))
    assert sum(part.size for part in worker.parts) == SIZE


def test_results_that_are_not_packed_yet_do_not_leave(worker, runs):
    """Packing is for the worker's own thread; what came before the run may go."""
    values: list[Any] = []

    def task(number):
        if number == 1000:
            whole.cut()
        return bytearray(b"y") if number == 990 else number

    whole = pass_over(worker, task, values)
    whole.run()
    found: list[Any] = []
    for part in worker.parts:
        opened, sealed = unpack_batch(part.values)
        found += [unpack(value) for value in opened] if sealed else opened
    assert found == [bytearray(b"y") if number == 990 else number for number in range(SIZE)]


def test_long_tasks_go_one_by_one(worker, runs, monkeypatch):
    """There is nothing to be won, and the board is exact at every moment."""
    monkeypatch.setattr("pools_core.chunkrun.SHORT", 0.0)
    worker.run(abs, range(200))
    assert runs == []


class LateFlusher(Flusher):
    """Comes twice when the last word of a chunk has left, and the worker is about to say that it is over."""

    def watch(self, run):
        if run is None:
            self._run.cut()
            self._run.cut()
        self._run = run


@pytest.mark.parametrize(
    ("settings", "stop", "last"),
    [({"lifespan": 2}, None, Returned), ({}, lambda: True, Outcomes)],
    ids=["the worker is spent", "the rest is not wanted"],
)
def test_nothing_is_said_of_units_after_the_last_word(settings, stop, last):
    """Who hears it has forgotten the chunk, and may have given its rest to another."""
    said = []
    board = memoryview(bytearray(8 * BOARD_SLOTS)).cast("q")
    ledger = Ledger(memoryview(bytearray(LEDGER_BYTES)))
    runner = Runner(said.append, "a worker", board, LateFlusher(), ledger=ledger)
    call = Call(1, pack_function(slow), **settings)
    runner.run(Chunk(1, call, 0, 5, pack_batch(range(5), "argument"), unit=1), stop)
    assert type(said[-1]) is last
    assert not any(isinstance(event, Shortened) for event in said)


def slow(value):
    """Take longer than results may gather."""
    time.sleep(2 * GATHER)
    return value


def test_with_a_flusher_all_is_the_same():
    """It comes between the tasks whenever it likes."""
    flusher = Flusher()
    worker = Worker()
    worker.runner.flusher = flusher
    try:
        found = worker.run(lambda number: sum(range(number % 50)), range(20_000))
    finally:
        flusher.stop()
    assert found == [sum(range(number % 50)) for number in range(20_000)]


class Bell(threading.Event):
    """Says when somebody is about to sleep on it who was called before."""

    def __init__(self):
        super().__init__()
        self.called = False
        self.slept_on = threading.Semaphore(0)

    def set(self):
        self.called = True
        super().set()

    def wait(self, timeout=None):
        if timeout is None and self.called and not self.is_set():
            self.slept_on.release()
        return super().wait(timeout)


@pytest.fixture
def flusher(monkeypatch):
    """One of which can be told when it sleeps for good."""
    bells = SimpleNamespace(**{**vars(threading), "Event": Bell})
    monkeypatch.setattr("pools_core.flusher.threading", bells)
    flusher = Flusher()
    yield flusher
    flusher.stop()


def sleeps(flusher):
    """Wait until the flusher sleeps once more; return whether it did."""
    return flusher._busy.slept_on.acquire(timeout=PATIENCE)


def test_the_flusher_sleeps_while_a_slow_task_runs(flusher):
    """It does not take the interpreter from it a thousand times a second, to find nothing to do."""
    worker = Worker()
    worker.runner.flusher = flusher
    assert worker.run(lambda number: number or sleeps(flusher), range(3)) == [True, 1, 2]


def test_what_a_short_task_returns_leaves_though_the_flusher_slept(flusher):
    """It has to be there while the next one is slow, as if none had been slow before."""
    worker = Worker()
    worker.runner.flusher = flusher
    left = threading.Semaphore(0)
    keep = worker.runner.send

    def send(part):
        keep(part)
        left.release()

    worker.runner.send = send

    def task(number):
        if number == 0:
            return sleeps(flusher)
        if number == 2:
            return all(left.acquire(timeout=PATIENCE) for _ in range(2))  # those of 0, and of 1
        return number

    assert worker.run(task, range(4)) == [True, 1, True, 3]


class CalledFlusher(Flusher):
    """Keeps how many results there were each time that it was called."""

    def __init__(self, values):
        super().__init__()
        self.calls = []
        self._values = values

    def watch(self, run):
        pass

    def call(self):
        self.calls.append(len(self._values))


@pytest.mark.parametrize(
    ("gather", "cut_in", "called_at"),
    [
        (0.0, 5, 16),  # all of the single tasks has left, and somebody has to end the run that begins
        (1000.0, 20, 21),  # the run has ended, and what it brought waits behind the next task
        (1000.0, 5, 6),
    ],
    ids=["before a run", "after a run", "after a single task"],
)
def test_a_flusher_that_slept_is_called(worker, runs, monkeypatch, gather, cut_in, called_at):
    """As soon as there is something for it to do."""
    monkeypatch.setattr("pools_core.chunkrun.GATHER", gather)
    values: list[Any] = []

    def task(number):
        if number == cut_in:
            assert whole.cut()  # as the flusher does, which sleeps then
            return bytearray(b"x") if number > 16 else number  # no run comes behind that
        return number

    flusher = CalledFlusher(values)
    whole = pass_over(worker, task, values, flusher)
    whole.run()
    assert flusher.calls[0] == called_at


def test_units_are_given_back_before_the_flusher_sleeps(flusher):
    """It looks twice: a task is slow if it was running the last time as well."""
    said = []
    board = memoryview(bytearray(8 * BOARD_SLOTS)).cast("q")
    ledger = Ledger(memoryview(bytearray(LEDGER_BYTES)))
    runner = Runner(said.append, "a worker", board, flusher, ledger=ledger)
    seen = []

    def task(number):
        if number == 0:
            seen.append(sleeps(flusher))
            seen.append([event.size for event in said if isinstance(event, Shortened)])
        return number

    runner.run(Chunk(1, Call(1, task), 0, 9, pack_batch(range(9), "argument"), unit=3))
    assert seen == [True, [3]]
    assert sum(event.size for event in said if isinstance(event, Outcomes)) == 3


class EarlyFlusher(Flusher):
    """Looks as soon as it hears of a chunk, as it does when it was about to look after the one before."""

    def __init__(self):
        super().__init__()
        self.sleeps = []

    def watch(self, run):
        if run is not None:
            self.sleeps.append(run.cut())

    def call(self):
        """It has looked."""


def test_the_flusher_does_not_sleep_over_units_that_have_not_begun():
    """Nothing would call it while the first task is slow, and what is behind might wait for ever."""
    board = memoryview(bytearray(8 * BOARD_SLOTS)).cast("q")
    ledger = Ledger(memoryview(bytearray(LEDGER_BYTES)))
    flusher = EarlyFlusher()
    runner = Runner([].append, "a worker", board, flusher, ledger=ledger)
    runner.run(Chunk(1, Call(1, abs), 0, 9, pack_batch(range(9), "argument"), unit=3))
    assert flusher.sleeps == [False]


# --- trials: chunks whose size was only expected to be right ---------------------------------------------


class HandFlusher(Flusher):
    """Looks when a test says so, at a clock of the test's."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.run = None
        self.said = []

    def watch(self, run):
        self.run = run or self.run

    def call(self):
        """It looks by hand."""

    def look(self, after=0.0):
        """Look after so many seconds."""
        self.clock[0] += after
        self.said.append(self.run.cut())


@pytest.fixture
def clock(monkeypatch):
    """What a worker takes for the time, as the only element of a list."""
    now = [100.0]
    monkeypatch.setattr("pools_core.chunkrun.monotonic", lambda: now[0])
    return now


def trial(flusher, function, values):
    """Run a trial of tasks; return what was said of it, and what its tasks returned."""
    said = []
    board = memoryview(bytearray(8 * BOARD_SLOTS)).cast("q")
    runner = Runner(said.append, "a worker", board, flusher)
    items = pack_batch(values, "argument")
    runner.run(Chunk(1, Call(1, function), 0, len(values), items, trial=True))
    outcomes = [event for event in said if isinstance(event, Outcomes)]
    assert outcomes[-1].last and said[-1] is outcomes[-1]
    found = []
    for event in outcomes:
        opened, sealed = unpack_batch(event.values)
        found += map(unpack, opened) if sealed else opened
    return [event for event in said if isinstance(event, Shortened)], found


@pytest.mark.parametrize("at", [0, 5, 15, 16, 17, 100, 900, 998], ids=str)
@pytest.mark.parametrize("sealed", [False, True], ids=["in runs", "one by one"])
def test_a_trial_that_is_late_gives_back_what_has_not_begun(clock, at, sealed):
    """Wherever it is; nothing that was given back runs here, and all else does."""
    flusher = HandFlusher(clock)

    def task(item):
        number = item[0] if sealed else item
        if number == at:
            flusher.look(LATE / 2)
            flusher.look(LATE / 2 + 0.001)
            flusher.look()
        return number

    shortened, found = trial(flusher, task, [[number] if sealed else number for number in range(1000)])
    assert shortened == [Shortened(1, at + 1)]
    assert found == list(range(at + 1))
    assert flusher.said == [False, True, True], "it has to look until nothing can be given back"


def test_a_trial_is_as_late_as_its_chunk_however_short_each_task_is(clock):
    """Sixteen thousand tasks of a millisecond would keep the other workers waiting for long."""
    flusher = HandFlusher(clock)

    def task(number):
        flusher.look(0.001)
        return number

    shortened, found = trial(flusher, task, range(1000))
    assert [event.size for event in shortened] == [len(found)]
    assert LATE / 0.001 <= len(found) <= LATE / 0.001 + 2


def test_a_trial_in_time_keeps_all(clock):
    """However often somebody looks, and whatever a plain chunk of units would have given back."""
    flusher = HandFlusher(clock)

    def task(number):
        flusher.look()
        flusher.look()
        return number

    assert trial(flusher, task, range(1000)) == ([], list(range(1000)))


@pytest.mark.parametrize("size", [1, 2])
def test_the_last_task_has_nothing_behind_it(clock, size):
    """And the flusher may sleep while it runs."""
    flusher = HandFlusher(clock)

    def task(number):
        if size > 1 and number == size - 1:
            flusher.look(10 * LATE)
        return number

    assert trial(flusher, task, range(size)) == ([], list(range(size)))
    assert flusher.said == [True] * (size - 1)


def test_nothing_of_a_trial_is_given_back_after_the_last_word(clock):
    """Who hears it has forgotten the chunk."""
    flusher = HandFlusher(clock)
    assert trial(flusher, abs, range(20)) == ([], list(range(20)))
    flusher.look(10 * LATE)
    assert flusher.said == [True]


def test_a_task_that_fails_in_a_trial_fails_alone(clock):
    """Also when the rest of its run was given back meanwhile."""
    flusher = HandFlusher(clock)

    def task(number):
        if number == 100:
            flusher.look(2 * LATE)
            raise ValueError(number)
        return number

    shortened, found = trial(flusher, task, range(1000))
    assert (shortened, found) == ([Shortened(1, 101)], [*range(100), None])


@pytest.mark.parametrize(
    ("at", "sealed"), [(3, False), (PROOF - 4, False), (PROOF - 2, True), (40, True)], ids=str
)
def test_what_ends_while_a_trial_is_cut_is_not_given_back(monkeypatch, at, sealed):
    """The worker's own thread may go on between any two steps of the flusher's."""
    flusher = HandFlusher([0.0])
    go, passed = threading.Event(), threading.Event()

    def monotonic():
        """The flusher asks what time it is after it has looked what is running."""
        if threading.current_thread() is looker:
            go.set()
            passed.wait(PATIENCE)
            return 10 * LATE
        return 0.0

    def task(item):
        number = item[0] if sealed else item
        if number == at:
            looker.start()
            assert go.wait(PATIENCE)
        if number == at + 3:
            passed.set()
            looker.join(PATIENCE)
        return number

    def look():
        flusher.run.cut()

    looker = threading.Thread(target=look)
    monkeypatch.setattr("pools_core.chunkrun.monotonic", monotonic)
    shortened, found = trial(flusher, task, [[number] if sealed else number for number in range(100)])
    looker.join()
    (event,) = shortened
    assert found == list(range(event.size))
    assert event.size < 100


def a_trial(worker, function, values, **settings):
    """Return a pass over a trial."""
    items = list(range(SIZE))
    call = Call(1, function, **settings)
    chunk = Chunk(1, call, 0, SIZE, pack_batch(items, "argument"), trial=True)
    work = Pass(chunk, function, items, False, values)
    return ChunkRun(work, worker.parts.append, "a worker", worker.board, None, None, None)


def results(worker):
    """Return what tasks returned, and where the chunk was cut."""
    found: list[Any] = []
    for part in worker.parts:
        found += unpack_batch(part.values)[0] if isinstance(part, Outcomes) else []
    return found, [part.size for part in worker.parts if isinstance(part, Shortened)]


@pytest.mark.parametrize("at", [0, PROOF, PROOF + 1])
def test_what_is_given_back_between_two_pieces_does_not_run(worker, clock, at):
    """The worker has just seen that there is more to do when the flusher gives that back."""
    values: list[Any] = []

    class CutFirst:
        """A lock; before the worker has it the flusher had."""

        lock, over = threading.Lock(), False

        def __enter__(self):
            if not self.over and len(values) >= at:
                self.over = True
                clock[0] += 2 * LATE
                whole.cut()
            self.lock.acquire()

        def __exit__(self, *_):
            self.lock.release()

    whole = a_trial(worker, abs, values)
    whole._lock = CutFirst()
    whole.run()
    found, sizes = results(worker)
    assert sizes == [len(found)]
    assert found == list(range(len(found)))


@pytest.mark.parametrize("limit", [None, 3600.0], ids=["in runs", "one by one"])
@pytest.mark.parametrize("at", [0, 5, PROOF - 1])
def test_what_is_not_given_back_runs_though_its_list_was_cut(worker, clock, at, limit):
    """The running task ends just when the list behind it has been cut: the next one counts as running."""
    go, ended = threading.Event(), threading.Event()

    class Counted(list):
        """Counts how often the flusher has asked for its length."""

        asked = 0

        def append(self, value):
            super().append(value)
            if value == at:
                ended.set()

        def __len__(self):
            if threading.current_thread() is looker:
                self.asked += 1
                if self.asked == 4:  # what is running, whether more is behind it, from where on to cut
                    go.set()
                    ended.wait(PATIENCE)
            return super().__len__()

    def task(number):
        if number == at:
            clock[0] += 2 * LATE
            looker.start()
            assert go.wait(PATIENCE)
        return number

    values: Any = Counted()
    whole = a_trial(worker, task, values, task_timeout=limit)
    looker = threading.Thread(target=whole.cut)
    whole.run()
    looker.join()
    found, sizes = results(worker)
    assert (found, sizes) == (list(range(at + 2)), [at + 2])

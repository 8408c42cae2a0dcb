"""A node's gateway by itself: what it gives the local pool's engine, and what goes back; no timer runs."""

from __future__ import annotations

import asyncio
import queue
import threading

import pytest

from pools_core.calls import Call, Chunk, FailedTask, Outcomes, Packed, Returned, SetupFailed, Shortened
from pools_core.protocol import Engine, Logged
from pools_core.testing.waiting import deadline
from pools_gearman.gateway import AGAIN, GRACE, LINE, PATIENCE, Gateway
from pools_gearman.shared_loop import SharedLoop
from pools_singlecore.engine import SinglecoreEngine

CALL = Call(1, Packed(b"nabs"))
CHUNK = Chunk(7, CALL, 0, 10, Packed(b""))
SECONDS = 10


@pytest.fixture(autouse=True)
def _ends_by_a_deadline():
    with deadline(60):
        yield


class TwoWorkers(Engine):
    """Begins the first two chunks that it has, and says what the test has it say."""

    size = 2
    shortens = True

    def __init__(self, most=64, tells=True):
        self.given = []
        self._most = most
        self._tells = tells
        self._said = queue.SimpleQueue()

    def room(self):
        return self._most - len(self.given)

    def submit(self, chunk):
        self.given.append(chunk.id)

    def take_back(self, chunk):
        waits = self._tells and chunk.id in self.given[self.size :]
        if waits:
            self.given.remove(chunk.id)
        return waits

    def say(self, *events):
        for event in events:
            if isinstance(event, SetupFailed) or (isinstance(event, Outcomes) and event.last):
                self.given.remove(event.chunk)
        self._said.put(events)

    def wait(self, timeout=None):
        return self._said.get()

    def wake(self):
        self._said.put(())

    def open(self, call): ...
    def close(self, call): ...
    def end(self, session, leave): ...
    def cancel(self, chunk, kill): ...
    def shutdown(self, wait, kill): ...


class Bench:
    """A gateway in a loop that a thread runs; its timers go off when the test says so.

    Args:
        engine: what the gateway drives.
        seconds: how long the usual chunk is known to take; None: not known.
    """

    def __init__(self, engine=None, seconds=None):
        self.loop = SharedLoop()
        self.loop.call_later = lambda *timer: self.timers.append(timer)
        self.timers = []
        self.engine = engine or TwoWorkers()
        self.heard = queue.SimpleQueue()
        self._seconds = seconds
        self._thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self):
        self._thread.start()
        self.inside(self._make)
        if self._seconds is not None:
            self.submit(1000)
            self.engine.say(ended(1000, self._seconds))
            self.hear()
            self.fire()
            assert self.timers == []
        return self

    def _make(self):
        self.gateway = Gateway(self.engine, lambda _, events: self.heard.put(list(events)))

    def inside(self, function, *args):
        """Do something in the loop's own thread, as packets do; return what comes of it."""

        async def act():
            return function(*args)

        return asyncio.run_coroutine_threadsafe(act(), self.loop).result(SECONDS)

    def submit(self, *numbers, **fields):
        for number in numbers:
            self.inside(self.gateway.submit, CHUNK._replace(id=number, **fields))

    def cancel(self, number):
        self.inside(lambda: self.gateway.cancel(CHUNK._replace(id=number), False))

    def fire(self):
        """Have the one timer go off; return its seconds."""
        ((seconds, callback, *args),) = self.timers
        self.timers.clear()
        self.inside(callback, *args)
        return seconds

    def wait_long(self):
        """Have no chunk end for as long as it takes."""
        while self.fire() != GRACE:
            pass

    def room(self):
        return self.inside(self.gateway.room)

    def hear(self):
        return self.heard.get(timeout=SECONDS)

    def __exit__(self, *_):
        self.gateway.end(kill=True)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(SECONDS)
        self.loop.close()


def ended(number, seconds=0.0):
    return Outcomes(number, 0, 10, Packed(b""), seconds=seconds)


# --- how much the engine is given ---------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [None, 1.1 * LINE, 60.0])
def test_none_waits_in_line_behind_what_may_be_slow(seconds):
    """Whatever the engine would take, and whatever came all the same."""
    with Bench(seconds=seconds) as bench:
        assert bench.room() == 2
        bench.submit(1, 2, 3)
        assert bench.engine.given == [1, 2]
        assert bench.room() <= 0


@pytest.mark.parametrize("unit", [None, 1])
def test_short_ones_wait_in_the_engines_own_line(unit):
    """Of units or not."""
    with Bench(seconds=0.0001) as bench:
        bench.submit(1, 2, 3, 4, unit=unit)
        assert bench.engine.given == [1, 2, 3, 4]
        assert bench.room() > 0


def test_a_chunk_takes_as_long_as_all_its_parts():
    with Bench() as bench:
        bench.submit(1)
        bench.engine.say(ended(1, 0.9 * LINE)._replace(last=False), ended(1, 0.9 * LINE))
        bench.hear()
        bench.submit(2, 3, 4)
        assert bench.engine.given == [2, 3]


# --- what goes back -----------------------------------------------------------------------------------


def test_what_waits_for_long_goes_back_and_nothing_is_fetched():
    """Until one has ended; what was asked for before goes back, too."""
    with Bench(seconds=0.0001) as bench:
        bench.submit(1, 2, 3, 4)
        bench.engine.say(Shortened(1, 2), Shortened(2, 2), Logged(b"", 1))
        assert bench.hear() == [Shortened(1, 2), Shortened(2, 2), Logged(b"", 1)]
        bench.wait_long()
        assert bench.hear() == [Returned(3), Returned(4)]
        assert bench.engine.given == [1, 2]
        assert set(bench.gateway.busy) == {1, 2}
        assert bench.room() == 0
        bench.engine.say(Shortened(1, 1), Logged(b"", 1))
        assert bench.hear() == [Shortened(1, 1), Logged(b"", 1)]
        bench.submit(5)
        assert bench.hear() == [Returned(5)]
        assert bench.room() == 0

        bench.engine.say(ended(1))
        assert bench.hear() == [ended(1)]
        assert bench.room() > 0
        bench.submit(6)
        assert bench.engine.given == [2, 6]


def test_what_the_engine_has_no_room_for_goes_back_as_well():
    with Bench(TwoWorkers(most=3), seconds=0.0001) as bench:
        bench.submit(1, 2, 3, 4, 5)
        assert bench.engine.given == [1, 2, 3]
        bench.wait_long()
        assert bench.hear() == [Returned(3), Returned(4), Returned(5)]


def test_an_engine_that_cannot_tell_keeps_what_it_has():
    """The others go back."""
    with Bench(TwoWorkers(most=3, tells=False), seconds=0.0001) as bench:
        bench.submit(1, 2, 3, 4)
        bench.wait_long()
        assert bench.hear() == [Returned(4)]
        assert bench.engine.given == [1, 2, 3]


def test_nothing_goes_back_while_chunks_end():
    """One timer looks for that, and none when there is nothing to do."""
    with Bench(seconds=0.0001) as bench:
        bench.submit(1, 2, 3, 4)
        for number in range(1, 5):
            bench.engine.say(ended(number))
            assert bench.hear() == [ended(number)]
            assert bench.fire() == PATIENCE
        assert bench.timers == []
        assert bench.heard.empty()


def test_what_has_ended_unnoticed_counts():
    """All of the node may have stood still; what a worker has said meanwhile comes first."""
    with Bench(seconds=0.0001) as bench:
        bench.submit(1, 2, 3)
        assert bench.fire() == PATIENCE
        bench.engine.say(ended(1))
        assert bench.hear() == [ended(1)]
        assert bench.fire() == GRACE
        assert bench.heard.empty() and bench.engine.given == [2, 3]


def test_nothing_goes_back_if_nothing_waits():
    """However long it takes; and more is fetched as there is room."""
    with Bench(seconds=0.0001) as bench:
        bench.submit(1, 2)
        bench.wait_long()
        assert bench.heard.empty() and bench.timers == []
        assert bench.room() > 0


@pytest.mark.parametrize(
    ("usual", "patience"), [(0.0001, PATIENCE), (0.8 * LINE, 2.4 * LINE), (60.0, 3 * LINE)]
)
def test_how_long_is_long_depends_on_what_is_usual(usual, patience):
    """Chunks of some milliseconds that end in turn are not given back all the time."""
    with Bench(seconds=usual) as bench:
        bench.submit(1)
        assert bench.fire() == pytest.approx(patience)


def test_what_is_cancelled_makes_way():
    with Bench(seconds=0.0001) as bench:
        bench.submit(1, 2, 3)
        bench.wait_long()
        assert bench.hear() == [Returned(3)]
        bench.cancel(2)
        bench.engine.given.remove(2)
        assert bench.room() > 0
        bench.submit(4)
        assert bench.engine.given == [1, 4]


@pytest.mark.parametrize("is_said", [True, False])
def test_what_waits_behind_a_cancelled_task_goes_back(is_said):
    """It may go on, and its end is not said: the node asks again when the engine moves, or in a while."""
    with Bench(seconds=0.0001) as bench:
        bench.submit(1, 2)
        bench.cancel(1)
        bench.submit(3)
        bench.wait_long()
        assert bench.hear() == [Returned(3)]
        assert bench.room() == 0
        if is_said:
            bench.engine.say()
        else:
            assert bench.fire() == AGAIN
        assert bench.hear() == []
        assert bench.room() > 0


def test_what_is_in_line_of_a_call_that_cannot_be_set_up_goes_back():
    """Workers would try to set it up for each chunk; other calls have their turn."""
    with Bench() as bench:
        bench.submit(1, 2, 3, 4)
        bench.submit(5, call=CALL._replace(id=2))
        assert bench.engine.given == [1, 2]
        failed = SetupFailed(1, FailedTask(0, "E", "", "", "", "", None))
        bench.engine.say(failed)
        assert bench.hear() == [failed, Returned(3), Returned(4)]
        assert bench.engine.given == [2, 5]
        assert set(bench.gateway.busy) == {2, 5}


# --- an engine that runs tasks in the gateway's thread ------------------------------------------------


def test_what_its_thread_has_not_taken_goes_back():
    """And never runs; what it has taken does."""
    begun, gate, ran = threading.Event(), threading.Event(), []

    def task(number):
        ran.append(number)
        begun.set()
        assert gate.wait(SECONDS)

    with Bench(SinglecoreEngine()) as bench:
        call = Call(1, task)
        bench.submit(1, call=call, size=1, items=[1])
        assert begun.wait(SECONDS)
        for number in (2, 3, 4):
            bench.submit(number, call=call, size=1, items=[number])
        bench.cancel(3)
        bench.wait_long()
        assert bench.hear() == [Returned(2), Returned(4)]
        assert bench.room() == 0
        gate.set()
        assert [event.chunk for event in bench.hear()] == [1]
        assert bench.room() > 0
        bench.submit(5, call=call, size=1, items=[5])
        assert [event.chunk for event in bench.hear()] == [5]
    assert ran == [1, 5]

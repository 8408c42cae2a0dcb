"""An event loop may do without a thread in ``wait``: by a descriptor, and by when the engine is due."""

from __future__ import annotations

import select
import signal
import time

import pytest

from pools_core.calls import Call, Chunk, Outcomes
from pools_core.config import settings
from pools_core.packed_functions import pack_function
from pools_core.payload import pack_batch
from pools_core.protocol import ChunkLost, TimedOut
from pools_core.testing.waiting import deadline
from pools_multicore.engine import MulticoreEngine
from pools_multicore.settings import MulticoreSettings


@pytest.fixture(autouse=True)
def _ends_by_a_deadline():
    with deadline(60):
        yield


@pytest.fixture(params=["fork", "forkserver"])
def engine(request):
    """An engine of two workers."""
    options = {"n_jobs": 2, "start_method": request.param}
    engine = MulticoreEngine(settings(MulticoreSettings, "multicore", {}, options))
    yield engine
    engine.shutdown(wait=True, kill=True)


def submit(engine, numbers, function, *items, **options):
    """Submit chunks of one task each."""
    call = Call(1, pack_function(function))._replace(**options)
    for number, item in zip(numbers, items, strict=True):
        engine.submit(Chunk(number, call, 0, 1, pack_batch([item], "argument")))


def drive(engine, enough):
    """Never wait but for the descriptor, and for no longer than until it is due; return what was said."""
    said = list(engine.wait(0))
    while not enough(said):
        select.select([engine.fileno()], [], [], engine.due())
        said += engine.wait(0)
    return said


def ended(said):
    """Return the ids of the chunks that have ended."""
    return sorted(event.chunk for event in said if isinstance(event, Outcomes) and event.last)


def test_the_descriptor_says_when_there_is_something_to_do(engine):
    """Also for chunks that wait in line, which leave only in a ``wait``."""
    submit(engine, range(20), abs, *range(20))

    assert ended(drive(engine, lambda said: len(ended(said)) == 20)) == list(range(20))


def test_it_can_be_read_from_when_another_thread_wakes_the_engine(engine):
    """And not before."""
    submit(engine, [1], abs, -1)
    drive(engine, ended)
    assert engine.wait(0) == []
    assert not select.select([engine.fileno()], [], [], 0)[0]

    engine.wake()

    assert select.select([engine.fileno()], [], [], 10)[0]
    assert engine.wait(0) == []


def test_it_is_due_when_a_task_is_over_its_limit(engine):
    """The worker is killed then, though nothing has come."""
    submit(engine, [1], time.sleep, 1000, task_timeout=0.2)

    said = drive(engine, lambda said: any(isinstance(event, ChunkLost) for event in said))

    lost = next(event for event in said if isinstance(event, ChunkLost))
    assert lost.started == 0 and isinstance(lost.cause, TimedOut)


def test_a_worker_that_dies_can_be_read(engine):
    """Its line ends."""
    submit(engine, [1], signal.raise_signal, signal.SIGKILL)

    said = drive(engine, lambda said: any(isinstance(event, ChunkLost) for event in said))

    assert next(event for event in said if isinstance(event, ChunkLost)).started == 0

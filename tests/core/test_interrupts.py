"""Ctrl-C at any place of a pool's own code: nothing hangs, nothing that was submitted is lost.

``POOLS_INTERRUPTS=100000`` tries every place there is, one after the other, which takes many minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pools_core import MakePool
from pools_core.callbacks import CallbackThread
from pools_core.waiter import start

PROGRAM = Path(__file__).with_name("interrupting.py")
PLACES = int(os.environ.get("POOLS_INTERRUPTS", "25"))
LEAST = 10
"""Interrupts that have to land, of those: a place may not be reached when threads run in another order."""

WAYS = {
    ("threads", ""): ("burst", "results", "waits", "maps", "session", "close", "terminate"),
    ("multicore", "fork"): ("apply", "burst", "results", "waits", "maps", "session"),
    ("multicore", "forkserver"): ("apply", "close", "terminate"),
}
CASES = [(backend, scenario, method) for (backend, method), each in WAYS.items() for scenario in each]


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 13), reason="Python 3.12 does not always trace instructions"
)
@pytest.mark.parametrize(("backend", "scenario", "start_method"), CASES)
@pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning")
def test_an_interrupt_at_any_place_tears_nothing(backend, scenario, start_method):
    """Futures end, the next calls give what they should, and ``join`` returns."""
    command = [sys.executable, PROGRAM, backend, scenario, start_method, str(PLACES)]
    # Its own deadline, for one place, comes first, and says where each thread stands.
    run = subprocess.run(command, capture_output=True, text=True, timeout=60 + 2 * PLACES, check=False)

    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[-1]) >= LEAST, run.stderr


@pytest.fixture(params=["before", "after"])
def interrupted_start(request, monkeypatch):
    """Return a function that has the next start of a thread interrupted, in a module that starts one."""

    def prepare(module):
        def interrupted(thread):
            monkeypatch.undo()
            if request.param == "after":
                start(thread)
            raise KeyboardInterrupt

        monkeypatch.setattr(module, interrupted)

    return prepare


def test_a_background_thread_whose_start_is_interrupted_is_there_the_next_time(interrupted_start):
    """Whether it runs already or not; the call that was interrupted is over."""
    with MakePool("threads", n_jobs=2) as pool:
        interrupted_start("pools_core.background.start")
        with pytest.raises(KeyboardInterrupt):
            pool.apply_async(abs, (-1,))
        assert pool.apply_async(abs, (-2,)).get(30) == 2


def test_a_callback_thread_whose_start_is_interrupted_is_there_the_next_time(interrupted_start):
    """What was due is called, in order."""
    called = []
    callbacks = CallbackThread("callbacks", at_once=False)
    interrupted_start("pools_core.callbacks.start")
    with pytest.raises(KeyboardInterrupt):
        callbacks.call(called.append, 1)
    callbacks.call(called.append, 2)
    assert callbacks.drain(30)
    callbacks.stop()
    assert called == [1, 2]

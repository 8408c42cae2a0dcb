"""What holds for every test: nothing is left behind, and nothing waits for ever."""

from __future__ import annotations

import signal

import pytest

from pools_core.testing.leaks import nothing_left_behind

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun in the background by a shell without job control: children would ignore Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _leaves_nothing_behind():
    """Each test ends with the children, threads, descriptors and shared memory that it began with."""
    with nothing_left_behind():
        yield

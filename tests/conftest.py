"""What holds for every test: nothing is left behind, and nothing waits for ever."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys

import pytest

from pools_core.testing.leaks import nothing_left_behind

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Begun in the background by a shell without job control: children would ignore Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:
    # pytest-xdist starts its workers with ``-c``, which looks like a prompt; let tests, and the processes
    # that they start, see the main module of ``python -m pytest``.
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("pytest.__main__")


@pytest.fixture(autouse=True)
def _leaves_nothing_behind():
    """Each test ends with the children, threads, descriptors and shared memory that it began with."""
    with nothing_left_behind():
        yield

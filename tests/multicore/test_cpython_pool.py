"""CPython's own tests of ``multiprocessing.Pool``, run against a multicore pool.

The class is the one that the running interpreter ships; nothing of it is copied here.
"""

from __future__ import annotations

import sys
import traceback
import unittest

import pytest

from pools_core import MakePool, RemoteTraceback
from pools_core.testing import tasks
from pools_core.testing.leaks import nothing_left_behind
from pools_core.testing.waiting import deadline

try:
    from test import _test_multiprocessing as theirs
except ImportError as missing:  # some distributions ship Python without its tests
    pytest.skip(f"this Python ships no test package: {missing}", allow_module_level=True)
except unittest.SkipTest as reason:
    pytest.skip(f"CPython's own tests cannot run here: {reason}", allow_module_level=True)

LEFT_OUT = {
    "test_make_pool": "counts workers in the private list Pool._pool; its public half is tested below",
    "test_traceback": "wants multiprocessing's own RemoteTraceback class; the rest of it is tested below",
    "test_map_no_failfast": "wants map to wait for all tasks before it raises; ours raises at once",
    "test_resource_warning": "sets the private Pool._state to provoke a warning",
}
"""Tests that are not run, each with its reason."""


def make_pool(processes=4):
    return MakePool("multicore", n_jobs=processes)


class TestCpythonPool(theirs._TestPool, unittest.TestCase):
    """All of them but those that are left out."""

    TYPE = "processes"
    Pool = staticmethod(make_pool)

    def setUp(self):
        limit = deadline(60)
        limit.__enter__()
        self.addCleanup(limit.__exit__, None, None, None)


for name in LEFT_OUT:
    assert hasattr(theirs._TestPool, name), f"CPython has no {name} any more: do not leave it out"
    setattr(TestCpythonPool, name, None)


@pytest.fixture(autouse=True)
def _leaves_nothing_behind():
    """In place of the check of each test: most of these share a pool of their class."""


@pytest.fixture(autouse=True, scope="module")
def _all_together_leave_nothing_behind(_helper_processes):
    """When the last has ended."""
    with nothing_left_behind():
        yield


@pytest.mark.parametrize("bad", [0, -1])
def test_a_pool_without_workers_is_refused(bad):
    """The public half of test_make_pool: a number of workers below one is a ValueError."""
    with pytest.raises(ValueError):
        make_pool(bad)


def test_a_pool_has_as_many_workers_as_were_asked_for():
    """The other half, by the public ``size``."""
    with make_pool(3) as pool:
        assert pool.size == 3


def test_the_remote_traceback_is_the_cause_and_is_printed():
    """The public remainder of test_traceback: the source line in the worker shows in the report."""
    with make_pool(1) as pool, pytest.raises(RuntimeError) as caught:
        pool.apply(theirs._TestPool._test_traceback)

    error = caught.value
    assert type(error) is RuntimeError and error.args == (123,)
    assert type(error.__cause__) is RemoteTraceback
    assert "raise RuntimeError(123) # some comment" in error.__cause__.tb
    assert "raise RuntimeError(123) # some comment" in "".join(traceback.format_exception(error))


def test_an_error_of_the_input_is_not_made_remote():
    """The last part of test_traceback."""
    with make_pool(1) as pool, pytest.raises(theirs.SayWhenError) as caught:
        pool.map(tasks.square, theirs.exception_throwing_generator(1, -1), 1)

    assert type(caught.value) is theirs.SayWhenError
    assert caught.value.__cause__ is None


def test_as_many_cases_run_as_this_python_has():
    """A case that a new Python adds is run, or is left out by name and with a reason."""
    names = {name for name in dir(theirs._TestPool) if name.startswith("test_")}

    assert set(LEFT_OUT) < names
    assert len(names - set(LEFT_OUT)) >= 20
    assert sys.version_info >= (3, 11)

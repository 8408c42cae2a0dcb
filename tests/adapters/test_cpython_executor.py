"""CPython's own tests of executors, run on ours.

The standard library's test package is not in every installation.  Where the running Python has none,
``$POOLS_CPYTHON_TESTS`` may name the ``test_concurrent_futures.py`` of another one.

Left out, because they are about something else than what an executor does:

    test_max_workers_negative, test_max_workers_too_large
        the constructors of the standard classes: ours comes from a pool
    test_interpreter_shutdown, test_submit_after_interpreter_shutdown, test_hang_gh83386, test_hang_issue39205
        scripts that import a standard executor by its class's name
    test_hang_gh94440
        makes a standard executor with ``mp_context``; ours is tested for the same in ``test_executor.py``
    the modules and classes named after a thread pool, a process pool, initializers and deadlocks
        private attributes (``_threads``, ``_processes``, ``_call_queue``), and options of their constructors
"""

from __future__ import annotations

import importlib.util
import os
import unittest
from importlib import import_module

import pytest

from pools_core import MakePool
from pools_core.adapters.executor import PoolExecutor

MIXINS = ["ExecutorTest", "WaitTests", "AsCompletedTests", "ExecutorShutdownTest"]
PARTS = ["executor", "test_wait", "test_as_completed", "test_shutdown"]
LEFT_OUT = {
    "test_max_workers_negative",
    "test_max_workers_too_large",
    "test_interpreter_shutdown",
    "test_submit_after_interpreter_shutdown",
    "test_hang_gh83386",
    "test_hang_issue39205",
    "test_hang_gh94440",
}


class OwningExecutor(PoolExecutor):
    """An executor with a pool of its own, made as the standard ones are."""

    backend = ""

    def __init__(self, max_workers):
        super().__init__(MakePool(self.backend, n_jobs=max_workers))

    def shutdown(self, wait=True, *, cancel_futures=False):
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._pool.close()
            self._pool.join()


class ThreadsExecutor(OwningExecutor):
    """On threads."""

    backend = "threads"


class ProcessesExecutor(OwningExecutor):
    """On processes."""

    backend = "multicore"


def cpythons():
    """Return CPython's mixins and its base class, by name; none where they are not installed."""
    found = {}
    try:
        for part in PARTS:
            found.update(vars(import_module(f"test.test_concurrent_futures.{part}")))
        found.update(vars(import_module("test.test_concurrent_futures.util")))
    except ImportError:
        path = os.environ.get("POOLS_CPYTHON_TESTS")
        try:
            if path:
                spec = importlib.util.spec_from_file_location("cpython_test_concurrent_futures", path)
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
            else:
                module = import_module("test.test_concurrent_futures")  # up to 3.11 it was one file
            found.update(vars(module))
        except ImportError:
            return {}
    return found


def suite(found, mixin, executor_type):
    """Return a test case of one of CPython's mixins on an executor, without what is left out."""
    made = type(
        f"{mixin}On{executor_type.__name__}",
        (found[mixin], found["ExecutorMixin"], found["BaseTestCase"]),
        {"executor_type": executor_type, "__module__": __name__},
    )
    for name in LEFT_OUT:
        if hasattr(made, name):
            setattr(made, name, None)
    return made


found = cpythons()
if found:
    for mixin in MIXINS:
        for executor_type in (ThreadsExecutor, ProcessesExecutor):
            case = suite(found, mixin, executor_type)
            globals()[case.__name__] = case
    del case


@pytest.mark.skipif(bool(found), reason="they run, above")
def test_cpythons_own_tests_are_there():
    """Else say so."""
    pytest.skip("this Python has no test.test_concurrent_futures, and $POOLS_CPYTHON_TESTS names none")


def test_what_is_left_out_exists():
    """A list of exceptions that outlives its reasons hides something."""
    if not found:
        pytest.skip("CPython's tests are not installed")
    known = {name for mixin in MIXINS for name in dir(found[mixin])}

    assert {"test_interpreter_shutdown", "test_submit_after_interpreter_shutdown"} <= known & LEFT_OUT
    assert issubclass(found["BaseTestCase"], unittest.TestCase)

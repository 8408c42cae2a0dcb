"""Threads of numerical libraries in workers: what is divided, who is told, and what it costs to ask."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap

import pytest

from pools_core import blas

NAMES = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
]

needs_libraries = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("numpy", "threadpoolctl")),
    reason="needs numpy, whose BLAS is limited, and threadpoolctl, which limits it",
)

HEAD = """
import json, os, sys
from pools_core import blas

def threads():
    '''Return the thread counts of the loaded BLAS libraries.'''
    import threadpoolctl
    return [one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"]

def in_fork(task):
    '''Return what a task returns in a forked child.'''
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps(task()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as answer:
        value = json.loads(answer.read())
    os.waitpid(pid, 0)
    return value

def report(value):
    print(json.dumps(value))
"""


def python(body: str, **environ: str) -> object:
    """Run a script in a fresh interpreter with these variables and no others of ours; return its report."""
    clean = {key: value for key, value in os.environ.items() if "_NUM_THREADS" not in key}
    for name in ("VECLIB_MAXIMUM_THREADS", blas.MARK):
        clean.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(body)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**clean, **environ},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# What is divided.


@pytest.mark.parametrize(
    ("workers", "cpus", "threads"), [(1, 8, 8), (2, 8, 4), (3, 8, 2), (8, 8, 1), (16, 8, 1), (0, 8, 8)]
)
def test_the_cpus_are_divided_among_the_workers(workers, cpus, threads):
    """Rounded down, so that together they use no more than there are; each has one at least."""
    assert blas.default_threads(workers, cpus, {}) == threads


def test_a_pool_in_a_worker_divides_what_the_worker_was_given():
    """Not the machine anew, as each worker of the outer pool would."""
    inside = blas.environment(2, {})

    assert blas.default_threads(2, 8, inside) == 1
    assert blas.default_threads(1, 8, inside) == 2


# Who is told by the environment.


def test_every_library_gets_its_variable():
    """Those that joblib and threadpoolctl name."""
    added = blas.environment(3, {"HOME": "/"})

    assert {name: added[name] for name in NAMES} == dict.fromkeys(NAMES, "3")
    assert set(added) == {*NAMES, blas.MARK}


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_set_stands(name):
    """And nothing else is kept from its variable, unless it asks the one that the user set."""
    added = blas.environment(3, {name: "5"})

    assert name not in added
    if name != "OMP_NUM_THREADS":
        assert set(NAMES) - set(added) == {name}


def test_libraries_that_listen_to_omp_num_threads_are_told_by_it():
    """Their own variable goes before it, and would overrule what the user said."""
    added = blas.environment(3, {"OMP_NUM_THREADS": "5"})

    assert set(added) == {"VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS", blas.MARK}


def test_an_empty_variable_says_nothing():
    """As the libraries take it."""
    assert blas.environment(3, {"OMP_NUM_THREADS": ""})["OMP_NUM_THREADS"] == "3"


def test_all_told_leaves_nothing_to_add():
    """Not even our mark."""
    assert blas.environment(3, dict.fromkeys(NAMES, "5")) == {}


def test_what_an_outer_pool_set_is_not_the_users():
    """A pool in a worker replaces it; what the user, or a task, set since stands."""
    outer = blas.environment(4, {"MKL_NUM_THREADS": "7"})
    inside = {"MKL_NUM_THREADS": "7", **outer, "NUMBA_NUM_THREADS": "9"}

    added = blas.environment(2, inside)

    assert added["OMP_NUM_THREADS"] == added["OPENBLAS_NUM_THREADS"] == "2"
    assert "MKL_NUM_THREADS" not in added
    assert "NUMBA_NUM_THREADS" not in added


def test_a_mark_that_is_not_ours_is_no_trouble():
    """Somebody may have set a variable of that name."""
    assert blas.default_threads(2, 8, {blas.MARK: "much"}) == 4
    assert blas.environment(3, {blas.MARK: "much", "OMP_NUM_THREADS": "5"}).get("OMP_NUM_THREADS") is None


@needs_libraries
def test_a_library_imported_after_limit_starts_with_that_number():
    """As in a spawned worker: no threadpoolctl is imported for it."""
    added, imported, count = python("""
        blas.limit(1)
        imported = "threadpoolctl" in sys.modules
        import numpy
        report([os.environ["OPENBLAS_NUM_THREADS"], imported, threads()])
    """)

    assert (added, imported) == ("1", False)
    assert count == [1]


# Libraries that are loaded already.


@needs_libraries
def test_a_forked_worker_is_limited_and_its_parent_is_not():
    """And what the worker starts is limited by the environment."""
    before, inside, after, environ = python(
        """
        import numpy, threadpoolctl
        threadpoolctl.threadpool_limits(4)
        del os.environ["OPENBLAS_NUM_THREADS"]

        def task():
            blas.limit(2)
            return [threads(), os.environ["OPENBLAS_NUM_THREADS"]]

        blas.prepare_parent()
        before = threads()
        inside, environ = in_fork(task)
        report([before, inside, threads(), [environ, os.environ.get("OPENBLAS_NUM_THREADS")]])
        """,
        OPENBLAS_NUM_THREADS="4",
    )

    assert inside == [2]
    assert before == after == [4]
    assert environ == ["2", None]


@needs_libraries
@pytest.mark.parametrize("name", ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "GOTO_NUM_THREADS"])
def test_a_loaded_library_that_the_user_told_is_left_alone(name):
    """By its own variable or by another that it asks."""
    facts = python(
        """
        import numpy, threadpoolctl
        threadpoolctl.threadpool_limits(3)  # OpenBLAS itself takes no more than there are CPUs
        blas.limit(1)
        report(threads())
        """,
        **{name: "3"},
    )

    assert facts == [3]


@needs_libraries
def test_an_explicit_number_goes_before_the_environment():
    """``blas_threads=2`` was said for this pool, in either direction."""
    facts = python(
        """
        import numpy
        blas.limit(1, explicit=True)
        low = threads()
        blas.limit(2, explicit=True)
        report([low, threads(), os.environ["OPENBLAS_NUM_THREADS"]])
        """,
        OPENBLAS_NUM_THREADS="3",
    )

    assert facts == [[1], [2], "2"]


@needs_libraries
def test_a_default_never_raises_a_number():
    """The caller may have lowered it, with threadpoolctl itself."""
    facts = python("""
        import numpy, threadpoolctl
        threadpoolctl.threadpool_limits(1)
        blas.limit(2)
        report(threads())
    """)

    assert facts == [1]


@needs_libraries
def test_limiting_again_in_a_worker_of_a_worker():
    """Our own variables do not count as the user's."""
    facts = python(
        """
        import numpy, threadpoolctl
        threadpoolctl.threadpool_limits(4)
        del os.environ["OPENBLAS_NUM_THREADS"]

        def outer():
            blas.limit(2)
            return in_fork(lambda: [blas.limit(blas.default_threads(2, 8)), threads()])

        report(in_fork(outer))
        """,
        OPENBLAS_NUM_THREADS="4",
    )

    assert facts == [None, [1]]


@needs_libraries
def test_a_thread_of_the_task_may_set_limits_of_its_own():
    """threadpoolctl binds OpenBLAS to the thread that limited it; ours lets go of it."""
    facts = python(
        """
        import threading
        import numpy, threadpoolctl
        blas.limit(1, explicit=True)
        seen = []

        def own():
            with threadpoolctl.threadpool_limits(2):
                seen.append(threads())

        thread = threading.Thread(target=own)
        thread.start()
        thread.join(30)
        report(seen)
        """,
        OPENBLAS_NUM_THREADS="2",
    )

    assert facts == [[2]]


# What it costs where there is nothing to do.


def test_nothing_loaded_nothing_imported():
    """Neither in the worker nor, before the fork, in the parent."""
    facts = python("""
        before = set(sys.modules)
        blas.prepare_parent()
        blas.limit(2)
        report(sorted(set(sys.modules) - before))
    """)

    assert facts == []


def test_all_told_nothing_imported():
    """The environment has decided."""
    facts = python(
        """
        sys.modules["numpy"] = None  # as if it were
        before = set(sys.modules)
        blas.prepare_parent()
        blas.limit(2)
        report(sorted(set(sys.modules) - before))
        """,
        OMP_NUM_THREADS="2",
    )

    assert facts == []


@needs_libraries
def test_forked_workers_import_nothing():
    """The parent did it once, for all of them."""
    facts = python("""
        import numpy
        blas.prepare_parent()
        before = set(sys.modules)
        report(in_fork(lambda: [blas.limit(1), sorted(set(sys.modules) - before), threads()]))
    """)

    assert facts == [None, [], [1]]


def test_without_threadpoolctl_it_is_looked_for_once():
    """A failed search takes longer than everything else, and each forked worker would repeat it."""
    facts = python("""
        import importlib.abc

        class Counting(importlib.abc.MetaPathFinder):
            count = 0
            def find_spec(self, name, path=None, target=None):
                if name == "threadpoolctl":
                    self.count += 1
                    raise ModuleNotFoundError(name)

        finder = Counting()
        sys.meta_path.insert(0, finder)
        sys.modules["numpy"] = None  # as if it were
        blas.prepare_parent()
        blas.prepare_parent()
        inside = in_fork(lambda: [blas.limit(1), finder.count, os.environ["OMP_NUM_THREADS"]])
        report([finder.count, inside])
    """)

    assert facts == [1, [None, 1, "1"]]


def test_numba_that_is_loaded_gets_no_variable():
    """It would read it when it compiles next, and raise if its threads are running."""
    facts = python("""
        sys.modules["numba"] = None  # as if it were
        blas.limit(2)
        report([os.environ.get("NUMBA_NUM_THREADS"), os.environ.get("OMP_NUM_THREADS")])
    """)

    assert facts == [None, "2"]


def test_a_library_that_cannot_be_limited_harms_nobody():
    """A worker is not to fail for it, and the others are limited all the same."""
    facts = python("""
        import types
        done = []

        class Library:
            num_threads = 8
            def __init__(self, internal_api, works):
                self.internal_api, self.works = internal_api, works
            def set_num_threads(self, count):
                if not self.works:
                    raise OSError
                done.append([self.internal_api, count])

        libraries = [Library("mkl", False), Library("unheard of", True), Library("openmp", True)]
        sys.modules["threadpoolctl"] = types.SimpleNamespace(
            ThreadpoolController=lambda: types.SimpleNamespace(lib_controllers=libraries))
        blas.limit(3)
        report(done)
    """)

    assert facts == [["openmp", 3]]

"""``pools_core.testing.plugin``, in test runs of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SUITE = """
import os
import threading

import pytest

seen = []

def test_each_backend(pools_pool):
    seen.append(pools_pool.backend)
    assert pools_pool.map(abs, [-1]) == [1]

def test_there_were_three():
    assert seen == ["singlecore", "threads", "multicore"]

@pytest.mark.pools_leaks
@pytest.mark.pools(n_jobs=3)
def test_options(multicore_pool):
    assert multicore_pool.size == 3
    assert multicore_pool.map(abs, [-1]) == [1]

@pytest.mark.pools_leaks
def test_another_thread_runs(multicore_pool):
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)
    other.start()
    assert multicore_pool.map(abs, [-1]) == [1]
    ended.set()
    other.join()

def test_any_pool(make_pools_pool):
    assert make_pools_pool("threads", n_jobs=4).size == 4
    assert make_pools_pool("threads").size == 2

@pytest.mark.pools(backend="threads")
def test_by_mark(make_pools_pool):
    assert make_pools_pool().backend == "threads"

@pytest.mark.pools_leaks(patience=0.2)
def test_leaks():
    os.pipe()
"""


@pytest.fixture
def run(tmp_path):
    """What runs a suite with the plugin, and without ours."""

    def run(suite, *arguments, ini=""):
        (tmp_path / "test_suite.py").write_text(suite)
        (tmp_path / "pytest.ini").write_text(f"[pytest]\naddopts = -p no:cacheprovider\n{ini}")
        plugin = ["-p", "pools_core.testing.plugin"]
        code = (
            f"import sys, pytest; sys.exit(pytest.main({[*arguments, *([] if installed() else plugin)]!r}))"
        )
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=80,
            check=False,
        ).stdout

    return run


def installed():
    """Whether pytest finds the plugin by itself; an installation from before it was there does not."""
    from importlib.metadata import entry_points

    return any(entry.value == "pools_core.testing.plugin" for entry in entry_points(group="pytest11"))


def test_fixtures_and_leak_checks(run):
    """The one test that leaks is the one that fails, with what it left."""
    printed = run(SUITE, "-q", "--strict-markers", "-W", "error")

    assert "9 passed, 1 error" in printed, printed
    assert "descriptor" in printed
    assert "ERROR test_suite.py::test_leaks" in printed


def test_the_ini_file_chooses(run):
    """Backends for ``pools_pool``, and that every test is checked."""
    suite = (
        "import os\ndef test_it(pools_pool):\n    assert pools_pool.size\ndef test_leak():\n    os.pipe()\n"
    )

    printed = run(suite, "-v", ini="pools_backends = threads\npools_leaks = true\n")

    assert "test_it[threads] PASSED" in printed
    assert "multicore" not in printed
    assert "1 error" in printed


def test_the_fixtures_explain_themselves(run):
    """``pytest --fixtures``."""
    printed = run("", "--fixtures")

    assert "A pool of the backend 'multicore', ended after the test." in printed
    assert "the test runs once on each backend" in printed


def test_it_loads_nothing_of_pools():
    """A test run that does not use it pays nothing."""
    code = (
        "import sys, pytest; before = set(sys.modules); import pools_core.testing.plugin; "
        "print(sorted(name for name in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['pools_core', 'pools_core.testing', 'pools_core.testing.plugin']"

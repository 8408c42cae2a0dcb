"""``pools map`` beyond items and results: what a person at a terminal sees, and workers that are set up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest

from pools_core.options import CallOptions, CallSettings
from pools_core.pool_options import PoolSettings
from pools_multicore import MulticoreSettings

COMMAND = [sys.executable, "-m", "pools_core", "map"]
BACKENDS = ["singlecore", "threads", "multicore"]

TASKS = """
import os, pathlib, sys, threading, time
from pools_core import task_rng

ready = []

def begin(): ready.append(len(ready))
def note(): pathlib.Path("left").open("a").write("left\\n")
def number(x): return len(ready)
def draw(x): return task_rng().randint(1, 10**9)
def double(x): return x * 2
def fail(x): raise ValueError("bad")
def fail_on_b(x): return x if x != "b" else fail(x)
def licence(): raise ValueError("no licence")
def leave_badly(): raise OSError("no space")
def die(): os._exit(3)
def process(x): return os.getpid()
def hang(x):
    pathlib.Path("hangs").touch()
    threading.Event().wait()
"""

posix_only = pytest.mark.skipif(os.name != "posix", reason="terminals and signals are other things there")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working directory with a file of tasks."""
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, backend: str = "singlecore") -> subprocess.CompletedProcess[str]:
    """Run the command to its end, with no terminal."""
    command = [*COMMAND, "--backend", backend, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class Terminal:
    """A command whose stderr is a terminal of 80 columns, and its stdout, too, unless that is a pipe.

    Attributes:
        process: the command.
        shown: all that it wrote to the terminal; complete when ``end`` has returned.
    """

    def __init__(self, arguments: tuple[str, ...], backend: str, pipe: bool) -> None:
        self._ours, theirs = os.openpty()
        self._set_size(theirs)
        self.shown = ""
        self.process = subprocess.Popen(
            [*COMMAND, "--backend", backend, *arguments],
            stdout=subprocess.PIPE if pipe else theirs,
            stderr=theirs,
            text=True,
            start_new_session=True,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _set_size(self, terminal: int) -> None:
        import termios

        termios.tcsetwinsize(terminal, (24, 80))

    def _read(self) -> None:
        data = b""
        while True:
            try:
                more = os.read(self._ours, 65536)
            except OSError:  # nobody writes any more
                break
            if not more:
                break
            data += more
        self.shown = data.decode()

    def end(self) -> int:
        """Wait for the command to end; return its exit status."""
        status = self.process.wait(30)
        self._reader.join(30)
        os.close(self._ours)
        return status

    def screen(self) -> list[str]:
        """Return the lines that stand on the terminal at the end, without its moves of the cursor."""
        lines = self.shown.replace("\r\n", "\n").split("\n")
        return [line.rpartition("\r")[2].rstrip() for line in lines if line.rpartition("\r")[2].strip()]


@contextmanager
def terminal(*arguments: str, backend: str = "singlecore", pipe: bool = False):
    """Run the command on a terminal; it is over when the block is."""
    with_it = Terminal(arguments, backend, pipe)
    try:
        yield with_it
    finally:
        if with_it.process.poll() is None:
            with_it.process.kill()
            with_it.end()
        if with_it.process.stdout is not None:
            with_it.process.stdout.close()


def on_terminal(*arguments: str, backend: str = "singlecore") -> tuple[int, list[str]]:
    """Run the command to its end on a terminal; return its status and what stands there."""
    with terminal(*arguments, backend=backend) as it:
        return it.end(), it.screen()


# ── the bar ──


@posix_only
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bar_on_a_terminal(backend):
    """Below the results if these go there, too; with the total where it can be known."""
    status, screen = on_terminal("tasks.py:double", "a", "b", "c", backend=backend)

    assert (status, screen[:-1]) == (0, ["aa", "bb", "cc"])
    assert screen[-1].startswith("double: 100%")
    assert " 3/3 " in screen[-1]


@posix_only
def test_a_bar_without_a_total(here):
    """Of input that is read as it comes: it counts, and knows the total when the input has ended."""
    (here / "in.txt").write_text("a\nb\n")
    with terminal("tasks.py:double", "--lines", "in.txt") as it:
        assert it.end() == 0

    assert "double: 0it [" in it.shown
    assert " 2/2 " in it.screen()[-1]


@posix_only
def test_results_in_a_pipe_and_the_bar_on_the_terminal():
    """Neither gets what belongs to the other."""
    with terminal("tasks.py:double", "a", "b", pipe=True) as it:
        assert it.process.stdout.read() == "aa\nbb\n"
        assert it.end() == 0
        bar, *rest = it.screen()
        assert rest == []

    assert bar.startswith("double: 100%")


@posix_only
def test_failures_stand_above_the_bar():
    """And are counted in it."""
    status, screen = on_terminal("tasks.py:fail_on_b", "a", "b", "c", "--on-error", "return")

    assert (status, screen[:-1]) == (1, ["a", "pools: task 1: ValueError: bad", "c"])
    assert "1 failed" in screen[-1]


@posix_only
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_failure_ends_the_bar_before_its_traceback(backend):
    """Of which each line is whole."""
    status, screen = on_terminal("tasks.py:fail", "a", backend=backend)

    assert status == 1
    assert screen[0].startswith("fail stopped: ")
    assert screen[1] == "Traceback (most recent call last):"
    assert screen[-2] == "ValueError: bad"


@posix_only
@pytest.mark.parametrize("arguments", [["--no-progress"], ["--no-progress", "--insights"]])
def test_no_bar_where_none_is_wanted(arguments):
    """Not even its escape codes."""
    with terminal("tasks.py:double", "a", *arguments) as it:
        assert it.end() == 0

    assert "\x1b" not in it.shown
    assert "%|" not in it.shown
    assert it.screen()[0] == "aa"


def test_no_bar_where_there_is_no_terminal():
    """Unless it is asked for: then a line, which a log can hold."""
    assert run("tasks.py:double", "a").stderr == ""

    done = run("tasks.py:double", "a", "b", "--progress")
    assert done.stdout == "aa\nbb\n"
    assert done.stderr.startswith("double: 2/2 (100%), ")
    assert done.stderr.count("\n") == 1


@posix_only
@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_leaves_the_bar_clean(here, backend):
    """It says so, and the shell's prompt comes on a line of its own."""
    with terminal("tasks.py:hang", "a", "b", backend=backend) as it:
        while not (here / "hangs").exists():
            assert it.process.poll() is None
        os.killpg(it.process.pid, signal.SIGINT)
        assert it.end() == 130
        bar, *rest = it.screen()
        assert rest == []

    assert re.match("hang (interrupted|stopped): ", bar)  # the latter if it came before the first wait
    assert it.shown.endswith("\n")


@posix_only
def test_a_reader_that_stops_is_no_error(here):
    """As before ``| head``; the bar is at its end, and nothing else is said."""
    (here / "in.txt").write_text("a\n" * 100_000)
    with terminal("tasks.py:double", "--lines", "in.txt", "--insights", pipe=True) as it:
        assert it.process.stdout.readline() == "aa\n"
        it.process.stdout.close()
        assert it.end() == 141
        bar, *rest = it.screen()
        assert rest == []

    assert bar.startswith("double stopped: ")


# ── insights ──


@pytest.mark.parametrize("backend", BACKENDS)
def test_insights_at_the_end(backend):
    """On stderr, so that results stay results."""
    done = run("tasks.py:double", "a", "b", "c", "--insights", backend=backend)

    assert (done.returncode, done.stdout) == (0, "aa\nbb\ncc\n")
    assert done.stderr.startswith("Insights: ")
    assert "3 tasks" in done.stderr.splitlines()[0]


def test_insights_of_a_job_that_failed():
    """After what it failed of."""
    done = run("tasks.py:fail", "a", "--insights")

    assert done.returncode == 1
    assert done.stderr.index("ValueError: bad") < done.stderr.index("Insights: ")


@posix_only
def test_insights_of_a_job_that_was_interrupted(here):
    """Whoever stops a slow job wants to know what was slow."""
    with terminal("tasks.py:hang", "a", "--insights", backend="multicore") as it:
        while not (here / "hangs").exists():
            assert it.process.poll() is None
        os.killpg(it.process.pid, signal.SIGINT)
        assert it.end() == 130

    assert it.screen()[1].startswith("Insights: ")


# ── workers ──


@pytest.mark.parametrize("backend", BACKENDS)
def test_workers_are_set_up_and_taken_down(here, backend):
    """What init leaves in the file's globals is there for the function."""
    arguments = ("--worker-init", "tasks.py:begin", "--worker-exit", "tasks.py:note")
    done = run("tasks.py:number", "a", "b", *arguments, backend=backend)

    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) <= {"1", "2"}
    assert "left\n" in (here / "left").read_text()


def test_a_worker_that_is_replaced(here):
    """After as many tasks as is said."""
    done = run("tasks.py:process", *"abcdef", "--lifespan", "2", "-j", "1", backend="multicore")

    pids = done.stdout.split()
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 2]


def test_random_numbers_are_the_same_everywhere():
    """With the same seed."""
    results = {run("tasks.py:draw", "a", "b", "--seed", "7", backend=backend).stdout for backend in BACKENDS}

    assert len(results) == 1
    assert run("tasks.py:draw", "a", "b", "--seed", "8").stdout not in results


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("option", "function", "says"),
    [
        ("--worker-init", "licence", "ValueError: no licence"),
        ("--worker-exit", "leave_badly", "OSError: no space"),
    ],
)
def test_a_failing_init_or_exit_is_told_as_a_tasks_failure(backend, option, function, says):
    """Its traceback is the user's code, and a note says what it was."""
    done = run("tasks.py:double", "a", option, f"tasks.py:{function}", backend=backend)

    assert done.returncode == 1
    assert says in done.stderr
    assert f"raised by {option[2:].replace('-', '_')} in " in done.stderr.splitlines()[-1]
    assert "pools_core" not in done.stderr


def test_an_init_that_ends_its_process():
    """One line, and no end without a word."""
    done = run("tasks.py:double", "a", "--worker-init", "tasks.py:die", backend="multicore")

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "died while running worker_init: exit code 3" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--worker-init", "tasks.py:beginn"], "--worker-init: tasks.py has no function 'beginn'; did you"),
        (["--worker-exit", "tasks.py:ready"], "--worker-exit: 'ready' in tasks.py is list"),
        (["--worker-exit", "note"], "--worker-exit: FUNC is module:function"),
        (["--worker-init", "no.py:f"], "--worker-init: no.py cannot be imported: No such file"),
        (["--lifespan", "0"], "worker_lifespan is a finite number of at least 1"),
        (["--lifespan", "x"], "'--lifespan'"),
        (["--seed", "x"], "'--seed'"),
    ],
)
def test_bad_options_are_one_line(arguments, says):
    """With exit status 2; nothing has run, and no table comes of it."""
    done = run("tasks.py:double", "a", "--insights", "--progress", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


# ── the page of options ──


@pytest.mark.parametrize("options", [CallSettings, MulticoreSettings], ids=lambda kind: kind.__name__)
def test_every_option_stands_on_its_page(options):
    """In the table at the top, and once more where it is explained."""
    page = (Path(__file__).parents[2] / "docs/options.md").read_text(encoding="utf-8")
    table, _, explained = page.partition("\n## ")
    names = [field.name for field in fields(options)]

    assert [name for name in names if f"`{name}`" not in table] == []
    assert [name for name in names if not re.search(rf"\b{name}\b", explained)] == []


def test_the_options_of_calls_and_pools_are_those_of_the_page():
    """The settings that the test above goes through leave none out."""
    assert set(CallOptions.__annotations__) == {field.name for field in fields(CallSettings)}
    assert {field.name for field in fields(PoolSettings)} < {
        field.name for field in fields(MulticoreSettings)
    }

"""How a multicore pool ends when its program does not end it: killed, interrupted, forked, forgotten."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pty
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from typing import NamedTuple

import psutil
import pytest

from pools_core import MakePool, PoolClosedError
from pools_core.testing import tasks
from pools_core.testing.gate import Gate
from pools_core.testing.leaks import belongings, gone
from pools_core.testing.waiting import deadline, wait_until

START_METHODS = ("fork", "forkserver", "spawn")
PATIENCE = 20
"""Seconds for what should take well under one, on a machine that is busy with other things."""

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning")


@pytest.fixture(autouse=True)
def _ends_by_a_deadline():
    with deadline(120):
        yield


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


@pytest.fixture
def program(tmp_path):
    """Return a function that writes a program and returns the command that runs it."""

    def write(body, *arguments):
        path = tmp_path / "program.py"
        path.write_text(PROGRAM + textwrap.indent(textwrap.dedent(body), "    "))
        return [sys.executable, str(path), *map(str, arguments)]

    return write


PROGRAM = """\
import itertools, os, sys, threading, time
from pools_core import MakePool
from pools_core.testing import tasks

def worker_ids(pool):
    from pools_core.testing.gate import Gate
    with Gate(opens_at=pool.size) as gate:
        pool.map(tasks.pass_gate, [gate.address] * pool.size, 1)
        return sorted(pid for _, pid in gate.arrived)

if __name__ == "__main__":
    start_method, log, how = sys.argv[1:4]
"""


def started(command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def descendants(pid):
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def assert_gone(pids, seconds, what):
    try:
        wait_until(lambda: all(map(gone, pids)), seconds, what)
    finally:
        for pid in pids:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


# --- the parent is killed -------------------------------------------------------------------------------

BUSY = """\
pool = MakePool("multicore", n_jobs=2, start_method=start_method)
pool.starmap(tasks.hang, [(log, how)] * 2, chunksize=1)
"""

IDLE = """\
pool = MakePool("multicore", n_jobs=2, start_method=start_method)
for pid in worker_ids(pool):
    tasks.note(log, str(pid))
time.sleep(1000)
"""

NESTED = """\
pool = MakePool("multicore", n_jobs=1, start_method=start_method, daemon=False)
pool.apply(tasks.hang_in_nested_pool, (log, how), {"start_method": start_method})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize(
    "how", ["sleep", "spin", "hold the GIL", "ignore SIGTERM", "idle", "nested", "nested spin"]
)
@pytest.mark.parametrize("start_method", START_METHODS)
def test_no_worker_outlives_a_killed_parent(program, log, start_method, how, number):
    """Not even for two seconds, whatever it is doing; helpers and nested pools end as well."""
    if number == signal.SIGTERM and how not in ("sleep", "idle", "nested"):
        pytest.skip("one of each kind is enough for SIGTERM")
    body = IDLE if how == "idle" else NESTED if how.startswith("nested") else BUSY
    lines = 3 if body is NESTED else 2
    with started(
        program(body, start_method, log, {"nested": "sleep", "nested spin": "spin"}.get(how, how))
    ) as parent:
        wait_until(lambda: len(tasks.notes(log)) == lines or parent.poll() is not None, PATIENCE)
        assert parent.poll() is None, parent.communicate()[1]
        family = descendants(parent.pid)
        workers = [int(word) if word.isdigit() else pid for word, pid in tasks.notes(log)]
        assert set(workers) <= set(family)

        parent.send_signal(number)

        assert_gone(workers, 2, "the workers are dead")
        assert_gone(family, PATIENCE, "helper processes are dead")
        parent.communicate()


# --- Ctrl-C in a terminal -------------------------------------------------------------------------------


class Ended(NamedTuple):
    """How a program in a terminal ended: what it said, its exit status, and seconds since Ctrl-C."""

    said: str
    status: int
    seconds: float


def run_in_terminal(command, log, workers=2):
    """Run a program in a pseudo-terminal, press Ctrl-C when so many of its tasks run, and see it end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forkpty beside threads; the child execs at once
        pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, {**os.environ, "PYTHON_COLORS": "0"})
    said = bytearray()
    status = None
    try:
        read_until(terminal, said, lambda: len(tasks.notes(log)) >= workers)
        assert len(tasks.notes(log)) >= workers, said.decode(errors="replace")
        family = descendants(pid)
        pressed = time.monotonic()
        os.write(terminal, b"\x03")
        read_until(terminal, said, lambda: False)
        wait_until(lambda: gone(pid), PATIENCE, "the program has ended")
        seconds = time.monotonic() - pressed
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(terminal)
    text = said.decode(errors="replace")
    assert_gone(family, PATIENCE, f"no child is left; the program said: {text}")
    return Ended(text, status, seconds)


def read_until(terminal, said, enough):
    """Take what the program says until it is enough, or the last process has left the terminal."""
    end = time.monotonic() + PATIENCE
    while not enough() and time.monotonic() < end:
        if select.select([terminal], [], [], 0.02)[0]:
            try:
                said += os.read(terminal, 65536)
            except OSError as error:  # so Linux says that nobody is left
                if error.errno != errno.EIO:
                    raise
                return


CALLS = {
    "map": "pool.starmap(tasks.hang, [(log, how)] * 100, chunksize=1)",
    "map in one chunk": "pool.starmap(tasks.hang, [(log, how)] * 100, n_splits=2)",
    "imap": "list(pool.imap(lambda _: tasks.hang(log, how), itertools.count()))",
    "imap_unordered": "list(pool.imap_unordered(lambda _: tasks.hang(log, how), itertools.count()))",
    "map_async": "pool.starmap_async(tasks.hang, [(log, how)] * 100, chunksize=1).get()",
    "apply": "other = pool.apply_async(tasks.hang, (log, how)); pool.apply(tasks.hang, (log, how))",
    "submit": "[future.result() for future in [pool.submit(tasks.hang, log, how) for _ in range(9)]]",
    "another thread leads": """
for arguments in [(pool.map, abs, [1] * 10), (pool.apply, tasks.hang, (log, how))]:
    threading.Thread(target=quiet, args=arguments, daemon=True).start()
waiting = pool.apply_async(tasks.hang, (log, how))
pool.apply(tasks.hang, (log, how))""",
    "join": """
for _ in range(10):
    pool.apply_async(tasks.hang, (log, how))
pool.close()
pool.join()""",
}

INTERRUPTED = """\
def quiet(function, *arguments):
    try:
        function(*arguments)
    except Exception:
        pass
with MakePool("multicore", n_jobs=2, start_method=start_method) as pool:
    {call}
"""


def interrupted(call):
    return INTERRUPTED.format(call=textwrap.indent(call, "    ").strip())


@pytest.mark.parametrize("how", ["sleep", "spin"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("start_method", START_METHODS)
def test_ctrl_c_ends_the_program_with_one_traceback(program, log, start_method, call, how):
    """The terminal sends SIGINT to the workers, too; none of them may say a word about it."""
    ended = run_in_terminal(program(interrupted(CALLS[call]), start_method, log, how), log)

    assert ended.said.count("Traceback (most recent call last)") == 1, ended.said
    assert ended.said.rstrip().splitlines()[-1] == "KeyboardInterrupt", ended.said
    assert len(re.findall("^KeyboardInterrupt", ended.said, re.MULTILINE)) == 1, ended.said
    assert ended.status in (-signal.SIGINT, 130, 1)
    assert ended.seconds < PATIENCE / 4


@pytest.mark.parametrize("backend", ["singlecore", "threads"])
def test_ctrl_c_ends_the_other_local_pools_as_well(program, log, backend):
    """In the same way: one traceback, in time."""
    body = f"""\
    with MakePool({backend!r}) as pool:
        pool.starmap(tasks.hang, [(log, "sleep")] * 3, chunksize=1)
    """
    ended = run_in_terminal(program(body, "none", log, "sleep"), log, workers=1)

    assert ended.said.count("Traceback (most recent call last)") == 1, ended.said
    assert ended.said.rstrip().splitlines()[-1] == "KeyboardInterrupt", ended.said
    assert ended.seconds < PATIENCE / 4


@pytest.mark.parametrize("start_method", START_METHODS)
def test_after_ctrl_c_the_pool_can_be_used(program, log, start_method):
    """Whoever catches KeyboardInterrupt goes on with the same pool; only that call has ended."""
    body = """\
    with MakePool("multicore", n_jobs=2, start_method=start_method) as pool:
        try:
            pool.starmap(tasks.hang, [(log, how)] * 10, chunksize=1)
        except KeyboardInterrupt:
            print("again:", pool.map(tasks.square, [1, 2, 3]), pool.apply(tasks.square, (4,)))
    """
    ended = run_in_terminal(program(body, start_method, log, "sleep"), log)

    assert "again: [1, 4, 9] 16" in ended.said
    assert "Traceback" not in ended.said
    assert ended.status == 0


@pytest.mark.parametrize("start_method", START_METHODS)
def test_ctrl_c_between_calls_and_without_with_leaves_nothing(program, log, start_method):
    """Idle workers do not take part in a Ctrl-C, and end with the program that forgot its pool."""
    ended = run_in_terminal(program(IDLE, start_method, log, "idle"), log)

    assert ended.said.count("Traceback (most recent call last)") == 1, ended.said
    assert ended.seconds < PATIENCE / 4


@pytest.mark.parametrize("start_method", START_METHODS)
def test_an_interrupt_sent_to_the_program_alone_does_the_same(program, log, start_method):
    """``kill -INT``, as a supervisor sends it: not from a terminal, and not to the workers."""
    with started(program(interrupted(CALLS["map"]), start_method, log, "spin")) as parent:
        wait_until(lambda: len(tasks.notes(log)) == 2 or parent.poll() is not None, PATIENCE)
        family = descendants(parent.pid)
        parent.send_signal(signal.SIGINT)
        _, errors = parent.communicate(timeout=PATIENCE)

    assert errors.count("Traceback (most recent call last)") == 1, errors
    assert_gone(family, PATIENCE, "no child is left")


def test_interrupts_at_any_moment_break_nothing(program, log):
    """Forty of them, at random moments of short calls: each call gives all or raises; the pool lives on."""
    body = """\
    import faulthandler, random, signal
    faulthandler.dump_traceback_later(60, exit=True)
    # A real SIGINT, so that a pool that holds it back for a moment, as around a fork, may do so.
    signal.signal(signal.SIGALRM, lambda *_: calling and signal.raise_signal(signal.SIGINT))
    calling = False
    # CPython drops one that lands in a weakref's callback or a finalizer, and says so; those do not count.
    sys.unraisablehook = lambda it: it.exc_type is KeyboardInterrupt or sys.__unraisablehook__(it)
    dice = random.Random(4)
    interrupts = 0
    with MakePool("multicore", n_jobs=2, start_method=start_method) as pool:
        pool.map(tasks.square, range(10))
        while interrupts < 40:
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.0005, 0.02))
            try:
                calling = True
                assert pool.map(tasks.square, range(300)) == [n * n for n in range(300)]
                assert sorted(pool.imap_unordered(tasks.square, range(50))) == [n * n for n in range(50)]
                assert pool.apply_async(tasks.square, (3,)).get(30) == 9
                calling = False
            except KeyboardInterrupt:
                calling = False
                interrupts += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert pool.map(tasks.square, range(300)) == [n * n for n in range(300)]
    print("survived", interrupts)
    """
    command = program(body, "fork", log, "")
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

    assert run.stdout.strip() == "survived 40", run.stderr
    assert run.stderr == ""


# --- the program ends without ending its pool ------------------------------------------------------------

FORGETFUL = {
    "open": "pool = MakePool('multicore', n_jobs=2, start_method=start_method); pool.map(abs, [1])",
    "never used": "pool = MakePool('multicore', n_jobs=2, start_method=start_method)",
    "half-read imap": """
pool = MakePool('multicore', n_jobs=2, start_method=start_method)
results = pool.imap(abs, itertools.count())
next(results)""",
    "background work": """
pool = MakePool('multicore', n_jobs=2, start_method=start_method)
result = pool.apply_async(tasks.hang, (log, 'sleep'))
while not tasks.notes(log): time.sleep(0.01)""",
    "closed, not joined": """
pool = MakePool('multicore', n_jobs=2, start_method=start_method)
pool.map(abs, [1])
pool.close()""",
    "in a cycle": """
class Holder: pass
holder = Holder()
holder.me, holder.pool = holder, MakePool('multicore', n_jobs=2, start_method=start_method)
holder.pool.map(abs, [1])
del holder""",
    "sys.exit in a thread's map": """
pool = MakePool('multicore', n_jobs=2, start_method=start_method)
worker_ids(pool)  # both are there: CPython refuses to fork once the main thread has ended
threading.Thread(target=pool.map, args=(time.sleep, [0.1] * 5)).start()
sys.exit(0)""",
}


@pytest.mark.parametrize("case", FORGETFUL)
@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_program_that_forgets_its_pool_ends(program, log, start_method, case):
    """In time, with status 0, without a word, and leaving no process."""
    with started(program("print('ready', flush=True)\n" + FORGETFUL[case], start_method, log, "")) as parent:
        assert parent.stdout.readline() == "ready\n"
        family = set()
        end = time.monotonic() + PATIENCE
        while parent.poll() is None and time.monotonic() < end:
            try:
                family |= set(descendants(parent.pid))
            except psutil.NoSuchProcess:
                break
        _, errors = parent.communicate(timeout=PATIENCE)

    assert parent.returncode == 0, errors
    assert errors == ""
    assert_gone(family, PATIENCE, "no child is left")


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_script_without_a_main_guard_is_told_so(tmp_path, start_method):
    """Its workers import it and come to the same line: an error, not an avalanche of processes."""
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from pools_core import MakePool\n"
        f"pool = MakePool('multicore', n_jobs=2, start_method={start_method!r})\n"
        "print(pool.map(abs, [-1]))\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)

    assert (run.returncode, run.stdout) == (0, "[1]\n") or (run.returncode and "__main__" in run.stderr), run


# --- nothing grows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["with", "terminate", "dropped"])
@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_hundred_pools_leave_nothing(start_method, end):
    """No descriptor, thread, child or entry of /dev/shm; with large data on the way, too."""
    before = belongings()
    count = 100 if end == "with" else 20
    for number in range(count):
        pool = MakePool("multicore", n_jobs=2, start_method=start_method)
        assert pool.map(tasks.identity, [number, "x"]) == [number, "x"]
        if number % 10 == 0:
            assert len(pool.apply_async(tasks.huge, (3_000_000,)).get(30)) == 3_000_000
        if end == "with":
            with pool:
                pass
        elif end == "terminate":
            pool.terminate()
            pool.join()
        del pool

    wait_until(lambda: not belongings().beyond(before), what=f"left: {belongings().beyond(before)}")


def test_many_calls_leave_nothing():
    """A pool that lives long holds no more after a thousand calls than after one."""
    with MakePool("multicore", n_jobs=2) as pool:
        pool.apply_async(tasks.square, (1,)).get(30)
        with Gate(opens_at=2) as gate:  # each worker starts when there is work for it
            pool.map(tasks.pass_gate, [gate.address] * 2, chunksize=1)
        before = belongings()
        for number in range(300):
            pool.map(tasks.square, range(3))
            pool.apply(tasks.add_one, (number,))
            next(pool.imap(tasks.huge, [100_000] * 3))
            pool.apply_async(tasks.add_one, (number,)).get(30)

        wait_until(lambda: not belongings().beyond(before), what=f"left: {belongings().beyond(before)}")


# --- fork ------------------------------------------------------------------------------------------------


def in_fork(function):
    """Return what a function returns, as text, in a forked child that ends in the normal way."""
    reader, writer = multiprocessing.Pipe(duplex=False)

    def child():
        writer.send(function())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    writer.close()
    assert reader.poll(PATIENCE)
    answer = reader.recv()
    process.join(PATIENCE)
    reader.close()
    assert process.exitcode == 0
    process.close()
    return answer


@pytest.mark.parametrize("used", ["unused", "used", "in the background"])
@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_pool_cannot_be_used_in_a_forked_child(start_method, used):
    """A clear error that names the process it belongs to; the parent's pool is not disturbed."""
    with MakePool("multicore", n_jobs=2, start_method=start_method) as pool:
        if used != "unused":
            pool.map(tasks.square, range(10))
        if used == "in the background":
            result = pool.apply_async(tasks.nap, (0.3,))

        def use():
            said = []
            for call in (
                lambda: pool.map(tasks.square, [1]),
                lambda: pool.imap(tasks.square, [1]),
                lambda: pool.apply(tasks.square, (1,)),
                lambda: pool.apply_async(tasks.square, (1,)),
                lambda: pool.submit(tasks.square, 1),
            ):
                try:
                    call()
                    said.append("no error")
                except PoolClosedError as error:
                    said.append(str(error))
            pool.close()
            pool.terminate()
            pool.join()
            return said

        for said in in_fork(use):
            assert re.search(rf"\b{os.getpid()}\b", said)
            assert "fork" in said

        if used == "in the background":
            assert result.get(30) == 0.3
        assert pool.map(tasks.square, range(10)) == [number * number for number in range(10)]


def test_a_forked_child_can_make_a_pool_of_its_own():
    """While the parent's is at work."""
    with MakePool("multicore", n_jobs=2) as pool:
        work = pool.map_async(tasks.nap, [0.001] * 300)

        def use():
            with MakePool("multicore", n_jobs=2, start_method="fork") as own:
                return own.map(tasks.square, [1, 2, 3])

        assert in_fork(use) == [1, 4, 9]
        assert work.get(30) == [0.001] * 300


# --- pools within pools ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_nested_pool_in_a_daemon_worker_is_refused_with_the_remedy(start_method):
    """An AssertionError, as multiprocessing's, that says daemon=False."""
    with MakePool("multicore", n_jobs=2, start_method=start_method) as pool:
        with pytest.raises(AssertionError, match="daemon=False"):
            pool.apply(tasks.sum_in_nested_pool, ([1, 2],))
        assert pool.map(tasks.square, [3]) == [9]


@pytest.mark.parametrize("inner", START_METHODS)
@pytest.mark.parametrize("outer", START_METHODS)
def test_nested_pools_work_with_daemon_false(outer, inner):
    """In every combination of start methods; and inside those, again."""
    with MakePool("multicore", n_jobs=2, start_method=outer, daemon=False) as pool:
        sums = [
            pool.apply_async(tasks.sum_in_nested_pool, (numbers,), {"start_method": inner})
            for numbers in ([1, 2, 3], [4])
        ]
        assert [result.get(60) for result in sums] == [14, 16]


@pytest.mark.parametrize("start_method", START_METHODS)
def test_terminate_ends_nested_pools(log, start_method):
    """The grandchildren, too."""
    pool = MakePool("multicore", n_jobs=1, start_method=start_method, daemon=False)
    pool.apply_async(tasks.hang_in_nested_pool, (log, "sleep"), {"start_method": start_method})
    wait_until(lambda: len(tasks.notes(log)) == 3, PATIENCE, "the nested workers hang")

    pool.terminate()
    pool.join()

    assert_gone([pid for _, pid in tasks.notes(log)], PATIENCE, "all are dead")

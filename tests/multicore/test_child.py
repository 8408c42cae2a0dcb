"""What a worker is as a child process: the same whether ``multiprocessing`` is there at its start or not.

Each test runs a script of its own, since a spawned worker imports the main script, and that of pytest imports
``multiprocessing`` before a worker's first task.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pools_core import MakePool
from pools_core.testing.gate import Address, Gate, pass_gate

METHODS = pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
EAGER = pytest.mark.parametrize("eager", [False, True], ids=["later", "at once"])
"""Whether the main script imports ``multiprocessing``, so that it is there before the first task."""

MAIN = """
if __name__ == "__main__":
    import json
    from pools_core import MakePool

    with MakePool("multicore", n_jobs=1, **json.loads(sys.argv[1])) as pool:
        print(json.dumps(pool.apply(task)), flush=True)
    print("the pool has ended", flush=True)
"""


def run(folder: Path, script: str, eager: bool = False, **options: object) -> list[str]:
    """Run a script that defines ``task``, in a pool with some options; return the lines that it prints."""
    path = folder / "script.py"
    path.write_text(("import multiprocessing\n" if eager else "") + "import sys\n" + script + MAIN)
    return output(str(path), json.dumps(options))


def output(*command: str) -> list[str]:
    """Return the lines that a program prints."""
    done = subprocess.run(
        [sys.executable, *command],
        input="for the parent",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


WHO = """
def task():
    late = "multiprocessing" not in sys.modules
    import importlib.util
    importlib.util.find_spec("multiprocessing")  # whether it could be imported is not yet its import
    import multiprocessing
    process = multiprocessing.current_process()
    told = [process.name, process.daemon, multiprocessing.parent_process() is not None]
    told += [multiprocessing.get_start_method(), bytes(process.authkey).hex()]
    told += [hasattr(process, "_inheriting"), multiprocessing.active_children()]
    return late, told, [type(finder).__module__ for finder in sys.meta_path]

if __name__ == "__main__":
    import multiprocessing
    multiprocessing.current_process().authkey = b"a key"
    multiprocessing.set_start_method("forkserver")
"""


@METHODS
@EAGER
@pytest.mark.parametrize("daemon", [True, False])
def test_multiprocessing_knows_what_a_worker_is(tmp_path, start_method, eager, daemon):
    """Its name, whose child it is, and what the parent had set; also when it is imported by a task."""
    late, told, finders = json.loads(run(tmp_path, WHO, eager, start_method=start_method, daemon=daemon)[0])

    assert late == (start_method == "spawn" and not eager)
    assert told == ["pools worker 0", daemon, True, "forkserver", b"a key".hex(), False, []]
    assert "pools_multicore.child" not in finders


PLACE = """
import os

def task():
    import multiprocessing
    process, parent = multiprocessing.current_process(), multiprocessing.parent_process()
    child = multiprocessing.get_context("fork").Process()
    whose = [parent.pid, parent.name, parent.is_alive()]
    return process.pid == os.getpid(), process._identity, whose, child._identity

if __name__ == "__main__":
    import multiprocessing
    multiprocessing.current_process().name = "the caller"
    multiprocessing.Process()  # counts, too
    print(os.getpid())
"""


@METHODS
@EAGER
def test_multiprocessing_knows_whose_child_a_worker_is(tmp_path, start_method, eager):
    """Of the process that made the pool, whichever forked it; programs share out devices by such numbers."""
    caller, told, _ = run(tmp_path, PLACE, eager, start_method=start_method)

    assert json.loads(told) == [True, [2], [int(caller), "the caller", True], [2, 1]]


def place(gate: Address) -> tuple[int, ...]:
    """Return this worker's place among its parent's children."""
    pass_gate(gate)
    found: tuple[int, ...] = multiprocessing.current_process()._identity
    return found


@METHODS
def test_each_worker_has_a_number_of_its_own(start_method):
    """Also one that takes the place of another, as in ``multiprocessing.Pool``."""
    with MakePool("multicore", n_jobs=2, start_method=start_method) as pool:
        with Gate(opens_at=2) as gate:
            places = pool.map(place, [gate.address] * 2, chunksize=1)
        with Gate(opens_at=1) as gate:
            places += pool.map(place, [gate.address] * 4, chunksize=1, worker_lifespan=1)

    numbers = [number for (number,) in places]
    assert numbers[1] != numbers[0]
    assert len(set(numbers)) >= 4, numbers


LOADS = """
model = None

def load():
    global model
    model = "loaded"
"""

ASSIGNED = (
    LOADS
    + """
def loader():
    def load():
        global model
        model = "loaded"
    return load

def use(_):
    return model

def assigned_in_a_script():
    found = []
    for init in (load, loader()):
        with MakePool("multicore", n_jobs=1, **json.loads(sys.argv[1])) as pool:
            for function in (use, lambda _: model):
                for _ in range(2):  # the second time it is there before
                    found += pool.map(function, range(2), worker_init=init)
    return found

if __name__ == "__main__":
    import json
    from pools_core import MakePool
    print(json.dumps(assigned_in_a_script()))

def task():
    return "done"
"""
)


@METHODS
def test_a_lambda_and_a_function_of_the_script_find_what_worker_init_assigned(tmp_path, start_method):
    """Whatever the script is called in the worker."""
    lines = run(tmp_path, ASSIGNED, start_method=start_method)
    assert json.loads(lines[0]) == ["loaded"] * 16


PIPED = (
    "from pools_core import MakePool\n"
    + LOADS
    + """
def use(number):
    return model, number

class Number:
    def __init__(self, number):
        self.number = number

with MakePool("multicore", n_jobs=2, start_method=START_METHOD) as pool:
    print(pool.map(use, range(2), worker_init=load))
    print([result.number for result in pool.map(lambda one: one, [Number(3)])])
    print(pool.map(lambda number: use(number), range(2), worker_init=load))
"""
)


@METHODS
def test_a_program_may_come_from_standard_input(start_method):
    """Workers cannot read it once more, and need not: its functions come with their code."""
    done = subprocess.run(
        [sys.executable, "-"],
        input=PIPED.replace("START_METHOD", repr(start_method)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    loaded = "[('loaded', 0), ('loaded', 1)]"
    assert done.stdout.splitlines() == [loaded, "[3]", loaded]


CHILDREN = """
def child(number):
    sys.exit(number)

def task():
    import multiprocessing
    try:
        process = multiprocessing.get_context("fork").Process(target=child, args=(3,))
        process.start()
    except AssertionError as error:
        return str(error)
    process.join()
    return process.exitcode
"""


@METHODS
def test_a_task_may_have_processes_of_its_own_where_its_worker_may(tmp_path, start_method):
    """That is what ``daemon`` says."""
    assert run(tmp_path, CHILDREN, start_method=start_method, daemon=False)[0] == "3"
    refused = run(tmp_path, CHILDREN, start_method=start_method, daemon=True)[0]
    assert "daemonic processes are not allowed to have children" in refused


ENDS = """
import atexit

def say(what):
    sys.stdout.write(what + "\\n")  # and does not flush it

def linger():
    import threading, time
    threading.main_thread().join()  # until the worker has nothing more to do
    say("thread")

def task():
    import threading
    from multiprocessing import util
    util.Finalize(None, say, args=("finalizer",), exitpriority=1)
    atexit.register(say, "exit function")
    threading.Thread(target=linger).start()

if __name__ == "__main__":
    atexit.register(say, "the parent's")
"""


@METHODS
@EAGER
def test_what_a_task_leaves_for_the_end_is_done_then(tmp_path, start_method, eager):
    """By the worker, once; on each Python, though ``multiprocessing`` leaves it to others since 3.13."""
    lines = run(tmp_path, ENDS, eager, start_method=start_method)

    assert sorted(lines[1:-2]) == ["exit function", "finalizer", "thread"]
    assert lines[-2:] == ["the pool has ended", "the parent's"]


STDIN = """
def task():
    return sys.stdin.read()
"""


@METHODS
@EAGER
def test_what_is_typed_is_for_the_parent(tmp_path, start_method, eager):
    """A task that reads standard input finds nothing, and takes nothing away."""
    assert run(tmp_path, STDIN, eager, start_method=start_method)[0] == '""'


WHERE = """
def task():
    import os
    return sys.argv, sys.path, os.getcwd()

if __name__ == "__main__":
    import os
    sys.path.append("added")
    sys.argv.append("added")
    os.chdir("/")
"""


@METHODS
@EAGER
def test_a_worker_takes_after_its_parent(tmp_path, start_method, eager):
    """In what it was called with, where it looks for modules, and where it is."""
    argv, path, folder = json.loads(run(tmp_path, WHERE, eager, start_method=start_method)[0])

    assert argv == [str(tmp_path / "script.py"), json.dumps({"start_method": start_method}), "added"]
    assert (path[0], path[-1], folder) == (str(tmp_path), "added", "/")


GLOBALS = """
count: int = 0

def task():
    global count
    count += 1
    import __main__, __mp_main__
    told = [count, __main__.count, __mp_main__.count, __name__, __file__, __main__ is __mp_main__]
    return [*told, __annotations__["count"] is int]
"""


def test_the_main_script_is_one_module(tmp_path):
    """What its functions see and what others see of it is the same."""
    told = json.loads(run(tmp_path, GLOBALS, start_method="spawn")[0])

    assert told == [1, 1, 1, "__mp_main__", str(tmp_path / "script.py"), True, True]


ENCODED = """# -*- coding: latin-1 -*-
import sys
WORD = "Gr\xfc\xdfe"

def task():
    return WORD
"""


def test_a_script_is_read_as_its_first_lines_say(tmp_path):
    """Its encoding, as by Python itself."""
    path = tmp_path / "script.py"
    path.write_bytes((ENCODED + MAIN).encode("latin-1"))

    assert output(str(path), '{"start_method": "spawn"}')[0] == json.dumps("Grüße")


TASK = "import sys\ndef task():\n    return __name__, __package__\n"
UNGUARDED = MAIN.replace('__name__ == "__main__"', "True")


@pytest.mark.parametrize("kind", ["a module", "a package", "a folder", "an archive", "without an ending"])
def test_however_the_main_script_was_run(tmp_path, monkeypatch, kind):
    """It is imported again; but not what is always run as a whole, whose modules are there all the same."""
    name, package = ("other", "") if kind in ("a folder", "an archive") else ("__mp_main__", "")
    (tmp_path / "other.py").write_text(TASK)
    path = tmp_path / "script"
    command = [str(path)]
    if kind == "a module":
        package = "parts"
        (tmp_path / "parts").mkdir()
        (tmp_path / "parts" / "program.py").write_text("from . import program as _\n" + TASK + MAIN)
        command = ["-m", "parts.program"]
    elif kind == "a package":
        name = package = "parts"
        (tmp_path / "parts").mkdir()
        (tmp_path / "parts" / "__init__.py").write_text(TASK)
        (tmp_path / "parts" / "__main__.py").write_text("import sys\nfrom parts import task\n" + UNGUARDED)
        command = ["-m", "parts"]
    elif kind == "without an ending":
        path.write_text(TASK + MAIN)
    elif kind == "a folder":
        command = [str(tmp_path)]
        (tmp_path / "__main__.py").write_text("import sys\nfrom other import task\n" + UNGUARDED)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "other.py", "other.py")
            archive.writestr("__main__.py", "import sys\nfrom other import task\n" + UNGUARDED)
    monkeypatch.chdir(tmp_path)

    assert output(*command, '{"start_method": "spawn"}')[0] == json.dumps([name, package])


@EAGER
def test_a_script_that_starts_a_pool_while_a_worker_imports_it_is_told(tmp_path, eager):
    """Nothing hangs, and no process starts processes without end."""
    script = "import multiprocessing\n" if eager else ""
    script += "from pools_core import MakePool\n"
    script += "MakePool('multicore', n_jobs=1, start_method='spawn').map(abs, [1])\n"
    path = tmp_path / "script.py"
    path.write_text(script)

    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 1
    assert 'put what the script runs under `if __name__ == "__main__":`' in done.stderr


@EAGER
def test_what_a_worker_meets_in_the_main_script_is_shown(tmp_path, eager):
    """The error that the parent gets cannot say more than that its workers do not start."""
    script = "import multiprocessing\n" if eager else ""
    script += "if __name__ != '__main__':\n    raise LookupError('not here')\n"
    path = tmp_path / "script.py"
    path.write_text(script + "import sys\ntask = abs\n" + MAIN)

    done = subprocess.run(
        [sys.executable, str(path), '{"start_method": "spawn"}'],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "LookupError: not here" in done.stderr
    assert f'File "{path}", line' in done.stderr


@EAGER
def test_an_error_in_the_worker_itself_is_shown(eager):
    """It has nobody else to tell, and ends as programs do that failed."""
    first = "import multiprocessing; " if eager else ""
    program = "from pools_multicore.child import run; "
    program += "config = {'name': 'lost', 'daemon': True, 'place': (1, 'parent', (1,))}; "
    program += "print(run(config, lambda: 1 / 0, 0))"

    done = subprocess.run(
        [sys.executable, "-c", first + program], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout == "1\n"
    assert "ZeroDivisionError" in done.stderr


PRINTS = """
sys.stdout.write("printed when it is imported" + "\\n")

def task():
    sys.stdout.write("printed by the task\\n")

if __name__ == "__main__":
    sys.stdout.write("printed before there is a pool" + "\\n")
"""


@METHODS
def test_what_is_printed_comes_once(tmp_path, start_method):
    """Though a fork copies the buffer of what is still to be written."""
    lines = run(tmp_path, PRINTS, start_method=start_method)
    assert lines.count("printed before there is a pool") == 1
    assert lines.count("printed by the task") == 1
    imported = {"fork": 1, "spawn": 2, "forkserver": 2}[start_method]
    assert lines.count("printed when it is imported") == imported

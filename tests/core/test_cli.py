"""The command, run as its users run it: in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

POOLS = [sys.executable, "-m", "pools_core"]

TASKS = """
import dataclasses, os, re, sys, threading, time

LOCK = threading.Lock()  # cannot be pickled: the file must be loaded in the worker

@dataclasses.dataclass
class Point:
    x: str

def double(x): return x * 2
def point(x): return Point(x)
def locked(x):
    with LOCK:
        return x
def fail(x): raise ValueError(f"bad {x}")
def fail_on_b(x):
    if x == "b": raise ValueError("bad b")
    return x
def lines(x): return "one\\ntwo"
def opaque(x): return object()
def process(x): return os.getpid()
def for_ever(x):
    print("started", file=sys.stderr, flush=True)
    threading.Event().wait()
def die(x): os._exit(3)
def exit(x): sys.exit(4)
def end_of_file(x): raise EOFError("empty")
class Namespace:
    @staticmethod
    def static(x): return f"static {x}"
number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a file of tasks, and a module of the same."""
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "tcli_module.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pools(*arguments: str, text: str | None = None, **more):
    """Run the command to its end and return what came of it."""
    return subprocess.run(
        [*POOLS, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False, **more
    )


def singlecore(*arguments: str, **more):
    """Run ``pools map`` where it is quickest to start."""
    return pools("map", "--backend", "singlecore", *arguments, **more)


def only_line(text: str) -> str:
    """Return the one line that the text is."""
    assert text.count("\n") == 1, text
    assert text.endswith("\n")
    return text[:-1]


# ── items and results ──


def test_items_from_arguments(here):
    """Each is text, and the function's one argument."""
    done = singlecore("tasks.py:double", "ab", "7", "--", "-x")

    assert (done.returncode, done.stdout, done.stderr) == (0, "abab\n77\n-x-x\n", "")


@pytest.mark.parametrize("from_file", [True, False])
def test_items_from_lines(here, from_file):
    """Of a file or of standard input; the line's end does not belong to the item, an empty line does."""
    text = "a\n\n b \r\nc"
    if from_file:
        (here / "in.txt").write_text(text)
    done = singlecore(
        "builtins:repr", "--lines", "in.txt" if from_file else "-", text=None if from_file else text
    )

    assert done.stdout.splitlines() == ["'a'", "''", "' b '", "'c'"]


def test_items_from_json_lines_give_json(here):
    """Blank lines are skipped; the output is JSON unless text is asked for."""
    text = '[1, "é"]\n\n{"a": null}\n2\n'

    done = singlecore("tasks.py:double", "--jsonl", "-", text='[1, "é"]\n\n2\n')
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[1, "é", 1, "é"], 4]

    done = singlecore("builtins:repr", "--jsonl", "-", "--output", "text", text=text)
    assert done.stdout.splitlines() == ["[1, 'é']", "{'a': None}", "2"]


def test_items_from_patterns(here):
    """Files that match, ``**`` for any folders, pattern by pattern, each sorted; no folders."""
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "d.csv", "folder.txt/x"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("")

    done = singlecore("builtins:str", "--glob", "*.csv", "--glob", "**/*.txt")

    assert done.stdout.splitlines() == ["d.csv", "a.txt", "b.txt", "deep/er/c.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes only there")
def test_file_names_that_are_not_text_survive(here):
    """What came in as bytes goes out as the same bytes."""
    (here / os.fsdecode(b"\xff.bin")).write_text("")
    (here / "names").write_bytes(b"\xfe\n")
    run = [*POOLS, "map", "--backend", "singlecore", "builtins:str"]

    assert subprocess.run([*run, "--glob", "*.bin"], capture_output=True, check=False).stdout == b"\xff.bin\n"
    assert subprocess.run([*run, "--lines", "names"], capture_output=True, check=False).stdout == b"\xfe\n"


def test_results_come_while_input_does(here):
    """An endless input is as good as a file; each result is printed when it is there."""
    command = [*POOLS, "map", "--backend", "singlecore", "tasks.py:double", "--lines", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for word in ("a", "b"):
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{word}{word}\n"
        process.stdin.close()
        assert process.stdout.read() == ""
    assert process.returncode == 0


def test_unordered_gives_the_same_results(here):
    """In whichever order."""
    done = pools("map", "--backend", "threads", "-j", "2", "--unordered", "tasks.py:double", *"abcdef")

    assert sorted(done.stdout.split()) == ["aa", "bb", "cc", "dd", "ee", "ff"]


@pytest.mark.skipif(os.name != "posix", reason="signals of a pipe")
def test_a_closed_pipe_is_quiet(here):
    """As any program before ``| head``."""
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as yes:
        command = [*POOLS, "map", "--backend", "threads", "builtins:len", "--lines", "-"]
        with subprocess.Popen(
            command, stdin=yes.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            yes.stdout.close()
            assert process.stdout.readline() == "1\n"
            process.stdout.close()
            assert process.stderr.read() == ""
        assert process.returncode == 141


# ── functions ──


@pytest.mark.parametrize("function", ["tcli_module:double", "./tasks.py:double", "TMP/tasks.py:double"])
def test_functions_of_modules_and_files(here, function):
    """A module may lie in the current directory, as for ``python -m``."""
    assert singlecore(function.replace("TMP", str(here)), "a").stdout == "aa\n"


def test_a_function_within_a_class(here):
    """Its name may have dots."""
    assert singlecore("tasks.py:Namespace.static", "a").stdout == "static a\n"


def test_a_callable_that_a_file_has_from_elsewhere(here):
    """Under another name, or made at import."""
    (here / "borrowed.py").write_text(
        "from functools import partial\nfrom math import sqrt as root\np = partial(int, base=2)"
    )

    assert singlecore("borrowed.py:root", "--jsonl", "-", text="4").stdout == "2.0\n"
    assert pools("map", "--backend", "multicore", "borrowed.py:p", "101").stdout == "5\n"


def test_what_a_file_imports_may_lie_beside_it(here):
    """As for a script."""
    (here / "sub").mkdir()
    (here / "sub" / "tcli_helper.py").write_text("def double(x): return x + x")
    (here / "sub" / "main.py").write_text("from tcli_helper import double\ndef f(x): return double(x)")

    assert singlecore("sub/main.py:f", "a").stdout == "aa\n"


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("function", ["tasks.py:double", "tasks.py:locked", "tcli_module:double"])
def test_functions_work_in_worker_processes(here, start_method, function):
    """Under every start method, also when the file has what cannot be pickled."""
    (here / "c.ini").write_text(f"[multicore]\nstart_method = {start_method}\nn_jobs = 2\n")

    done = pools("map", "--backend", "multicore", "--config", "c.ini", function, "a", "b")

    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == ("aa\nbb\n" if "double" in function else "a\nb\n")


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_classes_of_a_file_come_back(here, start_method):
    """A worker's results may be of types that the file defines, and its errors too."""
    (here / "c.ini").write_text(f"[multicore]\nstart_method = {start_method}\n")

    done = pools("map", "--backend", "multicore", "--config", "c.ini", "tasks.py:point", "a")

    assert (done.stderr, done.stdout) == ("", "Point(x='a')\n")


def test_a_job_in_other_processes(here):
    """Multicore is what runs when nothing is said."""
    done = pools("map", "-j", "2", "tasks.py:process", "1", "2", "3", "--timeout", "30", "--retries", "1")

    assert len(done.stdout.split()) == 3
    assert done.stderr == ""


# ── failures ──


@pytest.mark.parametrize("backend", ["singlecore", "threads", "multicore"])
def test_a_failure_stops_the_job(here, backend):
    """After the results that precede it; its traceback is the user's code, and it says which task."""
    done = pools("map", "--backend", backend, "tasks.py:fail_on_b", "a", "b", "--chunksize", "1")

    assert (done.returncode, done.stdout) == (1, "a\n")
    assert "ValueError: bad b\n" in done.stderr
    assert "raised by task 1 with 'b'" in done.stderr
    assert "tasks.py" in done.stderr
    assert "pools_core" not in done.stderr


def test_failures_may_be_reported_among_the_results(here):
    """As objects in JSON, on stderr in text; the status tells that there were some."""
    arguments = ("tasks.py:fail_on_b", "a", "b", "c", "--on-error", "return")

    done = singlecore(*arguments)
    assert (done.returncode, done.stdout) == (1, "a\nc\n")
    assert only_line(done.stderr) == "pools: task 1: ValueError: bad b"

    done = singlecore(*arguments, "--output", "jsonl")
    assert done.returncode == 1
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        "a",
        {"error": "bad b", "type": "ValueError", "index": 1},
        "c",
    ]


def test_a_task_that_ends_the_process_fails_alone(here):
    """Its worker's death is reported, and is the task's failure."""
    done = pools("map", "--backend", "multicore", "tasks.py:die", "a")

    assert done.returncode == 1
    assert "exit code 3" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("function", "name"), [("exit", "SystemExit"), ("end_of_file", "EOFError")])
def test_what_a_task_raises_is_its_failure_whatever_it_is(here, function, name):
    """Not the command's own exit."""
    done = singlecore(f"tasks.py:{function}", "a")

    assert done.returncode == 1
    assert name in done.stderr


def test_retries_run_a_task_again(here):
    """As often as is said."""
    (here / "count.py").write_text(
        "import pathlib\n"
        "def f(x):\n"
        "    p = pathlib.Path('n'); n = int(p.read_text()) if p.exists() else 0\n"
        "    p.write_text(str(n + 1))\n"
        "    if n < 2: raise ValueError(n)\n"
        "    return n\n"
    )
    assert singlecore("count.py:f", "a", "--retries", "2").stdout == "2\n"


def test_a_result_that_is_not_json(here):
    """One line says which, and what to do."""
    done = singlecore("tasks.py:opaque", "a", "--output", "jsonl")

    assert done.returncode == 1
    assert "result 0 is not JSON" in only_line(done.stderr)


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal there")
@pytest.mark.parametrize("backend", ["singlecore", "threads", "multicore"])
def test_ctrl_c(here, backend):
    """It ends the job with 130 and no traceback, whatever the tasks are doing."""
    command = [*POOLS, "map", "--backend", backend, "tasks.py:for_ever", "a"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr.readline() == "started\n"
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.strip()) == (130, "", "")


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal there")
def test_ctrl_c_while_input_is_awaited(here):
    """A pipe from which nothing comes does not keep the job."""
    command = [*POOLS, "map", "--backend", "threads", "tasks.py:for_ever", "--lines", "-", "--chunksize", "1"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdin.write("a\n")
        process.stdin.flush()
        assert process.stderr.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


# ── bad input ──


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tasks.py:doubel", "a"], "did you mean 'double'"),
        (["tasks.py:number", "a"], "cannot be called"),
        (["nothing.py:f", "a"], "No such file"),
        (["broken.py:f", "a"], "SyntaxError"),
        (["raising.py:f", "a"], "ZeroDivisionError"),
        (["empty.py:f", "a"], "no function at all"),
        (["tcli_nothing:f", "a"], "no module 'tcli_nothing'"),
        (["needy.py:f", "a"], "tcli_nowhere"),
        (["double", "a"], "module:function"),
        (["tasks.py:double"], "no items"),
        (["tasks.py:double", "a", "--lines", "-"], "one kind of source"),
        (["tasks.py:double", "--lines", "no.txt"], "no.txt cannot be read"),
        (["tasks.py:double", "--jsonl", "."], "cannot be read"),
        (["tasks.py:double", "--glob", "*.nothing"], "no file matches"),
        (["tasks.py:double", "a", "--backend", "multicor"], "did you mean 'multicore'"),
        (["tasks.py:double", "a", "--backend", "singlecore", "-j", "2"], "'n_jobs'"),
        (["tasks.py:double", "a", "--backend", "threads", "-j", "0"], "at least 1"),
        (["tasks.py:double", "a", "--backend", "threads", "-j", "two"], "two"),
        (["tasks.py:double", "a", "--backend", "threads", "--timeout", "1"], "'task_timeout'"),
        (["tasks.py:double", "a", "--backend", "threads", "--retries", "-1"], "max_retries"),
        (["tasks.py:double", "a", "--backend", "threads", "--chunksize", "0"], "chunk_size"),
        (["tasks.py:double", "a", "--config", "no.ini"], "no.ini does not exist"),
        (["tasks.py:double", "a", "--config", "bad.ini"], "bad.ini, section [threads], key 'n_jbos'"),
        (["tasks.py:double", "a", "--nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_line(here, arguments, says):
    """And exit status 2; nothing has run."""
    (here / "broken.py").write_text("def f(:\n")
    (here / "raising.py").write_text("1/0\n")
    (here / "needy.py").write_text("import tcli_nowhere\n")
    (here / "empty.py").write_text("")
    (here / "bad.ini").write_text("[pool]\nbackend = threads\n[threads]\nn_jbos = 1\n")

    done = pools("map", *arguments, text="")

    assert (done.returncode, done.stdout) == (2, "")
    assert says in only_line(done.stderr)


def test_a_line_that_is_not_json_is_named_by_its_number(here):
    """After the results of the lines before it."""
    (here / "in.jsonl").write_text("1\n\n2\n{\n3\n")

    done = singlecore("tasks.py:double", "--jsonl", "in.jsonl")

    assert (done.returncode, done.stdout) == (2, "2\n4\n")
    assert only_line(done.stderr).startswith("pools: in.jsonl, line 4 is not JSON")


# ── backends ──


def test_backends_are_listed(here):
    """Name, distribution, version, and whether each is usable."""
    done = pools("backends")

    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["threads", "pools-core", "0.1.0", "yes"] in rows
    assert done.returncode == 0
    found = [json.loads(line) for line in pools("backends", "--json").stdout.splitlines()]
    assert {"singlecore", "threads", "multicore"} <= {info["name"] for info in found}


def test_a_broken_backend_is_listed_with_the_reason(here, install):
    """The others are not affected."""
    folder = install("d-bad", {"tb_bad": "tb_bad"}, {"tb_bad": "1/0"})

    done = pools("backends", env={**os.environ, "PYTHONPATH": str(folder)})

    assert "ZeroDivisionError" in next(line for line in done.stdout.splitlines() if "tb_bad" in line)
    assert done.returncode == 0


def test_a_backend_has_a_command_of_its_own(here, install):
    """It gets all that follows, as it stands; its status is the command's."""
    code = "def MakePool(): ...\ndef RunMain(argv):\n    print(argv)\n    return 7\n"
    folder = install("d-cmd", {"tb_cmd": "tb_cmd"}, {"tb_cmd": code})

    done = pools("tb_cmd", "--help", "-x", "--", "y", env={**os.environ, "PYTHONPATH": str(folder)})

    assert (done.returncode, done.stdout) == (7, "['--help', '-x', '--', 'y']\n")


def test_an_unknown_command_is_one_line(here):
    """With the nearest that there is."""
    done = pools("multicor", "info")

    assert done.returncode == 2
    assert "did you mean 'multicore'" in only_line(done.stderr)


def test_multicore_info():
    """CPUs seen, usable, quota, start methods."""
    done = pools("multicore", "info", "--json")

    found = json.loads(done.stdout)
    assert 1 <= found["cpus usable"] <= found["cpus seen"]
    assert "spawn" in found["start methods"]
    assert "quota" in found
    assert "cpus usable" in pools("multicore", "info").stdout


@pytest.mark.parametrize("backend", ["singlecore", "threads"])
def test_other_backends_have_info_too(backend):
    """And help; nonsense is refused."""
    assert pools(backend, "info").returncode == 0
    assert "info" in pools(backend, "--help").stdout
    assert pools(backend, "nonsense").returncode == 2


def test_a_plugin_adds_a_command(here, install):
    """By the hook pools_cli."""
    code = (
        "import click\nfrom pools_core.hookspecs import hookimpl\n"
        "@hookimpl\ndef pools_cli(cli):\n    @cli.command()\n    def greet(): click.echo('hello')\n"
    )
    folder = install("d-plug", {"tp_plug": "tp_plug"}, {"tp_plug": code}, group="pools.plugins")

    assert pools("greet", env={**os.environ, "PYTHONPATH": str(folder)}).stdout == "hello\n"


def test_help_and_version():
    """Help lists the commands and the backends; the version is the distribution's."""
    shown = pools("--help").stdout
    for name in ("map", "backends", "multicore"):
        assert name in shown
    assert pools("--version").stdout == "pools, version 0.1.0\n"


def test_the_installed_command_is_the_same():
    """``pools`` and ``python -m pools_core``."""
    script = Path(sys.executable).with_name("pools")
    if not script.exists():
        pytest.skip("pools-core is not installed in this environment")
    done = subprocess.run(
        [script, "map", "--backend", "singlecore", "builtins:len", "abc"], capture_output=True, check=True
    )
    assert done.stdout == b"3\n"

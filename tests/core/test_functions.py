"""Functions of files: they must mean the same in a process that never saw the file loaded."""

from __future__ import annotations

import pickle
import sys

import pytest

from pools_core.functions import FunctionNotFoundError, find_function
from pools_core.namespaces import Namespaces

SOURCE = """
import threading
{lock}
class Thing:
    pass
def make(x):
    return Thing
def add(x):
    return x + {number}
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A file of tasks; its modules and folders are forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    path = tmp_path / "some_tasks.py"
    path.write_text(SOURCE.format(lock="", number=1))
    yield path
    for name in set(sys.modules) - before:
        if name.startswith("_pools_file_"):
            del sys.modules[name]


def forget() -> None:
    """Make this process one that never saw the file."""
    for name in [name for name in sys.modules if name.startswith("_pools_file_")]:
        del sys.modules[name]


def test_a_file_is_loaded_once(tasks):
    """Two functions of it share its globals and classes."""
    assert find_function(f"{tasks}:make")(0) is find_function(f"{tasks}:make")(0)


def test_another_process_loads_the_same_file(tasks):
    """Under the same name, so that what it returns can be pickled by name."""
    made = find_function(f"{tasks}:make")
    sent = pickle.dumps(made)
    name = made(0).__module__
    forget()

    arrived = pickle.loads(sent)

    assert arrived(0).__module__ == name
    assert name in sys.modules


@pytest.mark.parametrize("change", ["gone", "edited"])
def test_where_the_file_is_not_the_same_the_code_goes_along(tasks, change):
    """On another machine, or after an edit, it is still the function that was named."""
    sent = pickle.dumps(find_function(f"{tasks}:add"))
    forget()
    if change == "gone":
        tasks.unlink()
    else:
        tasks.write_text(SOURCE.format(lock="", number=2))

    assert pickle.loads(sent)(1) == 2


SESSION = """
kept = None
filled = {}
def keep():
    global kept
    kept = filled["by"] = "keep"
def found(_):
    return kept, filled
"""


def test_where_the_file_is_gone_functions_of_a_session_share_its_globals(tasks):
    """What one assigns the other finds, as where the file is."""
    tasks.write_text(SESSION)
    sent = [pickle.dumps(find_function(f"{tasks}:{name}")) for name in ("keep", "found")]
    forget()
    tasks.unlink()

    there = Namespaces()
    keep, found = (there.open(pickle.loads, one) for one in sent)
    there.run(keep)

    assert found(0) == ("keep", {"by": "keep"})


def test_code_that_cannot_go_along_needs_the_file(tasks):
    """The error says so, instead of some other code running."""
    tasks.write_text(SOURCE.format(lock="LOCK = threading.Lock()", number=1).replace("x + 1", "LOCK and x"))
    sent = pickle.dumps(find_function(f"{tasks}:add"))
    assert pickle.loads(sent)(1) == 1
    forget()
    tasks.unlink()

    with pytest.raises(ImportError, match="not the same file"):
        pickle.loads(sent)


def test_an_edited_file_is_another_module(tasks):
    """Not a stale one."""
    assert find_function(f"{tasks}:add")(1) == 2
    tasks.write_text(SOURCE.format(lock="", number=5))
    assert find_function(f"{tasks}:add")(1) == 6


def test_a_file_that_fails_is_not_half_loaded(tasks):
    """The second try says the same as the first."""
    tasks.write_text("def f(x): ...\nraise RuntimeError('no')")
    for _ in range(2):
        with pytest.raises(FunctionNotFoundError, match="RuntimeError: no"):
            find_function(f"{tasks}:f")

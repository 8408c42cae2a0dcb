"""Every error of ours: it travels whole, it is the builtin that says the same thing, and its text helps."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import cloudpickle
import pytest

from pools_core import MakePool, errors
from pools_core.errors import (
    PoolsError,
    RemoteError,
    RemoteTraceback,
    SerializationError,
    TaskTimeoutError,
    UnsupportedOptionError,
    WorkerDiedError,
    unpicklable,
)

BUILTINS = {
    "PoolsError": (Exception,),
    "BackendNotFoundError": (LookupError,),
    "BackendConflictError": (LookupError,),
    "BackendLoadError": (ImportError,),
    "BackendContractError": (TypeError,),
    "ConfigError": (ValueError,),
    "UnsupportedOptionError": (ValueError,),
    "PoolClosedError": (ValueError,),
    "SerializationError": (TypeError,),
    "TaskTimeoutError": (TimeoutError,),
    "PoolTimeoutError": (multiprocessing.TimeoutError, TimeoutError),
    "WorkerDiedError": (RuntimeError,),
    "RemoteError": (RuntimeError,),
    "TransportError": (ConnectionError,),
    "SecurityError": (PermissionError,),
}
"""As section 3 of the design has it."""

SAMPLES = {
    "UnsupportedOptionError": [
        UnsupportedOptionError("cpu_ids", "threads", ["multicore", "gearman"]),
        UnsupportedOptionError("cpu_ids", "threads"),
    ],
    "TaskTimeoutError": [TaskTimeoutError(7, 0.25, "worker 1 on here")],
    "WorkerDiedError": [
        WorkerDiedError(4711, "host1", -9, 3),
        WorkerDiedError(4711, "host1", 1),
        WorkerDiedError(4711, "host1", None, 0),
    ],
    "RemoteError": [RemoteError("mod.Error", "text", "Traceback ..."), RemoteError("mod.Error", "")],
    "RemoteTraceback": [RemoteTraceback("Traceback ...")],
}
"""Those whose ``__init__`` takes more than a text."""


def samples() -> list:
    """Return one error or more of every public class."""
    return [
        pytest.param(error, id=f"{name}-{number}")
        for name in errors.__all__
        for number, error in enumerate(SAMPLES.get(name) or [getattr(errors, name)("what; to what; do")])
    ]


def seen(error: BaseException) -> dict:
    """Return all that a program or a person can see of an error."""
    own = {name: value for name, value in vars(type(error)).items() if isinstance(value, property)}
    return {
        "type": type(error),
        "args": error.args,
        "text": str(error),
        "attributes": vars(error),
        "properties": {name: getattr(error, name) for name in own},
    }


@pytest.mark.parametrize("error", samples())
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling(error, protocol):
    """Class, attributes, text; any protocol."""
    assert seen(pickle.loads(pickle.dumps(error, protocol))) == seen(error)


@pytest.mark.parametrize("error", samples())
def test_every_error_survives_copying_and_cloudpickle(error):
    """Libraries do these as well."""
    for other in (copy.copy(error), copy.deepcopy(error), cloudpickle.loads(cloudpickle.dumps(error))):
        assert seen(other) == seen(error)


@pytest.mark.parametrize("error", samples())
def test_notes_and_attributes_of_others_survive_pickling(error):
    """A note says which task it was; it must not get lost on a second journey."""
    noted = copy.copy(error)
    noted.add_note("raised by task 3")
    noted.extra = [1]

    arrived = pickle.loads(pickle.dumps(noted))

    assert arrived.__notes__ == ["raised by task 3"]
    assert arrived.extra == [1]
    assert seen(arrived) == seen(noted)


def test_attributes_are_what_was_said():
    """For programs: no text has to be parsed."""
    option = UnsupportedOptionError("cpu_ids", "threads", ["multicore"])
    timeout = TaskTimeoutError(7, 0.25, "worker 1")
    died = WorkerDiedError(4711, "host1", -9, 3)
    remote = RemoteError("mod.Error", "text", "tb")

    for error in (option, timeout, died, remote):
        again = pickle.loads(pickle.dumps(error))
        assert vars(again) == vars(error)
    assert (option.option, option.backend, option.able) == ("cpu_ids", "threads", ("multicore",))
    assert (timeout.index, timeout.timeout, timeout.worker) == (7, 0.25, "worker 1")
    assert (died.pid, died.host, died.exitcode, died.index) == (4711, "host1", -9, 3)
    assert (remote.type_name, remote.text, remote.traceback) == ("mod.Error", "text", "tb")


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"RemoteTraceback"}))
def test_every_error_is_the_builtin_that_says_the_same(name):
    """``except ValueError`` goes on working, and ``except PoolsError`` takes all."""
    kind = getattr(errors, name)

    assert issubclass(kind, (PoolsError,))
    for builtin in BUILTINS[name]:
        assert issubclass(kind, builtin)


def test_the_table_is_complete():
    """A new error needs a line in the design, and here."""
    assert set(BUILTINS) == set(errors.__all__) - {"RemoteTraceback"}
    assert set(SAMPLES) <= set(errors.__all__)
    for name in BUILTINS:
        assert f"── {name} " in errors.__doc__ or name == "PoolsError"


def test_a_traceback_is_no_error_of_the_pool():
    """It is only ever a cause; nobody should catch a task's failure by it."""
    assert not issubclass(RemoteTraceback, PoolsError)
    assert str(RemoteTraceback("line 1\nline 2")) == "\n\nline 1\nline 2"


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exitcode", "how"),
    [
        (-11, "killed by SIGSEGV"),
        (-9, "killed by SIGKILL (SIGKILL is also how a system out of memory ends a process)"),
        (-123, "killed by signal 123"),
        (7, "exit code 7"),
        (0, "exit code 0"),
        (9, "exit code 9"),
        (None, "exit code unknown"),
    ],
)
def test_a_death_says_who_and_how(exitcode, how):
    """Facts, and no guess at the reason; that the others are safe; and which task it was, the first too."""
    for task in (0, 3):
        assert str(WorkerDiedError(4711, "host1", exitcode, task)) == (
            f"worker process 4711 on host1 died while running task {task}: {how}; "
            "other tasks are not affected"
        )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            WorkerDiedError(4711, "host1", 1),
            [
                "process 4711 on host1 died before it could take a task (exit code 1)",
                "its stderr may say",
            ],
        ),
        (
            WorkerDiedError(4711, "host1", -11),
            ["4711 on host1 died before it could take a task (killed by SIGSEGV)", "its stderr may say"],
        ),
        (
            TaskTimeoutError(7, 0.25, "worker 4711 on host1"),
            [
                "task 7 ",
                "task_timeout of 0.25 s",
                "in worker 4711 on host1",
                "raise the limit or split the task",
            ],
        ),
        (
            UnsupportedOptionError("cpu_ids", "threads", ["multicore", "gearman"]),
            ["the threads backend", "'cpu_ids'", "leave it out, or choose", "multicore, gearman"],
        ),
        (
            UnsupportedOptionError("cpu_ids", "threads"),
            ["the threads backend", "'cpu_ids'", "leave it out; no installed backend can"],
        ),
    ],
)
def test_texts_say_what_to_what_and_what_to_do(error, said):
    """In this order, on one line."""
    places = [str(error).find(part) for part in said]

    assert -1 not in places
    assert places == sorted(places)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("text", "shown"), [("text", "mod.Error: text"), ("", "mod.Error")])
def test_a_remote_error_reads_like_the_one_that_it_stands_for(text, shown):
    """As the last line of its traceback does."""
    assert str(RemoteError("mod.Error", text, "tb")) == shown


@pytest.mark.parametrize(
    ("exitcode", "name"),
    [(-9, "SIGKILL"), (-15, "SIGTERM"), (-123, "signal 123"), (0, None), (9, None), (None, None)],
)
def test_signal_name(exitcode, name):
    """An exit code that happens to be 9 is no signal."""
    assert WorkerDiedError(1, "here", exitcode, 0).signal_name == name


def test_a_closed_pool_says_what_to_do():
    """As the pool itself words it."""
    pool = MakePool("singlecore")
    pool.stop_and_join()
    with pytest.raises(ValueError, match="the pool is closed; make another one"):
        pool.map(abs, [1])


# --- an error that is also the user's own ---------------------------------------------------------


class Own(Exception):
    """Needs two arguments, so it cannot be made from a text."""

    def __init__(self, one, two):
        super().__init__(one)
        self.two = two

    def __str__(self):
        return f"{self.two}!"


@pytest.mark.parametrize(
    "cause",
    [ValueError("v"), KeyError("k"), Own(1, 2), RuntimeError()],
    ids=lambda cause: type(cause).__name__,
)
def test_unpicklable_is_both(cause):
    """Whoever catches either, catches it; it travels as the plain one, with its text."""
    error = unpicklable("argument 3 cannot be pickled", cause)

    assert isinstance(error, SerializationError)
    assert isinstance(error, type(cause))
    assert error.__cause__ is cause
    assert str(error) == "argument 3 cannot be pickled"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is SerializationError
    assert str(again) == "argument 3 cannot be pickled"


@pytest.mark.parametrize(
    "cause",
    [
        TypeError("t"),
        SerializationError("s"),
        SystemExit(1),
        OSError(2, "x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        StopIteration(5),
        SyntaxError("bad", ("file", 1, 1, "text")),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_unpicklable_of_anything_is_at_least_the_plain_error(cause):
    """Whatever layout the other class has in C, and whatever it is."""
    error = unpicklable("argument 3 cannot be pickled", cause)

    assert isinstance(error, SerializationError)
    assert isinstance(error, SystemExit) is False
    assert error.__cause__ is cause
    assert str(error) == "argument 3 cannot be pickled"
    assert str(pickle.loads(pickle.dumps(error))) == "argument 3 cannot be pickled"

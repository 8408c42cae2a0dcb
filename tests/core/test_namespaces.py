"""Globals of functions that came with their code: whose they are, and what a later one may replace."""

from __future__ import annotations

import functools
import pickle
import sys
import threading
import types

import pytest

from pools_core import namespaces
from pools_core.by_value import dumps
from pools_core.namespaces import Namespaces
from pools_core.payload import PROTOCOL

SOURCE = """
model = None
scale = 2
cache = {}

def helper():
    return scale

def init():
    global model
    model = object()
    cache["filled"] = True

def state():
    return model, scale, dict(cache), helper()

def factorial(n):
    return 1 if n == 0 else n * factorial(n - 1)

def closure(offset):
    def inner(number):
        return offset + number + scale
    return inner

class Thing:
    def state(self):
        return model

def thing():
    return Thing().state()
"""


@pytest.fixture
def caller():
    """A module that only the caller has."""
    module = types.ModuleType("only_the_callers")
    exec(SOURCE, vars(module))
    return module


def packed(module, *names):
    """Return functions of a module, each in a pickle of its own, as they are now."""
    import cloudpickle

    sys.modules[module.__name__] = module
    cloudpickle.register_pickle_by_value(module)
    try:
        return [dumps(vars(module)[name], PROTOCOL) for name in names]
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules[module.__name__]


def opened(there, *pickles):
    """Open them in a worker."""
    return [there.open(pickle.loads, one) for one in pickles]


def test_functions_of_a_session_share_what_one_assigns(caller):
    """Those that are opened before, and those that come later with what was there at the caller's."""
    there = Namespaces()
    init, state, later = packed(caller, "init", "state", "state")
    init, state = opened(there, init, state)
    assert state() == (None, 2, {}, 2)

    there.run(init)

    (later,) = opened(there, later)
    assert state()[0] is later()[0] is not None
    assert later()[1:] == (2, {"filled": True}, 2)


def test_other_sessions_have_their_own(caller):
    """And functions of no session, too."""
    pickles = packed(caller, "init", "state")
    there, elsewhere = Namespaces(), Namespaces()
    init, state = opened(there, *pickles)
    there.run(init)

    assert pickle.loads(pickles[1])()[0] is None
    assert opened(elsewhere, *pickles)[1]()[0] is None
    assert pickle.loads(pickles[1]).__globals__ is not elsewhere.of(caller.__name__, {})
    assert state()[0] is not None


def test_what_the_caller_changed_follows_unless_it_may_have_been_filled(caller):
    """A helper that was written anew, a number; not what a worker has assigned, nor a dict."""
    there = Namespaces()
    init, state = opened(there, *packed(caller, "init", "state"))
    there.run(init)
    model = state()[0]
    exec("def helper(): return 'new'\nscale, cache, model = 3, {'new': True}, 'new'", vars(caller))

    opened(there, *packed(caller, "state"))

    assert state() == (model, 3, {"filled": True}, "new")


def test_functions_of_one_pickle_have_the_same_globals_without_a_session(caller):
    """As with cloudpickle itself: also a function that refers to itself, or closes over something."""
    state, factorial = packed(caller, "state", "factorial")
    state = pickle.loads(state)
    assert state.__globals__["helper"].__globals__ is state.__globals__
    assert pickle.loads(factorial)(5) == 120
    vars(caller)["inner"] = caller.closure(10)
    there = Namespaces()
    (inner,) = opened(there, *packed(caller, "inner"))
    assert inner(1) == 13
    assert inner.__globals__ is opened(there, *packed(caller, "state"))[0].__globals__


def test_methods_keep_to_themselves(caller):
    """A class comes once for all sessions, and is not to show one what another has."""
    there = Namespaces()
    init, thing = opened(there, *packed(caller, "init", "thing"))
    there.run(init)
    assert thing() is None


def test_what_a_module_of_this_process_assigns_is_seen_by_both(caller, monkeypatch):
    """Whichever kind of function does it, also if it assigns what is there from another session."""
    monkeypatch.setattr(namespaces, "_first", {})
    pickles = packed(caller, "init", "state")
    monkeypatch.setitem(sys.modules, caller.__name__, caller)
    by_name = {name: pickle.dumps(vars(caller)[name]) for name in ("init", "state")}
    marked = object()
    exec("def mark():\n    global model\n    model = marked", vars(caller))
    vars(caller)["marked"] = marked

    for _ in range(2):  # the second time it is there before
        there = Namespaces()
        (mark,) = opened(there, pickle.dumps(caller.mark))
        there.run(mark)
        (state,) = opened(there, pickles[1])
        assert state()[0] is marked
    vars(caller)["model"] = None

    there = Namespaces()
    init, known = opened(there, pickles[0], by_name["state"])
    there.run(init)
    assert known is caller.state
    assert known()[0] is caller.model is not None
    vars(caller)["model"] = None
    assert opened(there, by_name["state"])[0]()[0] is not None


def test_a_function_with_some_of_its_arguments_assigns_as_well(caller):
    """As ``functools.partial`` makes it, the usual way to give ``worker_init`` an argument."""
    pickles = packed(caller, "state")
    exec("def keep(value):\n    global model\n    model = value", vars(caller))
    there = Namespaces()
    there.run(functools.partial(functools.partial(caller.keep), "kept"))
    assert opened(there, *pickles)[0]()[0] == "kept"


def test_what_is_no_plain_function_is_called_as_well():
    """It has no globals to look at."""
    there, found = Namespaces(), []
    there.run(functools.partial(found.append, 1))
    assert found == [1]


def test_a_thread_that_opens_something_meanwhile_is_not_concerned(caller):
    """It has nothing to do with that session."""
    there = Namespaces()
    (state,) = packed(caller, "state")
    others = []

    def load(data):
        others.append(_open_in_a_thread(state))
        return pickle.loads(data)

    function = there.open(load, state)
    assert others[0].__globals__ is not function.__globals__


def _open_in_a_thread(data):
    found = []
    thread = threading.Thread(target=lambda: found.append(pickle.loads(data)))
    thread.start()
    thread.join()
    return found[0]

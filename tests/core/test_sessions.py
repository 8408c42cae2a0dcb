"""Sessions at both ends: what a worker sets up and takes down, and which session a call belongs to."""

from __future__ import annotations

import gc
import os
import pickle
from functools import partial
from time import monotonic_ns

import pytest

from pools_core import MakePool, SerializationError
from pools_core.calls import OF_CALL, OF_INIT, Call, Chunk, Convention, Refused, Session
from pools_core.failures import rebuild_exit, rebuild_setup
from pools_core.packed_functions import is_by_value, pack_function, unpack_function
from pools_core.payload import unpack, unpack_batch
from pools_core.setup import BOARD_SLOTS, CHUNK, INIT, OFFSET, STARTED, SetupError, Setups, running
from pools_core.shared import SharedObject, inheritable, inherited
from pools_core.sinks import ListSink
from pools_core.testing import tasks, worker_tasks
from pools_core.testing.tasks import Misbehaved
from pools_core.testing.waiting import Background, deadline
from pools_core.testing.worker_tasks import begun, ended, life_of


@pytest.fixture(autouse=True)
def _ends_by_a_deadline():
    with deadline(30):
        yield


@pytest.fixture
def log(tmp_path):
    return str(tmp_path / "log")


class Worker:
    """Setups of worker 3, its board, and what it has said."""

    def __init__(self, packs=False):
        self.board = [0] * BOARD_SLOTS
        self.said = []
        self.setups = Setups(3, "worker 3 on here", self.board, packs, self.said.append)

    def enter(self, session):
        """Return what the session gives to the function of a chunk."""
        return self.setups.enter(Chunk(5, Call(1, abs, session=session), 0, 1, [1]))


@pytest.fixture
def worker():
    return Worker()


# --- Setups ---------------------------------------------------------------------------------------


def test_a_call_without_a_session_gets_nothing(worker):
    """And nothing is kept of it."""
    assert worker.setups.enter(Chunk(5, Call(1, abs), 0, 1, [1])) == ()
    worker.setups.end_all()
    assert worker.said == []


def test_init_runs_once_and_exit_once(worker):
    """With what the session gives, the same objects each time."""
    calls = []
    shared = SharedObject(["shared"])
    session = Session(
        1,
        lambda *extras: calls.append(("init", extras)),
        lambda *extras: calls.append(("exit", extras)) or "value",
        gives_id=True,
        gives_state=True,
        shared=shared,
    )
    first, second = worker.enter(session), worker.enter(session)

    assert first == (3, ["shared"], {})
    assert all(one is other for one, other in zip(first, second, strict=True))
    assert first[1] is shared.value()
    worker.setups.end(1)
    worker.setups.end(1)
    assert calls == [("init", first), ("exit", first)]
    assert [(one.session, one.worker, list(one.values), one.failure) for one in worker.said] == [
        (1, 3, ["value"], None),
        (1, 3, [], None),
    ]


def test_sessions_do_not_meet(worker):
    """Each has a state of its own; one that is entered again after its end begins anew."""
    (one,), (other,) = worker.enter(Session(1, gives_state=True)), worker.enter(Session(2, gives_state=True))
    one["key"] = 1
    assert other == {}
    worker.setups.end(1)
    assert worker.enter(Session(1, gives_state=True)) == ({},)
    assert worker.enter(Session(2, gives_state=True))[0] is other


def test_a_session_can_be_forgotten(worker):
    """Its exit function does not run, and nothing is said."""
    worker.enter(Session(1, exit=partial(tasks.raise_it, Misbehaved())))
    worker.setups.end(1, leave=False)
    worker.setups.end_all()
    assert worker.said == []


def test_a_worker_that_retires_says_what_it_has_to_say(worker):
    """Of sessions with an exit function, and no others: of those nobody wants to hear."""
    worker.enter(Session(1, exit=lambda: "one"))
    worker.enter(Session(2, gives_state=True))
    worker.enter(Session(3, exit=lambda: "three"))
    worker.setups.end_all()
    worker.setups.end_all()
    assert [(one.session, list(one.values)) for one in worker.said] == [(1, ["one"]), (3, ["three"])]


@pytest.mark.parametrize("error", [Misbehaved("on purpose"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_an_init_that_raises_leaves_nothing_set_up(worker, error):
    """The next chunk tries again; exit has nothing to do."""
    session = Session(1, partial(tasks.raise_it, error), lambda: "never")
    for _ in range(2):
        with pytest.raises(SetupError) as caught:
            worker.enter(session)
        seen = rebuild_setup(caught.value.failure, "worker_init")
        assert seen is error
        assert error.__notes__ == ["raised by worker_init in worker 3 on here"]
    worker.setups.end(1)
    assert [list(one.values) for one in worker.said] == [[]]


def test_an_exit_that_raises_is_told(worker):
    """As a task's failure is."""
    worker.enter(Session(1, exit=partial(tasks.raise_it, Misbehaved("on purpose"))))
    worker.setups.end(1)
    (said,) = worker.said
    assert list(said.values) == []
    assert isinstance(rebuild_exit(said.failure), Misbehaved)


@pytest.mark.parametrize(
    "value", [5, "text", [1, 2], b"x" * 100_000, {"a": {1}}], ids=lambda v: type(v).__name__
)
def test_what_exit_returns_is_packed_where_it_must_travel(value):
    """Whatever it is."""
    worker = Worker(packs=True)
    worker.enter(Session(1, exit=pack_function(lambda: value)))
    worker.setups.end(1)
    (said,) = worker.said
    opened, sealed = unpack_batch(said.values)
    assert [unpack(one) if sealed else one for one in opened] == [value]


def test_what_exit_returns_cannot_be_packed():
    """It fails as if exit had raised."""
    worker = Worker(packs=True)
    worker.enter(Session(1, exit=tasks.return_lock))
    worker.setups.end(1)
    (said,) = worker.said
    assert isinstance(rebuild_exit(said.failure), SerializationError)
    assert len(unpack_batch(said.values)[0]) == 0


def test_the_board_says_what_runs_and_since_when(worker):
    """So that it can be stopped by the clock, and a death laid at its door."""
    seen = []

    def look():
        seen.append((running(worker.board), worker.board[STARTED]))

    before = monotonic_ns()
    worker.board[CHUNK] = 5
    worker.enter(Session(9, look, look))
    between = monotonic_ns()
    worker.board[CHUNK] = 0
    worker.setups.end(9)

    (in_init, init_since), (in_exit, exit_since) = seen
    assert (in_init.chunk, in_init.offset) == (5, INIT)
    assert in_exit.chunk == -9
    assert before <= init_since <= between <= exit_since
    assert running(worker.board) is None


@pytest.mark.parametrize("fails", [False, True])
def test_time_in_init_is_not_the_first_tasks(worker, fails):
    """When the board says that task 0 runs, its time has just begun: init may take as long as it likes."""
    ends = []

    def init():
        ends.append(monotonic_ns())
        if fails:
            raise Misbehaved

    try:
        worker.enter(Session(1, init))
    except SetupError:
        assert fails
    assert worker.board[OFFSET] == 0
    assert worker.board[STARTED] >= ends[0]


def test_the_time_that_init_takes_is_told_once(worker, monkeypatch):
    """For insights."""
    now = iter([10.0, 12.5])
    monkeypatch.setattr("pools_core.setup.monotonic", lambda: next(now))
    worker.enter(Session(1, lambda: None))
    assert worker.setups.taken() == 2.5
    assert worker.setups.taken() == 0.0


# --- SharedObject ---------------------------------------------------------------------------------


class Counted:
    """Counts how often it is pickled and unpickled."""

    pickled = 0
    unpickled = 0

    def __reduce__(self):
        Counted.pickled += 1
        return Counted._again, ()

    @staticmethod
    def _again():
        Counted.unpickled += 1
        return Counted()


def test_a_shared_object_is_packed_once_and_opened_once():
    """However many workers there are, and calls in each."""
    Counted.pickled = Counted.unpickled = 0
    value = Counted()
    shared = SharedObject(value)
    assert shared.value() is value
    assert shared.packed() is shared.packed()
    assert (Counted.pickled, Counted.unpickled) == (1, 0)

    received = SharedObject.received(shared.packed())
    assert Counted.unpickled == 0
    assert received.value() is received.value()
    assert Counted.unpickled == 1


def test_a_shared_object_that_cannot_be_packed_says_what_it_is():
    """The user has to find it."""
    with pytest.raises(SerializationError, match=r"the shared object \(.*lock\)"):
        SharedObject(tasks.return_lock()).packed()


def test_forked_processes_inherit_shared_objects():
    """Those that are alive at the time, by their numbers."""
    shared = SharedObject([1])
    assert shared.id in inheritable()
    assert inherited(shared.id) is shared

    number = shared.id
    del shared
    gc.collect()
    assert number not in inheritable()
    with pytest.raises(KeyError):
        inherited(number)


# --- which session a call belongs to --------------------------------------------------------------


def session_ids(pool, *calls):
    """Return the ids of the sessions that calls with these options belong to, and whether they own them."""
    found = []
    before = pool._pump.book.new

    def new(func, convention, settings, session=None):
        found.append(session)
        return before(func, convention, settings, session)

    pool._pump.book.new = new
    for options in calls:
        pool.map(worker_tasks.give_extras, [1], **options)
    del pool._pump.book.new
    return [None if session is None else session.id for session in found]


def test_calls_that_need_none_have_no_session():
    """They are the most, and pay nothing."""
    with MakePool("threads", n_jobs=1) as pool:
        assert session_ids(pool, {}, {"worker_init_timeout": None}) == [None, None]


def test_calls_that_only_get_something_share_a_session():
    """Nothing has to be set up or taken down."""
    with MakePool("threads", n_jobs=1, pass_worker_id=True, shared_objects="x") as pool:
        first, second = session_ids(pool, {}, {})
        assert first == second
        pool.configure(shared_objects="y")
        third, fourth = session_ids(pool, {}, {})
        assert third == fourth != first


def test_calls_with_state_or_functions_have_their_own():
    """Unless they are kept alive, where only another function makes another session."""
    one, other = {"worker_exit": partial(tasks.echo, 1)}, {"worker_exit": partial(tasks.echo, 2)}
    calls = [{}, {}, one, one, {}, other]
    with MakePool("threads", n_jobs=1, use_worker_state=True) as pool:
        assert len(set(session_ids(pool, *calls))) == len(calls)
    with MakePool("threads", n_jobs=1, keep_alive=True, use_worker_state=True) as pool:
        ids = session_ids(pool, *calls)
        assert ids[0] == ids[1] != ids[2] == ids[3] == ids[4] != ids[5]


@pytest.mark.parametrize("same", [True, False], ids=["the same functions", "others"])
def test_a_session_that_is_replaced_before_its_call_starts_is_taken_down_all_the_same(log, same):
    """Another thread's call comes between, just when this one has its session and has not started."""
    with MakePool("threads", n_jobs=2, keep_alive=True, use_worker_state=True) as pool:
        life = life_of(log)
        other = life if same else life_of(f"{log}.other")
        before = pool._pump.book.new

        def new(*args):
            del pool._pump.book.new
            Background(pool.map, worker_tasks.count, range(4), 1, **other).result()
            return before(*args)

        pool._pump.book.new = new
        assert [item for _, _, item in pool.map(worker_tasks.count, range(4), 1, **life)] == [0, 1, 2, 3]
    for path in (log, f"{log}.other"):
        assert sorted(begun(path)) == sorted(ended(path))
    assert begun(log)


def test_two_threads_that_keep_the_same_share_a_session(log):
    """Whoever is quicker; what the other has made is not used."""
    with MakePool("threads", n_jobs=2, keep_alive=True, use_worker_state=True) as pool:
        life = life_of(log)
        before = pool._pump.sessions._new

        def new(*args, **kwds):
            pool._pump.sessions._new = before
            Background(pool.map, worker_tasks.count, [1], **life).result()
            return before(*args, **kwds)

        pool._pump.sessions._new = new
        pool.map(worker_tasks.count, range(4), 1, **life)
        assert len(pool._pump.sessions._records) == 1
    assert sorted(begun(log)) == sorted(ended(log))


def test_nothing_is_kept_of_sessions_that_are_over():
    """Whether they ended well or not; a pool may live for days."""
    with MakePool("threads", n_jobs=2) as pool:
        leave = partial(tasks.identity, 1)
        for function, argument in [(abs, -1), (tasks.raise_it, Misbehaved())]:
            for method in (pool.apply, lambda *args, **kwds: pool.apply_async(*args, **kwds).get(20)):
                try:
                    method(function, (argument,), worker_exit=leave)
                except Misbehaved:
                    assert function is tasks.raise_it
            try:
                pool.map(function, [argument], worker_exit=leave)
            except Misbehaved:
                assert function is tasks.raise_it
        assert pool._pump.sessions._records == {}
        assert pool._pump.engine._sessions == {}


def test_a_threads_exit_functions_run_although_it_has_gone(log):
    """On a backend that works in the caller's own thread nobody waits for it any more."""
    with MakePool("singlecore", keep_alive=True, use_worker_state=True) as pool:
        first = life_of(f"{log}1")
        Background(pool.map, worker_tasks.count, range(3), **first).result()
        Background(pool.map, worker_tasks.count, range(3), **life_of(f"{log}2")).result()
    for path in (f"{log}1", f"{log}2"):
        assert begun(path) == ended(path) != []


def test_sessions_and_their_messages_can_be_shown():
    """In a debugger, or a failed test."""
    assert "Session(id=1" in repr(Session(1))
    assert pickle.loads(pickle.dumps(Session(1, gives_id=True))) == Session(1, gives_id=True)


def test_a_kept_session_lasts_as_long_as_a_call_that_began_with_it(monkeypatch):
    """Also when its functions have gone by value since: chunks of it may still be out."""
    with MakePool("multicore", n_jobs=1, keep_alive=True) as pool:
        sessions, ended = pool._pump.sessions, []
        monkeypatch.setattr(pool._pump.engine, "end", lambda session, leave: ended.append(session.id))
        settings = pool._settings({"worker_init": os.getpid}, None)
        flow = pool._map_flow(abs, [1], Convention.ONE, ListSink(), settings)
        old = flow.call.session

        new = sessions.by_value(flow, Refused(1).unknown)
        with pool._pump.lock:
            sessions.sweep()
        assert ended == []

        flow.release()
        with pool._pump.lock:
            sessions.sweep()
        assert ended == [old.id] != [new.id]
        monkeypatch.undo()


def test_a_call_that_found_a_session_brings_its_functions_too():
    """Though it was another call that gave them."""
    with MakePool("multicore", n_jobs=1, keep_alive=True) as pool:
        options = {"worker_init": os.getpid, "worker_exit": os.getppid}
        first = pool._map_flow(abs, [1], Convention.ONE, ListSink(), pool._settings(options, None))
        later = pool._map_flow(abs, [1], Convention.ONE, ListSink(), pool._settings({}, None))
        assert later.call.session is first.call.session

        new = pool._pump.sessions.by_value(later, OF_INIT)

        assert (is_by_value(new.init), is_by_value(new.exit)) == (True, False)
        assert unpack_function(new.init)() == os.getpid()


def test_what_is_set_up_stays_if_none_of_its_functions_can_be_unknown():
    """Also where an engine does not say which one was: there are none, or they have come with their code."""
    with MakePool("multicore", n_jobs=1, keep_alive=True, use_worker_state=True) as pool:
        flow = pool._map_flow(abs, [1], Convention.ONE, ListSink(), pool._settings({}, None))
        assert pool._pump.sessions.by_value(flow, Refused(1).unknown) is flow.call.session


def test_a_call_that_was_refused_in_two_chunks_is_replaced_once():
    """The second refusal is of what has been replaced."""
    with MakePool("multicore", n_jobs=1) as pool:
        book = pool._pump.book
        flow = pool._map_flow(abs, [1], Convention.ONE, ListSink(), pool._settings({}, None))
        refused = flow.call

        book.ship_by_value(flow, refused, OF_CALL)
        new = flow.call
        book.ship_by_value(flow, refused, OF_CALL)

        assert flow.call is new is not refused
        assert flow.replaced == (refused,)
        assert is_by_value(new.function)

"""What plugins hear of a pool's life: every step of it, never each task, and at nobody's expense."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import pytest

from pools_core import ConfigError, MakePool, WorkerDiedError
from pools_core.hookspecs import LifeCycle, hookimpl
from pools_core.registry import hooks, register, unregister
from pools_core.testing import tasks
from pools_core.testing.tasks import Misbehaved

BACKENDS = ["threads", "multicore"]

EVENTS = sorted(name for name in vars(LifeCycle) if name.startswith("pools_") and name != "pools_cli")


pytestmark = pytest.mark.usefixtures("lifeline")


class Listener:
    """Notes all that it hears, in order: the event without its prefix, and its arguments."""

    def __init__(self):
        self.heard = []

    def of(self, event):
        """Return the arguments of each event of one kind."""
        return [told for name, told in self.heard if name == event]

    @property
    def events(self):
        """The kinds alone."""
        return [name for name, _ in self.heard]

    @hookimpl
    def pools_pool_opened(self, pool_id, backend, size):
        self.heard.append(("pool_opened", {"pool_id": pool_id, "backend": backend, "size": size}))

    @hookimpl
    def pools_call_started(self, pool_id, call_id, tasks):
        self.heard.append(("call_started", {"pool_id": pool_id, "call_id": call_id, "tasks": tasks}))

    @hookimpl
    def pools_chunk_done(self, pool_id, call_id, tasks, failures, seconds):
        told = {"pool_id": pool_id, "call_id": call_id, "tasks": tasks, "failures": failures}
        self.heard.append(("chunk_done", {**told, "seconds": seconds}))

    @hookimpl
    def pools_worker_started(self, pool_id, worker):
        self.heard.append(("worker_started", {"pool_id": pool_id, "worker": worker}))

    @hookimpl
    def pools_worker_died(self, pool_id, worker, exitcode):
        self.heard.append(("worker_died", {"pool_id": pool_id, "worker": worker, "exitcode": exitcode}))

    @hookimpl
    def pools_call_finished(self, pool_id, call_id, error):
        self.heard.append(("call_finished", {"pool_id": pool_id, "call_id": call_id, "error": error}))

    @hookimpl
    def pools_pool_closed(self, pool_id):
        self.heard.append(("pool_closed", {"pool_id": pool_id}))


def broken(kind):
    """Return a plugin of which every hook raises."""
    told = []

    def fail(event):
        def hook(self):
            told.append(event)
            raise kind(event)

        return hookimpl(hook)

    return type("Broken", (), {"told": told, **{event: fail(event) for event in EVENTS}})()


@pytest.fixture
def registered():
    """Return a function that registers a plugin until the end of the test."""
    added = []

    def add(plugin, name=None):
        register(plugin, name)
        added.append(plugin)
        return plugin

    yield add
    for plugin in added:
        unregister(plugin)


@pytest.fixture
def listener(registered):
    return registered(Listener())


def kill_self(_):
    """End this worker as the system does when it is out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


# --- what is heard --------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_whole_life_is_heard(listener, backend):
    """From the opening to the end, each in its place, all with the same pool."""
    with MakePool(backend, n_jobs=2) as pool:
        assert pool.map(tasks.square, range(100), chunksize=10) == [number**2 for number in range(100)]
    events = listener.events

    assert listener.heard[0][1] == {**listener.heard[0][1], "backend": backend, "size": 2}
    assert (events[0], events[1]) == ("pool_opened", "call_started")
    assert (events[-2], events[-1]) == ("call_finished", "pool_closed")
    for event, times in {"pool_opened": 1, "call_started": 1, "call_finished": 1, "pool_closed": 1}.items():
        assert events.count(event) == times
    assert len({told["pool_id"] for _, told in listener.heard}) == 1
    assert listener.of("call_started")[0]["tasks"] == 100
    assert listener.of("call_finished")[0]["error"] is None
    assert "worker_died" not in events


@pytest.mark.parametrize("backend", BACKENDS)
def test_chunks_add_up_to_the_call(listener, backend):
    """Tasks and failures, each counted once, with the time that they took."""
    with MakePool(backend, n_jobs=2) as pool:
        pool.map(tasks.raise_on_odd, range(50), chunksize=7, on_error="return")
    done = listener.of("chunk_done")

    assert sum(told["tasks"] for told in done) == 50
    assert sum(told["failures"] for told in done) == 25
    assert all(told["seconds"] >= 0 for told in done)
    assert {told["call_id"] for told in done} == {listener.of("call_started")[0]["call_id"]}
    assert listener.of("call_finished")[0]["error"] is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_workers_are_heard_before_what_they_do(listener, backend):
    """Each by a name of its own, at most as many as the pool has; nobody starts who is not needed."""
    with MakePool(backend, n_jobs=2) as pool:
        assert "worker_started" not in listener.events
        pool.map(tasks.square, range(20), chunksize=1)
    names = [told["worker"] for told in listener.of("worker_started")]

    assert 1 <= len(names) == len(set(names)) <= 2
    assert listener.events.index("worker_started") < listener.events.index("chunk_done")


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_kind_of_call_is_heard(listener, backend):
    """Each with a number of its own, its tasks where they are known, and its end."""
    with MakePool(backend, n_jobs=2) as pool:
        pool.map(abs, [1, 2, 3])
        pool.starmap(tasks.add, [(1, 2)] * 4)
        list(pool.imap(abs, range(5)))
        list(pool.imap_unordered(abs, iter(range(6))))
        pool.map_async(abs, range(7)).get(30)
        pool.apply(abs, (1,))
        pool.submit(abs, 1).result(30)
        pool.map(abs, [])
    started, finished = listener.of("call_started"), listener.of("call_finished")

    assert [told["tasks"] for told in started] == [3, 4, 5, None, 7, 1, 1, 0]
    assert len(finished) == len(started)
    assert {told["call_id"] for told in finished} == {told["call_id"] for told in started}
    assert {told["error"] for told in finished} == {None}


@pytest.mark.parametrize(
    "backend",
    [
        "threads",
        "multicore",
    ],
)
def test_calls_have_numbers_of_their_own(listener, backend):
    """Unique within the pool, as promised, also for one function again and again."""
    with MakePool(backend, n_jobs=2) as pool:
        for _ in range(3):
            pool.map(tasks.square, [1])
            pool.apply(tasks.square, (1,))
    numbers = [told["call_id"] for told in listener.of("call_started")]

    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_that_fails_is_heard_with_its_error(listener, backend):
    """As text; the next call is none the worse."""
    with MakePool(backend, n_jobs=2) as pool:
        with pytest.raises(Misbehaved):
            pool.map(tasks.raise_on_odd, [2, 3], chunksize=1)
        with pytest.raises(Misbehaved):
            pool.apply(tasks.raise_on_odd, (5,))
        pool.map(abs, [1])
    errors = [told["error"] for told in listener.of("call_finished")]

    assert errors == ["Misbehaved(3)", "Misbehaved(5)", None]
    assert sum(told["failures"] for told in listener.of("chunk_done")) == 2
    assert listener.events[-1] == "pool_closed"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pool_that_is_terminated_is_heard(listener, backend):
    """Once, after its calls, however often it is ended."""
    pool = MakePool(backend, n_jobs=2)
    results = pool.imap(abs, iter(range(10**6)), chunksize=1)
    next(results)
    pool.terminate()
    pool.terminate()
    pool.join()
    pool.join()

    assert listener.events.count("pool_closed") == 1
    assert "PoolClosedError" in listener.of("call_finished")[0]["error"]


def test_a_death_is_heard(listener):
    """With the name under which the worker started, and how it ended; and its successor starts."""
    with MakePool("multicore", n_jobs=1) as pool:
        with pytest.raises(WorkerDiedError):
            pool.apply(kill_self, (0,))
        pool.apply(abs, (1,))
    (died,) = listener.of("worker_died")
    first, second = (told["worker"] for told in listener.of("worker_started"))

    assert (died["worker"], died["exitcode"]) == (first, -signal.SIGKILL)
    assert second != first
    assert "WorkerDiedError" in listener.of("call_finished")[0]["error"]


def test_pools_are_told_apart(listener):
    """Each has a number of its own."""
    with MakePool("singlecore") as one, MakePool("multicore", n_jobs=1) as other:
        one.map(abs, [1])
        other.map(abs, [1])

    assert len({told["pool_id"] for told in listener.of("pool_opened")}) == 2
    opened = {told["backend"]: told["pool_id"] for told in listener.of("pool_opened")}
    assert [told["pool_id"] for told in listener.of("call_started")] == [
        opened["singlecore"],
        opened["multicore"],
    ]


# --- what it costs --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_are_never_called_once_per_task(listener, backend, method):
    """Ten thousand trivial tasks are a few chunks, and so a few events."""
    with MakePool(backend, n_jobs=2) as pool:
        results = list(getattr(pool, method)(abs, range(10_000)))

    assert len(results) == 10_000
    assert sum(told["tasks"] for told in listener.of("chunk_done")) == 10_000
    assert len(listener.heard) < 2_000


@pytest.mark.parametrize("backend", ["singlecore", *BACKENDS])
def test_with_nobody_listening_there_is_nothing_to_call(backend):
    """A pool asks once, when it is made."""
    assert hooks() is None
    with MakePool(backend) as pool:
        assert pool._hooks is None
        assert pool._pump.hooks is None
        pool.map(abs, [1])


def test_listening_begins_and_ends_with_pools_that_are_made_then():
    """Those made before it was registered, and those made after it was unregistered, are not heard."""
    listener = Listener()
    with MakePool("threads", n_jobs=1) as before:
        register(listener)
        try:
            with MakePool("threads", n_jobs=1) as during:
                during.map(abs, [1])
        finally:
            unregister(listener)
        with MakePool("threads", n_jobs=1) as after:
            for pool in (before, after):
                pool.map(abs, [1])

    assert listener.events.count("pool_opened") == listener.events.count("call_finished") == 1
    assert listener.events[-1] == "pool_closed"
    assert hooks() is None


def test_an_open_pool_gains_no_listener(registered):
    """Least of all one that hears everything twice, for each of the two that listened before."""
    registered(Listener())
    registered(Listener())
    with MakePool("threads", n_jobs=1) as pool:
        late = registered(Listener())
        pool.map(abs, [1])

    assert late.events.count("call_started") == 0


def test_an_open_pool_loses_no_listener(listener):
    """What has begun is heard to its end."""
    with MakePool("threads", n_jobs=1) as pool:
        unregister(listener)
        pool.map(abs, [1])

    assert listener.events[-1] == "pool_closed"


def test_registering_twice_is_hearing_once(listener):
    """As it says: a second time does nothing."""
    register(listener)
    with MakePool("threads", n_jobs=1) as pool:
        pool.map(abs, [1])

    assert listener.events.count("pool_opened") == 1


# --- a plugin that raises -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Misbehaved, AssertionError, StopIteration, TimeoutError])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plugin_that_raises_hurts_nobody(registered, caplog, backend, kind):
    """Neither the pool nor other listeners, before it or after; the log names it and its hook."""
    before = registered(Listener())
    bad = registered(broken(kind), "the bad one")
    after = registered(Listener())

    with caplog.at_level(logging.ERROR), MakePool(backend, n_jobs=2) as pool:
        assert pool.map(tasks.square, range(20), chunksize=5) == [number**2 for number in range(20)]
        with pytest.raises(Misbehaved):
            pool.apply(tasks.raise_on_odd, (1,))
        assert pool.apply_async(abs, (-1,)).get(30) == 1
        assert list(pool.imap(abs, range(5))) == list(range(5))

    assert before.heard == after.heard
    assert before.events[-1] == "pool_closed"
    for event in set(EVENTS) - {"pools_worker_died"}:
        assert event in bad.told
        assert f"plugin the bad one failed in its hook {event}" in caplog.text
    ours = [record for record in caplog.records if record.name == "pools_core.plugins"]
    assert len(ours) == len(bad.told)


def test_a_plugin_that_raises_at_a_death_hurts_nobody(registered, caplog):
    """The worker is replaced all the same."""
    bad = registered(broken(Misbehaved), "the bad one")

    with caplog.at_level(logging.ERROR), MakePool("multicore", n_jobs=1) as pool:
        with pytest.raises(WorkerDiedError):
            pool.apply(kill_self, (0,))
        assert pool.map(abs, [-1]) == [1]

    assert bad.told.count("pools_worker_died") == 1
    assert "failed in its hook pools_worker_died" in caplog.text


# --- plugins that are switched off by name --------------------------------------------------------

TELLER = """
from pools_core.hookspecs import hookimpl

print(__name__, "is imported")

@hookimpl
def pools_pool_opened(pool_id, backend, size):
    print(__name__, "hears of", backend)
"""

ONE_POOL = "MakePool('singlecore').stop_and_join()"


@pytest.fixture
def program(install, tmp_path):
    """Return a function that runs lines of a program where three plugins are installed.

    It returns what the plugins say, in alphabetical order, and what is logged.
    """
    tellers = {"tph_a": TELLER, "tph_b": TELLER, "tph_bad": "1 / 0"}
    folder = install("d-tellers", {name: name for name in tellers}, tellers, group="pools.plugins")
    environ = {"PYTHONPATH": str(folder), "XDG_CONFIG_HOME": str(tmp_path / "user-config")}

    def run(*lines, **environment):
        text = "\n".join(["import logging; logging.basicConfig()", "from pools_core import MakePool", *lines])
        done = subprocess.run(
            [sys.executable, "-c", text],
            env={**os.environ, **environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return sorted(done.stdout.splitlines()), done.stderr

    return run


def everything(*names, backend="singlecore"):
    """What these plugins say of one pool."""
    return sorted(line for name in names for line in (f"{name} hears of {backend}", f"{name} is imported"))


def config(folder, name, text):
    """Write a config file; return its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_installed_plugins_listen_unless_they_are_switched_off(program):
    """Nothing but their installation is needed; a broken one is logged."""
    said, logged = program(ONE_POOL)

    assert said == everything("tph_a", "tph_b")
    assert "d-tellers:tph_bad" in logged


@pytest.mark.parametrize(
    "names", ["tph_a,tph_bad", " tph_bad , d-tellers:tph_a ", "D_Tellers:tph_a,tph_bad,"]
)
def test_the_environment_switches_plugins_off(program, names):
    """By name, or with the distribution's; they are not even imported, so a broken one is not logged."""
    said, logged = program(ONE_POOL, POOLS_PLUGINS_OFF=names)

    assert said == everything("tph_b")
    assert logged == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pools.ini", "[pool]\nplugins_off = tph_a, tph_bad ; for now\n"),
        ("pools.toml", '[pool]\nplugins_off = ["tph_a", "tph_bad"]\n'),
    ],
)
@pytest.mark.parametrize(
    "line", [ONE_POOL, "import pools_singlecore as p; p.SinglecorePool().stop_and_join()"]
)
def test_the_users_config_switches_plugins_off_for_all_pools(program, tmp_path, name, text, line):
    """Also for those that are made without a config."""
    config(tmp_path / "user-config" / "pools", name, text)

    assert program(line) == (everything("tph_b"), "")


@pytest.mark.parametrize("package", ["", "pools_singlecore.", "GetClusterPackage('singlecore')."])
def test_a_pools_own_config_switches_plugins_off_for_that_pool(program, tmp_path, package):
    """Whichever way the pool is made; another pool of the program is heard by all."""
    path = config(tmp_path, "c.ini", "[pool]\nbackend = singlecore\nplugins_off = tph_a, tph_bad\n")
    said, logged = program(
        "import pools_singlecore; from pools_core import GetClusterPackage",
        f"{package}MakePool(config={str(path)!r}).stop_and_join()",
        "print('', flush=True)",
        "MakePool('threads', config={'pool': {'plugins_off': ['tph_b', 'tph_bad']}}).stop_and_join()",
        "MakePool('threads', plugins_off=['tph_b', 'tph_bad']).stop_and_join()",
    )

    other = ["tph_a hears of threads"] * 2 + ["tph_a is imported"]
    assert said == sorted(["", *everything("tph_b"), *other])
    assert logged == ""


@pytest.mark.parametrize(
    ("environment", "line", "told"),
    [
        ({"POOLS_PLUGINS_OFF": "tph_c,tph_bad"}, ONE_POOL, "POOLS_PLUGINS_OFF names 'tph_c'"),
        ({"POOLS_PLUGINS_OFF": "tph_bad"}, "plugins_off", "plugins_off names 'd-other:tph_a'"),
    ],
)
def test_a_name_that_no_plugin_has_is_a_warning_that_lists_what_there_is(program, environment, line, told):
    """No error: machines that share a config need not have the same plugins.  Once, not for each pool."""
    if line == "plugins_off":
        line = "MakePool('singlecore', {'pool': {'plugins_off': 'd-other:tph_a'}}).stop_and_join()"
    said, logged = program(*[line] * 3, **environment)

    assert len(said) == 2 + 2 * 3
    assert logged.count("\n") == 1
    assert f"WARNING:pools_core.plugins:{told}" in logged
    assert "there are: tph_a, tph_b, tph_bad" in logged


def test_without_any_plugin_a_name_is_a_warning_too():
    """It says that there is none at all."""
    code = "from pools_core import MakePool; MakePool('singlecore', plugins_off=['x']).stop_and_join()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stderr == "plugins_off names 'x', and no such plugin is installed; there is none at all\n"


@pytest.mark.parametrize("value", ["x", [1], 3])
def test_in_code_names_are_a_list(value):
    """A single text would be taken letter by letter."""
    with pytest.raises(TypeError, match="plugins_off is a list of plugins' names"):
        MakePool("singlecore", plugins_off=value)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"pool": {"plugins_off": 3}}, r"section \[pool\], key 'plugins_off': is a list"),
        ({"singlecore": {"plugins_off": "x"}}, r"stands in the section \[pool\]"),
        ({"pool": {"plugin_off": "x"}}, "did you mean 'plugins_off'"),
    ],
)
def test_a_config_that_says_it_wrong_is_an_error(sections, told):
    """With section and key."""
    with pytest.raises(ConfigError, match=told):
        MakePool("singlecore", sections)


def test_a_default_config_that_cannot_be_read_is_logged(program, tmp_path):
    """Pools that need no config are made all the same, and heard."""
    config(tmp_path / "user-config" / "pools", "pools.ini", "no section\n")
    said, logged = program("MakePool('singlecore', {}).stop_and_join()", POOLS_PLUGINS_OFF="tph_bad")

    assert said == everything("tph_a", "tph_b")
    assert "pools.ini" in logged and logged.count("\n") == 1


def test_what_is_registered_by_hand_is_not_switched_off(registered, caplog):
    """That is the program's own doing; a name means an installed plugin."""
    by_hand = registered(Listener(), "by hand")
    with MakePool("singlecore", plugins_off=["by hand"]) as pool:
        pool.apply(abs, (1,))

    assert by_hand.events[-1] == "pool_closed"
    assert "no such plugin is installed" in caplog.text

"""Backends by name: found in metadata, loaded one at a time, refused with words that help."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

import pytest

import pools_core
from pools_core.errors import (
    BackendConflictError,
    BackendContractError,
    BackendLoadError,
    BackendNotFoundError,
    ConfigError,
    UnsupportedOptionError,
)
from pools_core.hookspecs import hookimpl
from pools_core.plugins import Plugins, hooks, register, unregister
from pools_core.registry import GetClusterPackage, MakePool, backend_name, backends, capable, names

GOOD = Path(__file__).with_name("conftest.py").read_text().split('"""')[3]


def test_our_own_backends_come_through_the_entry_points():
    """There is no private door: what a stranger must do, they do."""
    found = backends()

    for name in ("singlecore", "threads", "multicore"):
        assert found[name].distribution == "pools-core"
        assert found[name].module == f"pools_{name}"
        assert found[name].usable, found[name].why


def test_core_names_no_backend():
    """A registry that knows its guests must be edited for each."""
    root = Path(pools_core.__file__).parent
    for name in ("registry.py", "pool.py", "plugins.py", "metadata.py"):
        text = (root / name).read_text()
        assert "pools_threads" not in text and "pools_multicore" not in text


def test_a_backend_is_chosen_by_name_and_called_directly(install):
    """MakePool hands config and options to the package's own MakePool and returns what it returns."""
    install("d-one", {"tb_one": "tb_one"}, {"tb_one": GOOD})

    assert MakePool("tb_one", {"tb_one": {}}, n_jobs=3) == ("tb_one", {"tb_one": {}}, {"n_jobs": 3})


def test_the_same_package_object_on_every_call(install):
    """Its module state is one, however often it is asked for."""
    install("d-one", {"tb_one": "tb_one"}, {"tb_one": GOOD})

    assert GetClusterPackage("tb_one") is GetClusterPackage("tb_one") is sys.modules["tb_one"]


def test_a_package_is_looked_into_once(install, monkeypatch):
    """What it requires and exports does not change while it is there; a pool is made in less time."""
    install("d-one", {"tb_one": "tb_one"}, {"tb_one": GOOD})
    first = GetClusterPackage("tb_one")
    monkeypatch.setattr("pools_core.registry.missing_requirements", lambda _: ["what is looked for again"])

    assert GetClusterPackage("tb_one") is first
    assert MakePool("tb_one") == ("tb_one", None, {})
    del sys.modules["tb_one"]
    with pytest.raises(BackendLoadError, match="what is looked for again"):
        GetClusterPackage("tb_one")


def test_names_import_nothing(install):
    """Names come from metadata; a broken backend can be listed."""
    install("d-one", {"tb_one": "tb_one"}, {"tb_one": "raise SystemExit('imported')"})

    assert "tb_one" in names()
    assert "tb_one" not in sys.modules


def test_asking_for_one_loads_only_that_one(install):
    """A group that is loaded whole fails at the first broken member."""
    install("d-bad", {"tb_a_bad": "tb_a_bad"}, {"tb_a_bad": "1/0"})
    install("d-one", {"tb_one": "tb_one"}, {"tb_one": GOOD})

    GetClusterPackage("tb_one")
    assert "tb_a_bad" not in sys.modules


@pytest.mark.parametrize("code", ["1/0", "import sys; sys.exit(3)", "import tb_nowhere", "raise ImportError"])
def test_a_backend_that_does_not_load_says_so_every_time(install, code):
    """Whatever its import raises is the cause of one kind of error, also at the second try."""
    install("d-bad", {"tb_bad": "tb_bad"}, {"tb_bad": code})

    for _ in range(2):
        with pytest.raises(
            BackendLoadError, match=r"'tb_bad' \(module tb_bad, distribution d-bad 1.2\)"
        ) as caught:
            GetClusterPackage("tb_bad")
        assert caught.value.__cause__ is not None


def test_a_broken_backend_hurts_nobody_else(install):
    """The list says why it is not usable; the others are."""
    install("d-bad", {"tb_bad": "tb_bad"}, {"tb_bad": "1/0"})

    found = backends()

    assert not found["tb_bad"].usable
    assert "ZeroDivisionError" in found["tb_bad"].why
    assert found["threads"].usable


def test_a_missing_extra_names_the_pip_install(install):
    """An entry point that declares an extra is checked before anything is imported."""
    install(
        "d-extra",
        {"tb_extra": "tb_extra [fast]"},
        {"tb_extra": GOOD},
        requires=('not-a-distribution>=1; extra == "fast"', 'pluggy; extra == "fast"', "click"),
    )

    with pytest.raises(BackendLoadError, match=r"not-a-distribution .*pip install 'd-extra\[fast\]'"):
        GetClusterPackage("tb_extra")
    assert "tb_extra" not in sys.modules


def test_a_module_that_is_missed_only_when_the_pool_is_made_is_told_too(install):
    """Packages import what is heavy late; the advice must be the same."""
    code = GOOD.replace("return (__name__", "import tb_heavy; return (__name__")
    install("d-late", {"tb_late": "tb_late [heavy]"}, {"tb_late": code})

    with pytest.raises(BackendLoadError, match=r"pip install 'd-late\[heavy\]'"):
        MakePool("tb_late")


@pytest.mark.parametrize(
    ("code", "lacking"),
    [
        ("", "MakePool and RunMain"),
        ("def MakePool(): ...", "export RunMain"),
        ("MakePool = 3\ndef RunMain(): ...", "export MakePool"),
    ],
)
def test_a_package_that_lacks_something_is_refused(install, code, lacking):
    """The error says which of the two is missing, or cannot be called."""
    install("d-less", {"tb_less": "tb_less"}, {"tb_less": code})

    with pytest.raises(BackendContractError, match=lacking):
        GetClusterPackage("tb_less")


def test_an_unknown_name_lists_what_there_is_and_the_nearest():
    """Most unknown names are slips of the pen."""
    with pytest.raises(BackendNotFoundError, match=r"did you mean 'multicore'\?.*singlecore.*pip install"):
        MakePool("multicor")
    with pytest.raises(LookupError, match="multicore, singlecore, threads"):
        MakePool("qqq")


def test_two_distributions_with_one_name(install):
    """Neither wins by the order of installation; the full name chooses."""
    install("d-one", {"tb_twin": "tb_one"}, {"tb_one": GOOD})
    install("d_two", {"tb_twin": "tb_two"}, {"tb_two": GOOD})

    with pytest.raises(BackendConflictError, match=r"d-one.*d_two.*'d-one:tb_twin' or 'd_two:tb_twin'"):
        MakePool("tb_twin")
    assert MakePool("d-one:tb_twin")[0] == "tb_one"
    assert MakePool("D-Two:tb_twin")[0] == "tb_two", "distribution names are compared as pip does"
    found = backends()
    assert {"d-one:tb_twin", "d_two:tb_twin"} <= set(found)
    assert "tb_twin" not in found


def test_an_installed_backend_is_found_without_a_restart(install):
    """After pip install in a notebook the next call finds it."""
    folder = install("d-none", {}, {})
    with pytest.raises(BackendNotFoundError):
        MakePool("tb_new")

    (folder / "d_none-1.2.dist-info" / "entry_points.txt").write_text("[pools.backends]\ntb_new = tb_new\n")
    (folder / "tb_new.py").write_text(GOOD)

    assert MakePool("tb_new")[0] == "tb_new"


# ── which name ──


def test_the_name_comes_from_argument_then_environment_then_config_then_default(monkeypatch):
    """Each is asked only when those before it say nothing."""
    config = {"pool": {"backend": "threads"}}
    assert backend_name() == "multicore"
    assert backend_name(None, config) == "threads"
    monkeypatch.setenv("POOLS_BACKEND", "singlecore")
    assert backend_name(None, config) == "singlecore"
    assert backend_name("other", config) == "other"


def test_the_config_is_found_in_the_environment_and_the_user_directory(tmp_path, monkeypatch):
    """But never in the current directory."""
    user = tmp_path / "user-config" / "pools"
    user.mkdir(parents=True)
    (tmp_path / "pools.ini").write_text("[pool]\nbackend = here\n")
    monkeypatch.chdir(tmp_path)
    assert backend_name() == "multicore"

    (user / "pools.toml").write_text("[pool]\nbackend = 'user'\n")
    assert backend_name() == "user"

    (tmp_path / "other.ini").write_text("[pool]\nbackend = named\n")
    monkeypatch.setenv("POOLS_CONFIG", str(tmp_path / "other.ini"))
    assert backend_name() == "named"

    monkeypatch.delenv("POOLS_CONFIG")
    (user / "pools.ini").write_text("")
    with pytest.raises(ConfigError, match="both"):
        backend_name()


def test_a_name_is_text():
    """A path or a module is no name."""
    with pytest.raises(TypeError, match="str"):
        MakePool(Path("threads"))


# ── capabilities ──


def test_capable_names_the_backends_that_can(install):
    """A broken one, or one whose list is nonsense, hurts nobody."""
    install("d-bad", {"tb_bad": "tb_bad"}, {"tb_bad": "1/0"})
    install("d-odd", {"tb_odd": "tb_odd"}, {"tb_odd": GOOD + "\ncapabilities = 3"})
    install("d-one", {"tb_one": "tb_one"}, {"tb_one": GOOD + "\ncapabilities = frozenset({'cpu_ids'})"})

    assert capable("cpu_ids") == ["multicore", "tb_one"]
    assert capable("processes") == capable("n_jobs") == ["multicore", "threads"]
    assert capable("nonsense") == []


def test_an_unsupported_option_names_those_backends():
    """The user learns where to go."""
    with pytest.raises(UnsupportedOptionError, match=r"cpu_ids.*multicore") as caught:
        MakePool("threads", cpu_ids=[0])
    assert caught.value.able == ("multicore",)


@pytest.mark.parametrize("name", ["singlecore", "threads", "multicore"])
def test_a_package_lists_what_its_engine_can(name):
    """Else an error would send people to the wrong backend, or to none."""
    with MakePool(name, n_jobs=1) as pool:
        assert pool.capabilities <= GetClusterPackage(name).capabilities


# ── hooks ──


class Listener:
    """A plugin that keeps what it hears."""

    def __init__(self):
        self.heard = []

    @hookimpl
    def pools_pool_opened(self, pool_id, backend):
        self.heard.append((pool_id, backend))


def test_nobody_listens():
    """Then a pool has one variable to test, and pays nothing."""
    assert Plugins().hooks() is None


def test_a_plugin_hears_what_it_asked_for():
    """It takes the arguments that it wants; other hooks are silent."""
    plugins, listener = Plugins(), Listener()
    plugins.register(listener, "listener")

    relay = plugins.hooks()
    relay.pools_pool_opened(pool_id=1, backend="b", size=2)
    relay.pools_pool_opened(2, "c", 3)
    relay.pools_pool_closed(pool_id=1)

    assert listener.heard == [(1, "b"), (2, "c")]
    plugins.unregister(listener)
    assert plugins.hooks() is None


def test_a_plugin_that_raises_is_logged_and_hurts_nobody(caplog):
    """The others hear the event, and the pool goes on."""

    class Bad:
        @hookimpl
        def pools_pool_opened(self):
            raise RuntimeError("boom")

    plugins, first, last = Plugins(), Listener(), Listener()
    for name, plugin in (("first", first), ("bad", Bad()), ("last", last)):
        plugins.register(plugin, name)

    plugins.hooks().pools_pool_opened(pool_id=1, backend="b", size=2)

    assert first.heard == last.heard == [(1, "b")]
    assert "plugin bad failed in its hook pools_pool_opened" in caplog.text
    assert "boom" in caplog.text


@pytest.mark.parametrize(
    "hook", ["def pools_pool_opend(self, pool_id): ...", "def pools_pool_opened(self, wrong): ..."]
)
def test_a_bad_hook_is_reported_every_time(hook):
    """pluggy keeps the name of what it refused, and says nothing of a hook that is misspelt."""
    scope = {"hookimpl": hookimpl}
    exec(f"class Bad:\n    @hookimpl\n    {hook}", scope)
    plugins, bad = Plugins(), scope["Bad"]()

    for _ in range(2):
        with pytest.raises(TypeError, match="'bad'"):
            plugins.register(bad, "bad")
    plugins.register(Listener(), "good")
    assert plugins.hooks() is not None


def test_a_backend_with_a_bad_hook_is_refused_every_time(install):
    """A backend package may listen too, and is held to the same."""
    code = GOOD + "\nfrom pools_core.hookspecs import hookimpl\n@hookimpl\ndef pools_pool_opend(): ...\n"
    install("d-hook", {"tb_hook": "tb_hook"}, {"tb_hook": code})

    for _ in range(2):
        with pytest.raises(BackendContractError, match="pools_pool_opend"):
            GetClusterPackage("tb_hook")
    assert MakePool("singlecore").map(abs, [-1]) == [1]


def test_registering_a_backend_loads_nothing_that_it_provides_lazily(install):
    """pluggy looks at every attribute that dir() lists."""
    code = GOOD + "\ndef __dir__(): return ['lazy']\ndef __getattr__(name): raise SystemExit(name)\n"
    code = code.replace("SystemExit(name)", "AttributeError(name) if name != 'lazy' else SystemExit(name)")
    install("d-lazy", {"tb_lazy": "tb_lazy"}, {"tb_lazy": code})

    assert MakePool("tb_lazy")[0] == "tb_lazy"


def test_plugins_come_from_entry_points_and_broken_ones_are_left_out(install, caplog):
    """Each that is left out is named in the log, with the reason."""
    hook = "from pools_core.hookspecs import hookimpl\nheard = []\n"
    good = hook + "@hookimpl\ndef pools_pool_closed(pool_id): heard.append(pool_id)\n"
    wrong = hook + "@hookimpl\ndef pools_pool_closd(pool_id): ...\n"
    modules = {"tp_good": good, "tp_broken": "1/0", "tp_wrong": wrong, "tp_empty": ""}
    install("d-plugins", {name: name for name in modules}, modules, group="pools.plugins")

    plugins = Plugins()
    with caplog.at_level(logging.WARNING):
        plugins.hooks().pools_pool_closed(pool_id=5)

    assert sys.modules["tp_good"].heard == [5]
    for name in ("tp_broken", "tp_wrong", "tp_empty"):
        assert f"d-plugins:{name}" in caplog.text


def test_a_pool_tells_its_life(install):
    """From the opening to the end, with one listener registered by hand."""
    heard = []

    class Everything:
        @hookimpl
        def pools_pool_opened(self, pool_id, backend, size):
            heard.append(("opened", backend, size))

        @hookimpl
        def pools_call_started(self, pool_id, call_id, tasks):
            heard.append(("call", tasks))

        @hookimpl
        def pools_chunk_done(self, pool_id, call_id, tasks, failures, seconds):
            heard.append(("done", tasks, failures))

        @hookimpl
        def pools_call_finished(self, pool_id, call_id, error):
            heard.append(("finished", error))

        @hookimpl
        def pools_pool_closed(self, pool_id):
            heard.append(("closed",))

    listener = Everything()
    register(listener)
    try:
        with MakePool("singlecore") as pool:
            pool.map(abs, [1, -2], chunksize=2)
    finally:
        unregister(listener)
    assert hooks() is None or heard
    assert heard == [
        ("opened", "singlecore", 1),
        ("call", 2),
        ("done", 2, 0),
        ("finished", None),
        ("closed",),
    ]


def test_throw_away_distributions_are_gone_after_a_test():
    """The fixture that these tests stand on cleans up."""
    assert importlib.util.find_spec("tb_one") is None
    assert not [name for name in names() if name.startswith("tb_")]

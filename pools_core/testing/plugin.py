"""A pytest plugin for those who test programs that take a pool; pytest finds it by its entry point.

    def test_my_program(pools_pool):                 # once for each backend, "pools_backends" in the ini file
        assert my_program(pools_pool) == 42

    @pytest.mark.pools(n_jobs=3)                     # options for the pools of this test
    def test_on_processes(multicore_pool): ...       # NAME_pool, for each backend that is installed

    def test_with_my_own(make_pools_pool):           # any pool, ended after the test
        pool = make_pools_pool("threads", n_jobs=4)

    @pytest.mark.pools_leaks                         # fails if it leaves a child, thread, descriptor, ...
    def test_that_cleans_up(): ...

Importing it loads nothing of Pools: a test run that does not use it pays nothing.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from pools_core.pool import Pool

__all__: list[str] = []

LOCAL: Final = "singlecore threads multicore"
"""What ``pools_pool`` runs on unless the ini file says otherwise: backends that need nothing else."""

MARKS: Final = (
    "pools(backend=None, **options): the backend and the options of pools that fixtures make for the test",
    "pools_leaks(patience=5): the test fails if it leaves a child, thread, descriptor or shared memory",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the ini file may say."""
    parser.addini("pools_backends", "backends that pools_pool runs each test on", "args", LOCAL.split())
    parser.addini("pools_leaks", "check every test for what it leaves behind", "bool", False)


def pytest_configure(config: pytest.Config) -> None:
    """Describe the marks, and make a fixture for each backend that is installed."""
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    fixtures = ModuleType("pools_fixtures")
    for name in _backend_names():
        setattr(fixtures, f"{name}_pool", _fixture_of(name))
    config.pluginmanager.register(fixtures, "pools-fixtures")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``pools_pool`` on each backend."""
    if "pools_pool" in metafunc.fixturenames:
        metafunc.parametrize("pools_pool", metafunc.config.getini("pools_backends"), indirect=True)


@pytest.fixture(autouse=True)
def _pools_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check a test that is marked so, or every one, for what it leaves behind."""
    mark = request.node.get_closest_marker("pools_leaks")
    if mark is None and not request.config.getini("pools_leaks"):
        yield
        return
    from pools_core.testing.leaks import nothing_left_behind

    for name in request.config.getini("pools_backends"):
        _begin_helpers(name)
    with nothing_left_behind(*(mark.args if mark else ()), **(mark.kwargs if mark else {})):
        yield


@pytest.fixture
def make_pools_pool(request: pytest.FixtureRequest, _pools_leaks: None) -> Iterator[Callable[..., Pool]]:
    """What makes pools that end with the test; called as ``pools_core.MakePool``.

    A backend that can choose gets two workers, unless the test or its mark says otherwise.
    """
    made: list[Pool] = []
    mark = request.node.get_closest_marker("pools")
    marked: dict[str, Any] = dict(mark.kwargs) if mark else {}

    def make(backend: str | None = None, config: Any = None, **options: Any) -> Pool:
        pool = _make(backend or marked.get("backend"), config, {**marked, **options})
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


@pytest.fixture
def pools_pool(request: pytest.FixtureRequest, make_pools_pool: Callable[..., Pool]) -> Pool:
    """A pool; the test runs once on each backend."""
    return make_pools_pool(request.param)


@functools.cache
def _begin_helpers(name: str) -> None:
    """Have a backend begin what then lives as long as this process, and is no leak."""

    def use_it() -> None:
        with _make(name, None, {}) as pool:
            pool.map(abs, [1])

    use_it()
    other = threading.Thread(target=use_it)  # where there are several threads, it may need other helpers
    other.start()
    other.join()


def _fixture_of(name: str) -> Any:
    def fixture(make_pools_pool: Callable[..., Pool]) -> Pool:
        return make_pools_pool(name)

    fixture.__doc__ = f"A pool of the backend {name!r}, ended after the test."
    return pytest.fixture(name=f"{name}_pool")(fixture)


def _backend_names() -> list[str]:
    from importlib.metadata import entry_points

    return sorted({entry.name for entry in entry_points(group="pools.backends")})


def _make(backend: str | None, config: Any, options: dict[str, Any]) -> Pool:
    from pools_core.registry import GetClusterPackage, MakePool, backend_name

    options.pop("backend", None)
    name = backend_name(backend, config)
    chooses = "n_jobs" in getattr(GetClusterPackage(name), "capabilities", ())
    if chooses and config is None and not {"n_jobs", "processes"} & options.keys():
        options["n_jobs"] = 2
    return MakePool(name, config, **options)

"""A cluster keeps the contract: over gearmand, and, in short, over gear's server and other local pools."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import pytest

from pools_core import MakePool, Pool
from pools_core.testing import PoolContract
from pools_core.testing.contract_deaths import DeathsContract


@pytest.fixture(scope="module")
def standing(make_cluster, tmp_path_factory):
    """Return clusters of one server and one node that stand until the last test of this file."""
    with contextlib.ExitStack() as stack:
        made: dict[Any, Any] = {}

        def stand(kind: str, *options: str) -> Any:
            if (kind, options) not in made:
                folder = tmp_path_factory.mktemp(kind)
                made[kind, options] = stack.enter_context(make_cluster(folder, kind=kind))
                made[kind, options].start_node(*options)
            return made[kind, options]

        yield stand


class TestGearmand(PoolContract):
    """One gearmand, one node of two processes."""

    processes = True
    fresh = False
    capabilities = frozenset({"task_timeout"})
    node: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture(autouse=True)
    def _cluster(self, server_kind, standing):
        self.cluster = standing(server_kind, *self.node)

    def make_pool(self, **options: Any) -> Pool:
        return MakePool("gearman", self.cluster.config, **options)


class OnGear(TestGearmand):
    """The embedded server, of which only a sample is taken: it is for trials."""

    @pytest.fixture(autouse=True)
    def _cluster(self, standing):
        self.cluster = standing("gear", *self.node)


SAMPLE = (
    "test_an_exception",
    "test_map_is_the_builtins",
    "test_starmap",
    "test_imap_is_lazy",
    "test_a_queued_task_can_be_cancelled",
    "test_a_running_call_can_be_cancelled",
    "test_terminate_drops_queued_work_and_tells_who_waits",
    "test_large_arguments_and_results_arrive",
    "test_ten_threads_use_one_pool_at_once",
    "test_a_seed_gives_each_task_its_own_stream",
    "test_many_pools_at_once",
)


def only(base: type, names: tuple[str, ...]) -> dict[str, Any]:
    """Return a class body in which every other test of the base is struck out."""
    tests = [name for name in dir(base) if name.startswith("test_")]
    return {name: None for name in tests if not name.startswith(names) or name in vars(DeathsContract)}


TestGear = type("TestGear", (OnGear,), {**only(TestGearmand, SAMPLE), "__module__": __name__})


class OnThreads(TestGearmand):
    """A node whose tasks run in threads: what goes to it is pickled all the same."""

    capabilities = frozenset()
    node = ("--pool", "threads")


TestThreads = type(
    "TestThreads",
    (OnThreads,),
    {
        **only(TestGearmand, ("test_map", "test_starmap", "test_imap", "test_a_seed", "test_an_exception")),
        "__module__": __name__,
    },
)

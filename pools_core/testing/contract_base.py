"""What all chapters of the contract share: the factory, facts about the backend, fixtures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pools_core.pool import Pool
from pools_core.testing.gate import Gate
from pools_core.testing.leaks import nothing_left_behind
from pools_core.testing.waiting import deadline

__all__ = ["ContractBase", "finish"]


class ContractBase:
    """A backend's author supplies ``make_pool`` and, where the defaults are wrong, the attributes.

    Attributes:
        processes: workers are processes, on this machine: they can die and be killed, and what goes to
            them is pickled.
        inline: tasks run in the caller's own thread, while it waits.
        capabilities: what the backend honours beyond the basics, such as ``"task_timeout"``.
        fresh: workers begin with the pool; those of a cluster may have run tasks before.
        seconds: how long one test may take before it fails as a hang.
    """

    processes: ClassVar[bool] = False
    inline: ClassVar[bool] = False
    capabilities: ClassVar[frozenset[str]] = frozenset()
    fresh: ClassVar[bool] = True
    seconds: ClassVar[float] = 90.0

    def make_pool(self, **options: Any) -> Pool:
        """Return a new pool, with two workers where the backend can choose.

        Args:
            options: to be passed on to the backend's ``MakePool``.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        # Not an abstract method: pytest makes the class itself, and would only say that it cannot.
        raise NotImplementedError(
            f"{type(self).__name__} does not say which pool to test: define its make_pool(self, **options), "
            "which returns a new pool of your backend"
        )

    @pytest.fixture(autouse=True)
    def _ends_by_a_deadline(self) -> Iterator[None]:
        with deadline(self.seconds):
            yield

    @pytest.fixture
    def pool(self, _ends_by_a_deadline: None) -> Iterator[Pool]:
        """A pool for one test, terminated after it."""
        pool = self.make_pool()
        yield pool
        finish(pool)

    @pytest.fixture
    def gate(self, pool: Pool) -> Iterator[Gate]:
        """A gate, opened after the test, so that no task waits for ever."""
        with Gate() as gate:
            yield gate
            gate.open()

    @pytest.fixture
    def log(self, tmp_path: Path) -> str:
        """Path of a file in which tasks leave a line per execution."""
        return str(tmp_path / "log")

    @contextlib.contextmanager
    def leaves_nothing(self) -> Iterator[None]:
        """Check that the body leaves nothing; helpers that live on, such as forkserver's, start before it."""
        with self.make_pool() as pool:
            pool.map(abs, [1])
        with nothing_left_behind():
            yield

    def needs_processes(self) -> None:
        """Skip the test unless workers are processes."""
        if not self.processes:
            pytest.skip("workers are not processes")

    def needs_pickling(self) -> None:
        """Skip the test unless what goes to a worker is pickled."""
        if not self.processes:
            pytest.skip("workers share the caller's memory: nothing is pickled")

    def needs_task_timeout(self) -> None:
        """Skip the test unless the backend can kill a task."""
        if "task_timeout" not in self.capabilities:
            pytest.skip("the backend does not offer task_timeout")

    def needs_two_at_once(self, pool: Pool) -> None:
        """Skip the test unless two tasks of ``pool`` run at once beside the caller."""
        if self.inline or pool.size < 2:
            pytest.skip("the pool runs one task at a time")

    def needs_background(self) -> None:
        """Skip the test unless tasks run while the caller does something else."""
        if self.inline:
            pytest.skip("tasks run in the caller's thread")


def finish(pool: Pool) -> None:
    """End a pool, whatever it is doing."""
    pool.terminate()
    pool.join()

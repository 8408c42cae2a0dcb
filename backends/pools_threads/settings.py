"""The options of the threads backend."""

from __future__ import annotations

from dataclasses import dataclass, field

from pools_core.config import whole_number
from pools_core.cpus import cpu_count
from pools_core.pool_options import PoolSettings

__all__ = ["ThreadsSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadsSettings(PoolSettings):
    """What a pool of threads can be told; and what any pool can.

    Attributes:
        n_jobs: how many threads, at least 1; default the CPUs that this process may use.
    """

    n_jobs: int = field(default_factory=cpu_count)

    def __post_init__(self) -> None:
        """Check the values."""
        self.check_common()
        object.__setattr__(self, "n_jobs", whole_number("n_jobs", self.n_jobs, 1))

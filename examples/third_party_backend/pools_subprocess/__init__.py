"""A backend for pools whose workers are ``python -m`` children that talk over pipes.

    MakePool("subprocess", n_jobs=2)

Everything that a pool means comes from ``pools_core``; what is here only carries chunks.  This module
imports nothing heavy: the registry loads it to see whether it is usable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pools_core.pool_options import PoolSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pools_core import Pool
    from pools_core.config import ConfigSource

__all__ = ["MakePool", "RunMain", "Settings", "capabilities"]

capabilities = frozenset({"n_jobs", "order_tasks"})
"""The options that this backend honours beyond the basics; any other is refused, never ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(PoolSettings):
    """Options in code and keys of the config section ``[subprocess]``, one field each; and those of any pool.

    Attributes:
        n_jobs: number of workers, at least 1; default the CPUs that this process may use.
    """

    n_jobs: int | None = None

    def __post_init__(self) -> None:
        from pools_core.config import whole_number

        self.check_common()
        if self.n_jobs is not None:
            whole_number("n_jobs", self.n_jobs, 1)


def MakePool(config: ConfigSource = None, **options: Any) -> Pool:  # noqa: N802  the name is the contract's
    """Return a pool; arguments and errors as of ``pools_core.MakePool``."""
    from pools_core import Pool
    from pools_core.config import settings
    from pools_core.cpus import cpu_count
    from pools_subprocess.engine import SubprocessEngine

    chosen = settings(Settings, "subprocess", config, options)
    return Pool(lambda: SubprocessEngine(chosen.n_jobs or cpu_count()), "subprocess", chosen)


def RunMain(argv: Sequence[str] | None = None) -> int:  # noqa: N802  likewise
    """Run ``pools subprocess``: start one worker, say what it is, and return the exit status."""
    import argparse
    import sys

    parser = argparse.ArgumentParser(
        prog="pools subprocess", description="Start one worker to see that it runs."
    )
    parser.parse_args(argv)
    with MakePool(n_jobs=1) as pool:
        version = pool.apply(eval, ("__import__('platform').python_version()",))
    print(f"a worker of {sys.executable} runs Python {version}")
    return 0

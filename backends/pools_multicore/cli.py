"""The command ``pools multicore``."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence

from pools_core.cpus import describe_cpus
from pools_multicore.settings import START_METHODS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from pools_core.cli import backend_main

    return backend_main("multicore", argv, facts)


def facts() -> dict[str, object]:
    """Return what ``pools multicore info`` tells."""
    cpus = describe_cpus()
    here = multiprocessing.get_all_start_methods()
    return {
        "cpus seen": cpus.seen,
        "cpus usable": cpus.usable,
        "affinity": cpus.affinity,
        "quota": cpus.quota,
        "start methods": [method for method in START_METHODS if method in here],
    }

"""The command ``pools threads``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pools_core.cpus import describe_cpus

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from pools_core.cli import backend_main

    return backend_main("threads", argv, facts)


def facts() -> dict[str, object]:
    """Return what ``pools threads info`` tells."""
    cpus = describe_cpus()
    # Only Python 3.13 and newer can run without the lock, and only they can be asked.
    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    return {"cpus seen": cpus.seen, "cpus usable": cpus.usable, "interpreter lock": locked}

"""The command ``pools singlecore``."""

from __future__ import annotations

import platform
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from pools_core.cli import backend_main

    return backend_main("singlecore", argv, facts)


def facts() -> dict[str, object]:
    """Return what ``pools singlecore info`` tells."""
    return {"workers": 1, "runs tasks in": "the caller's thread", "python": platform.python_version()}

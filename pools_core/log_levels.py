"""What workers have been told to log: one per engine whose workers are other processes.

Looks at ``logging`` only once somebody has imported it.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["LogLevelsSent"]


class LogLevelsSent:
    """What workers have been told to log."""

    def __init__(self) -> None:
        self.levels: Any = None
        """A ``logs.LogLevels``, or None for nothing."""
        self._token: Any = None
        self.changed()

    def changed(self) -> bool:
        """Look whether this process wants other records than before."""
        if "logging" not in sys.modules:
            return False
        from pools_core import logs

        if not logs.changed(self._token):
            return False
        before = self.levels
        self._token = logs.fingerprint()
        self.levels = logs.snapshot()
        return bool(before != self.levels)

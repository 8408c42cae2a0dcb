"""What a node's workers are to log: all that any of its callers wants.

The local pool tells its workers what this process logs, so this process is made to want it: by the
levels of its loggers, and by a handler that does nothing with a record.  Whose a record is the worker's
chunk tells, and the caller's own loggers have the last word.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any, Final

__all__ = ["Levels"]

MOST: Final = 64
"""Callers whose wishes are remembered."""


class _Wanted(logging.Handler):
    """Makes records wanted that others than this process will handle."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Do nothing."""
        return True


class Levels:
    """The wishes of a node's callers."""

    def __init__(self) -> None:
        self._wishes: OrderedDict[bytes, Any] = OrderedDict()
        self._handler = _Wanted(logging.CRITICAL)
        self._own: dict[str, int] = {}

    def wish(self, client: bytes, levels: Any) -> None:
        """A caller wants these records: a ``logs.LogLevels``, or None for none."""
        if levels is None and client not in self._wishes:
            return
        if self._wishes.get(client) == levels:
            return
        self._wishes[client] = levels
        self._wishes.move_to_end(client)
        while len(self._wishes) > MOST:
            self._wishes.popitem(last=False)
        self._apply()

    def forget(self, client: bytes) -> None:
        """A caller is gone."""
        if self._wishes.pop(client, None) is not None:
            self._apply()

    def _apply(self) -> None:
        wishes = [levels for levels in self._wishes.values() if levels is not None]
        wanted: dict[str, int] = {}
        for _, _, table in wishes:
            for name, (level, _, _) in table.items():
                if level:
                    wanted[str(name)] = min(wanted.get(str(name), level), level)
        for name in self._own.keys() - wanted.keys():
            logging.getLogger(name or None).setLevel(self._own.pop(name))
        for name, level in wanted.items():
            logger = logging.getLogger(name or None)
            own = self._own.setdefault(name, logger.level)
            logger.setLevel(min(level, own) if own else level)
        self._handler.setLevel(min((threshold for threshold, _, _ in wishes), default=logging.CRITICAL))
        if wishes:
            logging.getLogger().addHandler(self._handler)
        else:
            logging.getLogger().removeHandler(self._handler)

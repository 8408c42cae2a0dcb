"""How many jobs a node asks its servers for; decisions only.

GRAB_JOB_UNIQ ─▶ JOB_ASSIGN_UNIQ   there are more: ask for twice as many at once
                 NO_JOB            ask for no more; once nothing is asked for, sleep (PRE_SLEEP)
                 NOOP              there is something again: ask for two, so that if there was but one job,
                                   this is known along with it, and nothing is left to ask while it runs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Line", "share_out"]

WINDOW: Final = 16
"""Jobs that are asked for at once at the most."""


@dataclass(slots=True)
class Line:
    """How it stands with taking jobs from one server.

    Attributes:
        asked: how many jobs were asked for and have not come.
        window: how many to ask for at once.
        asleep: whether the server is to wake this node.
        empty: whether it said that it has none.
    """

    asked: int = 0
    window: int = 1
    asleep: bool = False
    empty: bool = False

    def got_job(self) -> None:
        """A job has come."""
        self.asked -= 1
        self.empty = False
        if self.worth_asking:
            self.window = min(WINDOW, 2 * self.window)

    def got_none(self) -> bool:
        """The server has none; return whether to sleep now."""
        self.asked -= 1
        self.window, self.empty = 1, True
        self.asleep = not self.asked
        return self.asleep

    def was_woken(self) -> None:
        """The server has something again."""
        self.asleep = self.empty = False
        self.window = 2

    @property
    def worth_asking(self) -> bool:
        """Whether half of what was asked for has been answered, so that there is a good deal to ask for."""
        return 2 * self.asked < self.window and not (self.asleep or self.empty)


def share_out(room: int, lines: Sequence[Line]) -> list[int]:
    """Return how many jobs to ask each server for, and take note of it.

    Each may be asked for one, whatever the others were asked for and have not answered: a server that is
    frozen would keep the node from all of them.  So at the most one job of each comes that has to wait.

    Args:
        room: how many jobs there is room for, with those that were asked for already.
        lines: the servers.
    """
    free = room > 0
    room -= sum(line.asked for line in lines)
    asks = []
    for line in lines:
        least = int(free and not line.asked)
        ask = max(least, min(room, line.window - line.asked)) if line.worth_asking else 0
        line.asked += ask
        room -= ask
        asks.append(ask)
    return asks

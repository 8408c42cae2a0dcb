"""How many jobs a node asks its servers for; decisions only.

GRAB_JOB_UNIQ ─▶ JOB_ASSIGN_UNIQ   there are more: ask for twice as many at once
                 NO_JOB            ask for no more; once nothing is asked for, sleep (PRE_SLEEP)
                 NOOP              there is something again: ask for two, so that if there was but one job,
                                   this is known along with it, and nothing is left to ask while it runs

A caller that waits for each result before it sends its next task sends that while the node falls asleep, and
the server has to wake it again: a fifth of what such a task takes.  So a node that has nothing left to do
after a single job asks a few times more, if that would have paid the last time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pools_core.spinning import Habit

__all__ = ["Line", "share_out"]

WINDOW: Final = 16
"""Jobs that are asked for at once at the most."""

TRIES: Final = 8
"""Times to ask, once there is nothing left to do, before sleeping: in all some 400 us."""

NEAR: Final = 0.0005
"""Seconds from then until the server wakes the node, within which asking is taken to be worth it."""


@dataclass(slots=True)
class Line:
    """How it stands with taking jobs from one server.

    Attributes:
        asked: how many jobs were asked for and have not come.
        window: how many to ask for at once.
        asleep: whether the server is to wake this node.
        empty: whether it said that it has none.
        jobs: how many have come since there was nothing to do.
        tries: how many times to ask yet before sleeping.
        idle_since: when there was nothing left to do after a single job, by the monotonic clock; None if
            there were more, or there is something.
        habit: whether to ask before sleeping has paid.
    """

    asked: int = 0
    window: int = 1
    asleep: bool = False
    empty: bool = False
    jobs: int = 0
    tries: int = 0
    idle_since: float | None = None
    habit: Habit = field(default_factory=Habit)

    def got_job(self) -> bool:
        """A job has come; return whether to sleep now: if there are more, the server says so at once."""
        self.asked -= 1
        self.jobs += 1
        self.idle_since = None
        if self.tries:
            self.habit.paid()
            self.tries = 0
            self.empty = True
            self.asleep = not self.asked
            return self.asleep
        self.empty = False
        if self.worth_asking:
            self.window = min(WINDOW, 2 * self.window)
        return False

    def got_none(self) -> bool:
        """The server has none; return whether to sleep now."""
        self.asked -= 1
        self.window, self.empty = 1, True
        if self.asked:
            return False
        if self.tries > 1:
            self.tries -= 1
            self.empty = False
            return False
        if self.tries:
            self.tries = 0
            self.habit.was_in_vain()
        self.asleep = True
        return True

    def was_woken(self, now: float) -> None:
        """The server has something again.

        Args:
            now: the monotonic clock's time.
        """
        if self.idle_since is not None:
            self.habit.slept(now - self.idle_since < NEAR)
        self.idle_since = None
        self.asleep = self.empty = False
        self.window = 2

    def is_idle(self, now: float) -> bool:
        """The node has nothing left to do; return whether to ask before the server wakes it.

        Args:
            now: the monotonic clock's time.
        """
        single, self.jobs = self.jobs == 1, 0
        self.idle_since = now if single else None
        if not (single and self.asleep and self.habit.pays):
            return False
        self.tries = TRIES
        self.asleep = self.empty = False
        self.window = 1
        return True

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

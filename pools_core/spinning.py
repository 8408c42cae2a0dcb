"""Waits for what is likely to come at once, without falling asleep over it.

To be woken takes 20 to 50 us where the other side is on another core, and both sides of a line sleep by
turns: that is more than all else that a small task costs.  So whoever waited for a moment only the last time
looks again and again for a moment before it sleeps.  Between two looks it offers its core to everybody else
(sched_yield(2)).  To look for about as long as it takes to sleep and be woken is at worst twice as dear as to
know beforehand which is better: A. R. Karlin, K. Li, M. S. Manasse and S. Owicki, "Empirical studies of
competitive spinning for a shared-memory multiprocessor", SOSP 1991.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic

from pools_core.hints import TYPE_CHECKING

if TYPE_CHECKING:
    import selectors
    from typing import Final, TypeVar

    T = TypeVar("T")

__all__ = ["NEAR", "SPIN", "Habit", "Spinner"]

SPIN: Final = 100e-6
"""Seconds to look, within one machine: about what it takes both sides to fall asleep and to be woken."""

NEAR: Final = 3
"""Times that a wait may take, with being woken, after which the next is taken to be short."""

MOST_MISSED: Final = 6
"""Times in a row that looking was in vain, after which its rests grow no longer."""

_give_way: Callable[[], None] | None = getattr(os, "sched_yield", None)


class Habit:
    """Remembers whether to stay awake for what comes next has paid.

    It is worth trying after a wait that was short.  What was in vain is not tried again before twice as many
    short waits as the time before, so what never pays costs next to nothing.
    """

    __slots__ = ("_missed", "_near", "_rests")

    def __init__(self) -> None:
        self._near = False
        self._missed = 0
        self._rests = 0

    @property
    def pays(self) -> bool:
        """Whether to try."""
        return self._near and self._rests <= 0

    def paid(self) -> None:
        """It was tried, and something came."""
        self._missed = 0

    def was_in_vain(self) -> None:
        """It was tried, and nothing came."""
        self._missed = min(self._missed + 1, MOST_MISSED)
        self._rests = 1 << self._missed

    def slept(self, shortly: bool) -> None:
        """It was not tried, or in vain, and something came: in so short a time that to try is worth it?"""
        self._near = shortly
        self._rests -= shortly


class Spinner:
    """Decides how one thread waits, by how long it waited before.

    Args:
        most: seconds to look before sleeping; 0: sleep at once.
        clock: returns seconds.
    """

    def __init__(self, most: float = SPIN, clock: Callable[[], float] = monotonic) -> None:
        self.most = most
        self._clock = clock
        self._habit = Habit()
        self._cpus: int | None = None

    def wait(self, look: Callable[[], T | None], sleep: Callable[[], T]) -> T:
        """Return what has come.

        Args:
            look: returns it, or None if there is nothing yet.
            sleep: returns it when it is there.
        """
        if not self.most:
            return sleep()
        began = self._clock()
        if self._habit.pays:
            found = self._spin(look, began + self.most)
            if found is not None:
                self._habit.paid()
                return found
            self._habit.was_in_vain()
        found = sleep()
        self._habit.slept(self._clock() - began < NEAR * self.most)
        return found

    def select(
        self, selector: selectors.BaseSelector, timeout: float | None, out: int
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for files, as ``selector.select(timeout)`` does.

        Args:
            selector: what to wait on.
            timeout: seconds; None for no limit.
            out: how many chunks are under way.  With one for each CPU, or with a single CPU, whoever looks
                would take it from them; and with many something is always coming, and none waits for this.
        """
        if (timeout is not None and timeout < self.most) or not self._spares_cpu(out):
            return selector.select(timeout)
        return self.wait(lambda: selector.select(0) or None, lambda: selector.select(timeout))

    def _spares_cpu(self, out: int) -> bool:
        if self._cpus is None:
            from pools_core.cpus import affinity  # a spawned worker need not import it, and calls no select

            self._cpus = affinity()
        return max(1, out) < self._cpus

    def _spin(self, look: Callable[[], T | None], end: float) -> T | None:
        while True:
            found = look()
            if found is not None or _give_way is None or self._clock() > end:
                return found
            _give_way()

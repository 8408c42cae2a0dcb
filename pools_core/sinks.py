"""Where the results of a map are put, by kind of delivery.

Results come in parts, each a run of consecutive tasks, in any order of parts.  A sink puts them where
they belong; an iterating sink also hands them on, part by part.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

__all__ = ["BagSink", "ListSink", "OrderedParts", "Part", "Sink", "UnorderedParts"]

Part = tuple[list[Any], bool]
"""Results, and whether ``ToRaise`` objects are among them."""


class Sink(Protocol):
    """Takes results."""

    def put(self, start: int, values: list[Any], some_raise: bool) -> None:
        """Put the results of tasks ``start``, ``start + 1``, ..."""


class ListSink:
    """All results in input order, in one list."""

    def __init__(self) -> None:
        self.value: list[Any] = []

    def put(self, start: int, values: list[Any], some_raise: bool) -> None:
        """Put results where they belong, leaving gaps for those that have not come."""
        whole = self.value
        gap = start - len(whole)
        if gap == 0:
            whole.extend(values)
            return
        if gap > 0:
            whole.extend([None] * gap)
        whole[start : start + len(values)] = values


class BagSink:
    """All results in the order in which they came, in one list."""

    def __init__(self) -> None:
        self.value: list[Any] = []

    def put(self, start: int, values: list[Any], some_raise: bool) -> None:
        """Append results."""
        self.value.extend(values)


class OrderedParts:
    """Hands parts on in input order; those that came early wait."""

    def __init__(self) -> None:
        self._parts: dict[int, Part] = {}
        self._next = 0

    def put(self, start: int, values: list[Any], some_raise: bool) -> None:
        """Keep a part until its turn comes."""
        self._parts[start] = values, some_raise

    def take(self) -> Part | None:
        """Return the part that is next in input order, or None when it has not come yet."""
        part = self._parts.pop(self._next, None)
        if part is not None:
            self._next += len(part[0])
        return part


class UnorderedParts:
    """Hands parts on as they came."""

    def __init__(self) -> None:
        self._parts: deque[Part] = deque()

    def put(self, start: int, values: list[Any], some_raise: bool) -> None:
        """Keep a part."""
        self._parts.append((values, some_raise))

    def take(self) -> Part | None:
        """Return the oldest part, or None when there is none."""
        return self._parts.popleft() if self._parts else None

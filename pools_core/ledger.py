"""Results that have not left their worker yet, in memory that outlives it.

Very short tasks are not worth a message each.  Where every task is to run exactly once all the same, what
each returned is written here before the next one starts; should the worker die, whoever shares the memory
finds it.  Only plain values are kept so (``payload.PLAIN``); anything else leaves at once.

    head     chunk · offset of the first result · how many results     three integers of 8 bytes
    results  length, 4 bytes · marshalled value                        one after the other

The count is written last and is one aligned store, so that a death in the midst of writing leaves no
half of a result behind.
"""

from __future__ import annotations

import marshal

from pools_core.hints import TYPE_CHECKING
from pools_core.payload import MARSHAL_VERSION

if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["LEDGER_BYTES", "Ledger", "unsent"]

LEDGER_BYTES: Final = 64 * 1024
"""Enough for a millisecond's worth of small results; when it is full, they leave sooner."""

_CHUNK, _FIRST, _COUNT = range(3)
_HEAD: Final = 24
_LENGTH: Final = 4


class Ledger:
    """The worker's side.

    Args:
        memory: ``LEDGER_BYTES`` bytes, shared with whoever may want to know.
    """

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._head = memory[:_HEAD].cast("q")
        self._end = _HEAD

    def begin(self, chunk: int) -> None:
        """Be about another chunk from now on."""
        self._head[_COUNT] = 0
        self._head[_CHUNK] = chunk
        self.sent(0)

    def note(self, value: Any) -> bool:
        """Write down what the next task returned, a plain value; return False if there is no room for it."""
        data = marshal.dumps(value, MARSHAL_VERSION)
        start = self._end + _LENGTH
        end = start + len(data)
        if end > len(self._memory):
            return False
        self._memory[self._end : start] = len(data).to_bytes(_LENGTH, "little")
        self._memory[start:end] = data
        self._end = end
        self._head[_COUNT] += 1
        return True

    def sent(self, first: int) -> None:
        """Everything before the task at this offset has left."""
        self._head[_COUNT] = 0
        self._head[_FIRST] = first
        self._end = _HEAD


def unsent(memory: memoryview, chunk: int, received: int) -> list[Any]:
    """Return what a worker that died had not sent.

    Args:
        memory: what it wrote to.
        chunk: id of the chunk that it was at.
        received: how many results of this chunk have arrived.

    Returns:
        The results of the tasks from that offset on; empty if there are none.
    """
    head = memory[:_HEAD].cast("q")
    if head[_CHUNK] != chunk:
        return []
    first, count = head[_FIRST], head[_COUNT]
    values: list[Any] = []
    start = _HEAD
    for _ in range(count):
        end = start + _LENGTH + int.from_bytes(memory[start : start + _LENGTH], "little")
        values.append(marshal.loads(memory[start + _LENGTH : end]))
        start = end
    return values[max(0, received - first) :]

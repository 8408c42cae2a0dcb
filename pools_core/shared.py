"""An object that every worker of a pool is given once (``shared_objects``).

Under fork a worker has it already, in memory that it shares with its parent until either writes.
Any other worker is sent it, packed when the first one needs it.
"""

from __future__ import annotations

import itertools
import weakref

from pools_core.calls import Hold, Packed
from pools_core.hints import TYPE_CHECKING
from pools_core.payload import pack, unpack

if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["SharedObject", "inheritable", "inherited"]

_ids: Final = itertools.count(1)
_known: Final[weakref.WeakValueDictionary[int, SharedObject]] = weakref.WeakValueDictionary()


class SharedObject:
    """An object to share, in the caller or in a worker.

    Args:
        value: the object.
    """

    def __init__(self, value: Any) -> None:
        self.id = next(_ids)
        """Unique in this process and those forked from it so far."""
        self._value = value
        self._packed: Packed | None = None
        _known[self.id] = self

    @classmethod
    def received(cls, packed: Packed) -> SharedObject:
        """Return one that came packed, and is opened when it is asked for."""
        made = cls(None)
        made._packed = packed
        return made

    def packed(self, hold: Hold | None = None) -> Packed:
        """Return it packed; the same bytes each time.

        Args:
            hold: where large buffers go.

        Raises:
            SerializationError: it cannot be pickled.
        """
        if self._packed is None:
            self._packed = pack(self._value, "the shared object", keep=hold is not None, hold=hold)
        return self._packed

    def value(self) -> Any:
        """Return the object; raises whatever unpickling it raises."""
        if self._value is None and self._packed is not None:
            self._value = unpack(self._packed)
            self._packed = None
        return self._value


def inheritable() -> frozenset[int]:
    """Return the ids of those that a process forked now will have."""
    return frozenset(_known)


def inherited(number: int) -> SharedObject:
    """Return one by its id, in a process that was forked after it was made.

    Raises:
        KeyError: it was not there.
    """
    return _known[number]

"""Shared objects for workers that are not forked, with the locks and values of ``multiprocessing`` in them.

Those refuse to be pickled unless a process is just being started.  To hand them to our workers they are told
that one is: each worker is a process of ours, wherever the bytes go first.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pickle
from collections.abc import Iterator
from multiprocessing import context
from multiprocessing.reduction import ForkingPickler
from typing import Any

__all__ = ["HandedOver"]


class HandedOver:
    """Stands for an object while it is pickled; what is unpickled is the object itself.

    Args:
        value: the object.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        # Buffers stay out of the pickle here, too: whoever pickles this may carry them by other means.
        buffers: list[pickle.PickleBuffer] = []
        with _as_if_starting():
            try:
                data = _by_reference(self._value, buffers)
            except (pickle.PicklingError, AttributeError, TypeError):
                buffers.clear()
                data = _by_value(self._value, buffers)
        return _received, (data, buffers)


def _by_reference(value: Any, buffers: list[pickle.PickleBuffer]) -> bytes:
    file = io.BytesIO()
    ForkingPickler(file, 5, True, buffers.append).dump(value)
    return file.getvalue()


def _by_value(value: Any, buffers: list[pickle.PickleBuffer]) -> bytes:
    """Pickle what has code in it, too: lambdas, classes of the main script."""
    import cloudpickle

    file = io.BytesIO()
    pickler = cloudpickle.Pickler(file, 5, buffers.append)
    reducers: Any = ForkingPickler
    pickler.dispatch_table = {**pickler.dispatch_table, **reducers._extra_reducers}  # noqa: SLF001  there is no other way to them
    pickler.dump(value)
    return file.getvalue()


def _received(data: bytes, buffers: list[Any]) -> Any:
    return pickle.loads(data, buffers=buffers)


class _Descriptor:
    """A descriptor of another process, which lives longer than whoever unpickles this."""

    def __init__(self, number: int) -> None:
        self._path = f"/proc/{os.getpid()}/fd/{number}"  # proc(5): opens the same file, also a deleted one
        self._mode = fcntl.fcntl(number, fcntl.F_GETFL) & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)

    def detach(self) -> int:
        """Return a descriptor of this process for the same file."""
        return os.open(self._path, self._mode)


class _Heir:
    """What ``multiprocessing`` takes for the process that is being started."""

    def duplicate_for_child(self, descriptor: int) -> int:
        """Return it as it is: it is opened from the other side."""
        return descriptor

    def DupFd(self, descriptor: int) -> _Descriptor:  # noqa: N802  multiprocessing calls it so
        """Return what travels in its place."""
        return _Descriptor(descriptor)


@contextlib.contextmanager
def _as_if_starting() -> Iterator[None]:
    """Have ``multiprocessing`` believe that this thread is starting a process."""
    spawning: Any = context  # these names are not in the type stubs
    before = spawning.get_spawning_popen()
    spawning.set_spawning_popen(_Heir())
    try:
        yield
    finally:
        spawning.set_spawning_popen(before)

"""The calls that a node knows, so that a function crosses the network once."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pools_core.calls import Call, Packed
from pools_gearman.bodies import plain
from pools_gearman.packed import open_call
from pools_gearman.sessions import KnownSession
from pools_gearman.wire import RunJob

__all__ = ["CallCache", "KnownCall"]

MOST: Final = 256
"""Calls that are remembered, beside those of chunks that are there."""

MOST_BYTES: Final = 256 << 20
"""Bytes that they may take together."""


@dataclass(slots=True, eq=False)
class KnownCall:
    """A call of some client.

    Attributes:
        sent: as the client knows it.
        local: the same under numbers of this node's.
        session: what it needs first.
        levels: what its caller logs.
        nbytes: its size.
        uses: how many chunks of it are here.
    """

    sent: Call
    local: Call
    session: KnownSession | None
    levels: Any
    nbytes: int
    uses: int = 0


class CallCache:
    """Finds calls by client and digest; forgets those not used for longest.

    Args:
        forget: called with a call that is forgotten.
    """

    def __init__(self, forget: Callable[[Call], None]) -> None:
        self._forget = forget
        self._ids = itertools.count(1)
        self._known: OrderedDict[tuple[bytes, bytes], KnownCall] = OrderedDict()
        self._nbytes = 0

    def find(self, client: bytes, job: RunJob, session: KnownSession | None) -> KnownCall | None:
        """Return a job's call; None if it is not known and was not sent along.

        Args:
            client: whose it is.
            job: the job, or what brings its call.
            session: the job's session, which is known.
        """
        key = (client, job.digest)
        known = self._known.get(key)
        if known is None:
            if not job.call:
                return None
            call, levels = open_call(job.call, None if session is None else session.sent)
            call = _copied(call)
            nbytes = call.function.nbytes if isinstance(call.function, Packed) else 0
            local = call._replace(id=next(self._ids), session=None if session is None else session.local)
            known = self._known[key] = KnownCall(call, local, session, levels, nbytes)
            self._nbytes += nbytes
            self._shrink(key)
        self._known.move_to_end(key)
        return known

    def _shrink(self, newest: tuple[bytes, bytes]) -> None:
        while len(self._known) > MOST or self._nbytes > MOST_BYTES:
            oldest = next((key for key, known in self._known.items() if not known.uses), newest)
            if oldest == newest:
                break
            known = self._known.pop(oldest)
            self._nbytes -= known.nbytes
            self._forget(known.local)


def _copied(call: Call) -> Call:
    """Return a call that does not refer to the packet that it came in."""
    function = call.function
    assert isinstance(function, Packed)
    data = Packed(bytes(function.data), [bytes(buffer) for buffer in plain(function.buffers)])
    return call._replace(function=data)

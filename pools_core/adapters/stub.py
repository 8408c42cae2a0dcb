"""What a pool becomes when it is pickled.

Objects that hold a pool are pickled all the time: a sampler is saved to disk, or travels with its method
to a worker.  Most of them never use the pool over there.  So it is no error to pickle one; using what
arrives is, and that error says what happened.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pools_core.errors import PoolClosedError

if TYPE_CHECKING:
    from pools_core.pool import Pool

__all__ = ["PoolStub", "address_of"]

USES: Final = frozenset(
    {
        "apply",
        "apply_async",
        "configure",
        "detach_engine",
        "executor",
        "get_exit_results",
        "imap",
        "imap_unordered",
        "insights",
        "is_master",
        "is_worker",
        "map",
        "map_async",
        "map_unordered",
        "starmap",
        "starmap_async",
        "submit",
        "wait",
    }
)
"""What only a live pool can do."""


def address_of(pool: Pool) -> tuple[str, int, int, str]:
    """Return the arguments for the stub of a pool."""
    return pool.backend, pool.size, os.getpid(), socket.gethostname()


@dataclass(frozen=True)
class PoolStub:
    """Stands for a pool that lives in another process.

    It can be looked at, ended, copied and pickled again, all without effect.

    Attributes:
        backend: the pool's backend.
        size: the pool's size, when it was pickled.
        pid: the process that it lives in.
        host: and that process's machine.
    """

    backend: str
    size: int
    pid: int
    host: str
    state = "elsewhere"

    @property
    def _processes(self) -> int:
        return self.size

    @property
    def _max_workers(self) -> int:
        return self.size

    def close(self) -> None:
        """Do nothing: whoever made the pool ends it."""

    def join(self, timeout: float | None = None) -> bool:
        """Do nothing, whatever the ``timeout``."""
        return True

    stop_and_join = terminate = close

    def __enter__(self) -> NoReturn:
        self._explain("a with block")

    def __exit__(self, *exc_info: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pickle and others ask, also before there is anything to tell
            raise AttributeError(name)
        if name in USES:
            return partial(self._explain, f"{name}()")
        raise AttributeError(f"{self._text()} has no attribute {name!r}")

    def _explain(self, use: str, /, *args: object, **kwds: object) -> NoReturn:
        raise PoolClosedError(
            f"{use} of {self._text()}: a pool does not travel. It was pickled together with an object that "
            "refers to it. Use it in the process that made it; elsewhere make one there, with MakePool()"
        )

    def _text(self) -> str:
        return f"a stub of the {self.backend} pool in process {self.pid} on {self.host}"

"""The pool of the gearman backend."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pools_core.config import settings
from pools_core.options import CallOptions, CallSettings
from pools_core.pool import Pool
from pools_gearman.engine import GearmanEngine
from pools_gearman.settings import GearmanSettings

__all__ = ["GearmanPool"]


class GearmanPool(Pool):
    """A pool over a cluster; see ``pools_core.Pool``.

    Args:
        job_servers: addresses like ``"head1:4730"``; default ``127.0.0.1:4730``.
        namespace: clusters with different ones do not see each other.
        secret_file: the key that all parties share, mode 0600.
        options: the others of ``GearmanSettings``.

    Raises:
        SecurityError: there is no key where one is needed, or others can read it.
        TransportError: no job server can be reached within ``connect_timeout``.
        UnsupportedOptionError: an option that only other backends have.
        TypeError, ValueError: an option that no backend has, or that has a bad value.
    """

    def __init__(
        self,
        job_servers: str | Sequence[str] | None = None,
        *,
        namespace: str | None = None,
        secret_file: str | Path | None = None,
        **options: Any,
    ) -> None:
        given = {"job_servers": job_servers, "namespace": namespace, "secret_file": secret_file, **options}
        chosen = settings(GearmanSettings, "gearman", {}, given)
        self._chunksize = chosen.chunksize
        self._max_retries = chosen.max_retries
        made = itertools.count()
        # Only the first waits for a server; one that replaces it after Ctrl-C need not.
        super().__init__(lambda: GearmanEngine(chosen, wait=next(made) == 0), "gearman", chosen)

    def _settings(self, options: CallOptions, chunksize: float | None) -> CallSettings:
        read = super()._settings(options, chunksize)
        own: dict[str, Any] = {}
        if self._max_retries and "max_retries" not in options:
            own["max_retries"] = self._max_retries
        if self._chunksize is not None and read.chunk_size is None and read.n_splits is None:
            own["chunk_size"] = self._chunksize
        return dataclasses.replace(read, **own) if own else read

"""A job server for as long as something else runs: what ``pools gearman up`` needs beside a node."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Final

from pools_core.errors import TransportError
from pools_gearman.settings import Address, GearmanSettings

__all__ = ["job_server"]

log: Final = logging.getLogger("pools_gearman")

PATIENCE: Final = 10.0
"""Seconds that a job server has to start."""

GRACE: Final = 2.0
"""Seconds that it has to end; it holds nothing that would be lost."""


@contextlib.contextmanager
def job_server(settings: GearmanSettings, config: str | None) -> Iterator[None]:
    """Run a job server while the body runs, unless one is there already.

    Args:
        settings: the first of its job servers is the one to run.
        config: handed on to the broker.

    Raises:
        TransportError: it does not start, or its address is not on this machine.
    """
    address = settings.addresses[0]
    if _answers(address):
        log.info("a job server is there already on %s", address)
        yield
        return
    if not address.is_loopback:
        raise TransportError(f"{address} is not on this machine and does not answer; run a broker there")
    command = [sys.executable, "-P", "-m", "pools_core", "gearman", "broker", "--listen", str(address)]
    if config is not None:
        command += ["-c", config]
    server = subprocess.Popen(  # noqa: S603  our own command
        command,
        start_new_session=True,
        preexec_fn=_end_with_parent,  # noqa: PLW1509  no thread runs yet
    )
    try:
        _wait_for(server, address)
        yield
    finally:
        server.terminate()
        try:
            server.wait(GRACE)
        except subprocess.TimeoutExpired:  # gearmand 1.1.20 sometimes hangs in its own end
            server.kill()
            server.wait()


def _end_with_parent() -> None:
    """In the child: be ended when the parent dies, in whatever way (Linux, prctl(2))."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _wait_for(server: subprocess.Popen[bytes], address: Address) -> None:
    deadline = monotonic() + PATIENCE
    while not _answers(address):
        try:
            # Nobody tells when it listens; its end, however, is told.
            status = server.wait(0.05)
        except subprocess.TimeoutExpired:
            status = None
        if status is not None or monotonic() > deadline:
            raise TransportError(f"the job server on {address} does not start; see what it says above")


def _answers(address: Address) -> bool:
    try:
        with socket.create_connection((address.host, address.port), timeout=PATIENCE):
            return True
    except OSError:
        return False

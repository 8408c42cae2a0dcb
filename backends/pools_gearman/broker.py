"""A job server: ``gearmand`` where it is installed, else the pure-Python one of ``gear``.

gearmand's facts (its ``--help`` and source, 1.1.20): a job whose worker is lost is given to another, and
after ``--job-retries`` losses its client is told; 0 means without end.  Here it is 1: the client is told
at once, counts, and sends again what is missing of the job.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import struct
import threading
from typing import Any, Final

from pools_core.errors import TransportError
from pools_gearman.settings import Address, BrokerSettings

__all__ = ["find_gearmand", "gearmand_command", "run_broker"]

log: Final = logging.getLogger("pools_gearman")

PLACES: Final = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
"""Where packages put it and a user's PATH may not reach."""

RECEIVE: Final = 1 << 20
"""Bytes that gear's server reads at once; its own 4096 make large packets quadratically slow."""


def find_gearmand() -> str | None:
    """Return the path of gearmand, or None."""
    return shutil.which("gearmand") or shutil.which("gearmand", path=os.pathsep.join(PLACES))


def gearmand_command(path: str, settings: BrokerSettings) -> list[str]:
    """Return the command that runs gearmand in the foreground."""
    address = Address.parse(settings.listen)
    return [
        path,
        f"--listen={address.host}",
        f"--port={address.port}",
        "--job-retries=1",
        f"--threads={settings.threads}",
        "--keepalive",
        "--log-file=stderr",
        "--verbose=ERROR",
        f"--pid-file={_pid_file(address)}",
    ]


def _pid_file(address: Address) -> str:
    """Return a path that this user may write: gearmand insists on a file."""
    import platformdirs

    folder = platformdirs.user_cache_path("pools", appauthor=False)
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / f"gearmand-{address.port}.pid")


def run_broker(settings: BrokerSettings) -> int:
    """Be a job server until a signal says to stop; return the exit status.

    With gearmand this process becomes it, and does not return.

    Raises:
        TransportError: gearmand is asked for and not installed, or the address cannot be had.
    """
    path = None if settings.server == "gear" else find_gearmand()
    if path is not None:
        command = gearmand_command(path, settings)
        print(f"gearmand listens on {settings.listen}", flush=True)  # noqa: T201  the command's one line
        os.execv(path, command)  # noqa: S606  no shell is the point
    if settings.server == "gearmand":
        raise TransportError("gearmand is not installed; on Debian: apt install gearman-job-server")
    if settings.server == "auto":
        log.warning(
            "gearmand is not installed (on Debian: apt install gearman-job-server); the job server of gear "
            "stands in for it: good for trials, not for large data or many nodes"
        )
    return _run_gear(Address.parse(settings.listen))


def _run_gear(address: Address) -> int:
    import gear

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    gear.ServerConnection = _connection_class(gear)
    logging.getLogger("gear").setLevel(logging.CRITICAL)  # it logs every packet, and who sent it garbage
    try:
        server = gear.Server(address.port, host=address.host, keepalive=True, tcp_keepidle=10)
    except Exception as error:  # it raises a plain one
        raise TransportError(f"{address} cannot be listened on: {error}") from error
    print(f"gear listens on {address.host}:{server.port}", flush=True)  # noqa: T201  the command's one line
    stop.wait()
    server.shutdown()
    return 0


def _connection_class(gear: Any) -> Any:
    """Return gear's connection with two flaws mended: slow large packets, and a size below zero."""

    class Connection(gear.ServerConnection):  # type: ignore[misc]  # gear has no types
        def _readRawBytes(self, count: int) -> bytes:  # noqa: N802  gear's name
            data: bytes = super()._readRawBytes(max(count, RECEIVE))
            return data

        def readPacket(self) -> Any:  # noqa: N802  gear's name
            head = self.input_buffer[:12]
            if len(head) == 12 and head[0] == 0 and struct.unpack("!i", head[8:])[0] < 0:
                raise gear.DisconnectError  # it would loop for ever over such a packet
            return super().readPacket()

    return Connection

"""A job server, and the care for the connection to it: made again when it is lost.

    Link.run:   connect ─▶ hello ─▶ (up) ─▶ packets, lines ... ─▶ lost (down) ─▶ wait ─▶ connect again

Everything here runs in one asyncio loop; nothing is called from another thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from pools_core.errors import SecurityError, TransportError
from pools_gearman.connection import Connection
from pools_gearman.packets import Packet
from pools_gearman.settings import Address, GearmanSettings

__all__ = ["Link", "close_all", "end_links", "tls_context"]

log: Final = logging.getLogger("pools_gearman")

FIRST_WAIT: Final = 0.05
"""Seconds before the first attempt to connect again; each failure doubles it."""

LONGEST_WAIT: Final = 5.0
"""Seconds between attempts at the most."""

FAREWELL: Final = 1.0
"""Seconds that a server has to close its end of a connection."""


def tls_context(settings: GearmanSettings) -> ssl.SSLContext | None:
    """Return how to talk TLS; None to talk plainly.

    Raises:
        SecurityError: a certificate or key cannot be read.
    """
    if not settings.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=None if settings.tls_ca is None else str(settings.tls_ca))
        if settings.tls_cert is not None:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise SecurityError(
            f"tls_ca, tls_cert or tls_key cannot be used: {error}; they name files in PEM format"
        ) from error
    return context


class Link:
    """A job server, and the connection to it, made again whenever it is lost.

    Args:
        address: where the server listens.
        settings: how patient to be, and how large packets may be.
        tls: how to talk TLS; None to talk plainly.
        receive: called with this link and the packets that came together.
        up: called with this link when it is connected; returns the connection's id.
        down: called with this link when the connection is lost.
        quiet: say nothing when it is lost.
    """

    def __init__(
        self,
        address: Address,
        settings: GearmanSettings,
        tls: ssl.SSLContext | None,
        *,
        receive: Callable[[Link, list[Packet]], None],
        up: Callable[[Link], None],
        down: Callable[[Link], None],
        quiet: bool = False,
    ) -> None:
        self.address = address
        self.connection: Connection | None = None
        """The connection, while it is up."""
        self.error: str | None = None
        """Why the last attempt failed."""
        self.tried: asyncio.Event = asyncio.Event()
        """Set once the first attempt has ended, well or not."""
        self.state: Any = None
        """For whoever uses it; None again whenever the connection is lost."""
        self._settings = settings
        self._tls = tls
        self._receive = receive
        self._up = up
        self._down = down
        self.quiet = quiet
        """Whether to say nothing when it is lost."""
        self._said = False
        self._last: Connection | None = None
        self._aborted = False

    def __repr__(self) -> str:
        return f"<Link {self.address} {'up' if self.connection is not None else 'down'}>"

    async def run(self) -> None:
        """Keep the connection until cancelled."""
        wait = FIRST_WAIT
        while True:
            try:
                connection = await self._connect()
            except TransportError as error:
                self.error = str(error)
                self.tried.set()
                self._tell(str(error))
            else:
                wait = FIRST_WAIT
                await self._serve(connection)
            # Not a wait for something that could be waited for: nobody tells when a server is back.
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, LONGEST_WAIT)

    async def closed(self) -> None:
        """Wait until the connection that there was is closed; with TLS the other side has to agree."""
        if self._last is not None:
            done, _ = await asyncio.wait([self._last.lost], timeout=FAREWELL)
            if not done:
                self._last.abort()

    async def _serve(self, connection: Connection) -> None:
        self.connection, self.error = connection, None
        if self._said:
            self._said = False
            log.warning("job server %s is back", self.address)
        try:
            self._up(self)
            self.tried.set()
            error = await asyncio.shield(connection.lost)
        finally:
            self._last = connection
            connection.close()
            self.connection = None
            self._down(self)
            self.state = None
        self.error = f"{self.address}: the connection was lost{f' ({error})' if error else ''}"
        if not self._aborted:
            self._tell(self.error)
        self._aborted = False

    def abort(self) -> None:
        """Give up the connection, on purpose; another is made."""
        if self.connection is not None:
            self._aborted = True
            self.connection.abort()

    def tell(self) -> None:
        """Say so if the server is away, now and from now on."""
        self.quiet = False
        if self.error is not None:
            self._tell(self.error)

    def _tell(self, what: str) -> None:
        """Say once per outage that the server is away."""
        if not self._said and not self.quiet:
            self._said = True
            log.warning("job server away: %s; trying again", what)

    async def _connect(self) -> Connection:
        """Connect, and see that the other side is a job server.

        Raises:
            TransportError: it is not, or cannot be reached.
        """
        timeout = self._settings.connect_timeout
        connection: Connection | None = None
        try:
            async with asyncio.timeout(timeout):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._settings.max_frame_bytes, lambda p: self._receive(self, p)),
                    self.address.host,
                    self.address.port,
                    ssl=self._tls,
                )
                await connection.ask("workers", many=True)
        except (OSError, TimeoutError, ssl.SSLError, TransportError) as error:
            if connection is not None:
                connection.abort()
            raise TransportError(f"{self.address}: {self._diagnose(error, connection, timeout)}") from error
        except BaseException:
            if connection is not None:
                connection.abort()
            raise
        return connection

    def _diagnose(self, error: Exception, connection: Connection | None, timeout: float) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate was not accepted: {error.verify_message}; check tls_ca"
        if isinstance(error, ssl.SSLError):
            return f"TLS failed ({error.reason or error}); does that server speak TLS?"
        if self._tls is not None and isinstance(error, TimeoutError | ConnectionError) and connection is None:
            if isinstance(error, ConnectionRefusedError):
                return "connection refused"
            return f"no TLS answer within {timeout:g} s; does that server speak TLS?"
        if self._tls is not None and connection is not None and connection.lost.done():
            # With TLS 1.3 a server says what it thinks of our certificate only after the handshake.
            ended = connection.lost.result()
            why = "" if ended is None else f" ({getattr(ended, 'reason', None) or ended})"
            return f"it ended the connection once TLS stood{why}; if it asks for a certificate, set tls_cert"
        if connection is not None:
            return "it does not answer as a job server does" + (
                "" if self._tls is not None else "; if it speaks TLS, set tls = true"
            )
        if isinstance(error, TimeoutError):
            return f"no answer within {timeout:g} s"
        return getattr(error, "strerror", None) or str(error)


async def end_links(links: Sequence[Link], tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, among them those of links, and wait until the links' connections are closed."""
    await close_all(tasks)
    await asyncio.gather(*(link.closed() for link in links))
    await asyncio.sleep(0)  # transports close in the next turn of the loop


async def close_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end."""
    doomed = list(tasks)
    for task in doomed:
        task.cancel()
    for task in doomed:
        with contextlib.suppress(asyncio.CancelledError):
            await task

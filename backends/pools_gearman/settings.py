"""The options of the gearman backend: of a pool, of a node, of a job server.

    [gearman]          both ends: which job servers, which secret, how patient
    [gearman.worker]   a node: which local pool runs its tasks
    [gearman.server]   a job server that ``pools gearman broker`` runs

A ``[client]`` section as Glimpse had it stands for ``[gearman]`` where that does not say otherwise.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pools_core.config import Config, ConfigSource, load, settings, whole_number
from pools_core.errors import SecurityError
from pools_core.pool_options import PoolSettings

__all__ = [
    "Address",
    "BrokerSettings",
    "GearmanSettings",
    "NodeSettings",
    "check_security",
    "read_broker_settings",
    "read_node_settings",
    "read_settings",
]

DEFAULT_PORT: Final = 4730
"""Registered with IANA for Gearman."""

NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
"""What names may be: they are part of function names and client ids, which job servers bound."""

FROM_GLIMPSE: Final = {
    "job_server_url": "job_servers",
    "chunksize": "chunksize",
    "max_retries": "max_retries",
    "poll_timeout": "poll_timeout",
}
"""Keys of Glimpse's ``[client]`` and what they are called here."""


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a job server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host``, ``host:port``, ``[ipv6]:port``; a scheme before it is ignored.

        Raises:
            ValueError: it is none of these.
        """
        found = re.fullmatch(r"(?:\w+://)?(?:\[([^\]]+)\]|([^:/\[\]\s]+))(?::(\d{1,5}))?/?", text.strip())
        port = int(found[3]) if found is not None and found[3] else DEFAULT_PORT
        if found is None or not 0 <= port < 65536:
            raise ValueError(f"job_servers are like head1:4730 or [::1]:4730, not {text.strip()!r}")
        return cls(found[1] or found[2], port)

    @property
    def is_loopback(self) -> bool:
        """Whether only processes on this machine can be at the other end."""
        import ipaddress

        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GearmanSettings(PoolSettings):
    """What both ends of a cluster can be told; and what any pool can.

    Attributes:
        job_servers: addresses, ``host:port``; they share the load and stand in for one another.
        namespace: clusters with different ones do not see each other on the same job servers.
        secret_file: the key with which all frames are signed; mode 0600.
        allow_unsigned: go without a key, if every job server is on this machine.
        connect_timeout: seconds within which a pool must have reached a job server.
        reconnect_timeout: seconds without any job server after which calls fail.
        node_timeout: seconds without a sign of life from a node after which its work goes elsewhere.
        at_most_once: rather fail a task whose outcome is unknown than run it again.
        max_frame_bytes: the largest frame that is sent or taken in.
        max_frame_age: seconds after which a node refuses a job: it may be a replay.
        tls: talk TLS to the job servers.
        tls_ca: certificates of those who may vouch for a job server; default those of the system.
        tls_cert: this side's certificate.
        tls_key: its key.
        chunksize: default of a call's ``chunksize``.
        max_retries: default of a call's ``max_retries``.
        poll_timeout: of Glimpse; has no effect, since nothing polls.
    """

    job_servers: tuple[str, ...] = (f"127.0.0.1:{DEFAULT_PORT}",)
    namespace: str = "pools"
    secret_file: Path | None = None
    allow_unsigned: bool = False
    connect_timeout: float = 5.0
    reconnect_timeout: float = 60.0
    node_timeout: float = 30.0
    at_most_once: bool = False
    max_frame_bytes: int = 1 << 30
    max_frame_age: float = 300.0
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    chunksize: float | None = None
    max_retries: int = 0
    poll_timeout: float | None = None

    def __post_init__(self) -> None:
        """Check the values, and hold them in one form."""
        self.check_common()
        given: Any = self.job_servers
        servers = (given,) if isinstance(given, str) else tuple(given)
        servers = tuple(part for text in servers for part in str(text).split(",") if part.strip())
        if not servers:
            raise ValueError("job_servers is empty: name at least one, such as 127.0.0.1:4730")
        object.__setattr__(self, "job_servers", tuple(dict.fromkeys(str(Address.parse(s)) for s in servers)))
        _check_name("namespace", self.namespace)
        for name in ("secret_file", "tls_ca", "tls_cert", "tls_key"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, Path(value).expanduser())
        for name in ("allow_unsigned", "at_most_once", "tls"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is True or False, not {getattr(self, name)!r}")
        for name in ("connect_timeout", "reconnect_timeout", "node_timeout", "max_frame_age"):
            _check_seconds(name, getattr(self, name))
        whole_number("max_frame_bytes", self.max_frame_bytes, 1024)
        whole_number("max_retries", self.max_retries, 0)
        if self.chunksize is not None and not self.chunksize >= 1:
            raise ValueError(f"chunksize is at least 1, not {self.chunksize!r}")
        if not self.tls and (self.tls_ca or self.tls_cert or self.tls_key):
            raise ValueError("tls is off, but tls_ca, tls_cert or tls_key is given: set tls = true")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: give both or neither")

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The job servers, parsed."""
        return tuple(Address.parse(text) for text in self.job_servers)


def _default_name() -> str:
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:28] or "node"
    return f"{host}-{os.getpid()}"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What a node can be told.

    Attributes:
        pool: the local backend that runs its tasks; its own config section is read as well.
        n_jobs: how many workers that pool has; default as that backend decides.
        name: the node's name; default host and process id.
        stop_timeout: seconds that running tasks have to finish when the node is told to stop; what is
            not finished by then goes back to the queue.
    """

    pool: str = "multicore"
    n_jobs: int | None = None
    name: str = dataclasses.field(default_factory=_default_name)
    stop_timeout: float = 10.0

    def __post_init__(self) -> None:
        """Check the values."""
        _check_name("name", self.name)
        if self.n_jobs is not None:
            object.__setattr__(self, "n_jobs", whole_number("n_jobs", self.n_jobs, 1))
        if self.pool.rpartition(":")[2] == "gearman":
            raise ValueError("pool is a local backend, such as multicore; a node cannot hand on to a cluster")
        if not self.stop_timeout >= 0:
            raise ValueError(f"stop_timeout is a number of seconds, not {self.stop_timeout!r}")


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """What ``pools gearman broker`` can be told.

    Attributes:
        listen: the address to listen on.
        server: ``gearmand``, ``gear`` (pure Python, for trials), or ``auto``: the first if installed.
        threads: gearmand's I/O threads; several gain little, and queues have got stuck with them
            (gearmand #343).
    """

    listen: str = f"127.0.0.1:{DEFAULT_PORT}"
    server: Literal["auto", "gearmand", "gear"] = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the values."""
        try:
            address = Address.parse(self.listen)
        except ValueError:
            raise ValueError(f"listen is like 0.0.0.0:4730, not {self.listen!r}") from None
        object.__setattr__(self, "listen", str(address))
        if self.server not in ("auto", "gearmand", "gear"):
            raise ValueError(f"server is auto, gearmand or gear, not {self.server!r}")
        whole_number("threads", self.threads, 0)


def read_settings(config: ConfigSource, options: Mapping[str, Any]) -> GearmanSettings:
    """Return what ``[gearman]``, or Glimpse's ``[client]``, and the options in code say.

    Raises:
        ConfigError, UnsupportedOptionError, TypeError, ValueError: see ``pools_core.config.settings``.
    """
    return settings(GearmanSettings, "gearman", _with_glimpse(load(config)), options)


def read_node_settings(config: ConfigSource, options: Mapping[str, Any]) -> NodeSettings:
    """Return what ``[gearman.worker]`` and the options in code say; raises as ``read_settings``."""
    return settings(NodeSettings, "gearman.worker", config, options)


def read_broker_settings(config: ConfigSource, options: Mapping[str, Any]) -> BrokerSettings:
    """Return what ``[gearman.server]`` and the options in code say; raises as ``read_settings``."""
    return settings(BrokerSettings, "gearman.server", config, options)


def check_security(chosen: GearmanSettings) -> None:
    """Refuse to go on without a key, except on one machine and if the user says so.

    Raises:
        SecurityError: nothing would be signed, and somebody else could send pickles.
    """
    if chosen.secret_file is not None:
        return
    away = [str(address) for address in chosen.addresses if not address.is_loopback]
    if away:
        raise SecurityError(
            f"no secret_file is set, and {', '.join(away)} can be reached from elsewhere: whoever reaches it "
            "could run code here; run `pools gearman init` to make a key, and give every node the same one"
        )
    if not chosen.allow_unsigned:
        raise SecurityError(
            "no secret_file is set: any user of this machine could run code here; run `pools gearman init` "
            "to make a key, or set allow_unsigned = true in [gearman]"
        )


def _with_glimpse(read: Config) -> Config:
    """Have Glimpse's ``[client]`` stand in for what ``[gearman]`` does not say."""
    client = read.sections.get("client", {})
    if "job_server_url" not in client:
        return read
    known = {FROM_GLIMPSE[key]: value for key, value in client.items() if key in FROM_GLIMPSE}
    sections = {**read.sections, "gearman": {**known, **read.sections.get("gearman", {})}}
    return dataclasses.replace(read, sections=sections)


def _check_name(option: str, value: Any) -> None:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(f"{option} is 1 to 40 letters, digits, '.', '-' or '_', not {value!r}")


def _check_seconds(option: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ValueError(f"{option} is a positive number of seconds, not {value!r}")

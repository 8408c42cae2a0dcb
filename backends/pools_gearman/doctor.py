"""What ``pools doctor`` tells of a cluster: its key, its job servers, its nodes and their clocks.

    look ──▶ Seen, one for each server   connected, or why not; who is connected there
    ask ───▶ what each node answers      only through servers that were reached

A server that is away, or silent, costs ``connect_timeout`` and no more; all are asked at once.  What was seen
is judged apart from looking, by functions of values.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pools_core.config_files import Config
from pools_core.config_lines import Places
from pools_core.doctor_report import Finding, plain
from pools_core.errors import PoolsError, SecurityError, TransportError
from pools_core.registry import GetClusterPackage, backend_name
from pools_gearman.admin import ask_nodes
from pools_gearman.connection import Connection
from pools_gearman.link import Link, close_all, tls_context
from pools_gearman.settings import (
    FROM_GLIMPSE,
    Address,
    GearmanSettings,
    check_security,
    read_node_settings,
    read_settings,
)
from pools_gearman.signing import read_secret
from pools_gearman.wire import Names

__all__ = ["examine"]

VERSION_PATIENCE: Final = 1.0
"""Seconds for a server to tell its version; gear's, for trials, never does."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A job server as it was seen.

    Attributes:
        address: where it listens.
        error: why it is of no use; None if it answers.
        seconds: how long it took to answer.
        version: what it calls itself; None if it does not say.
        nodes: the nodes that are connected to it, and how many workers each has.
    """

    address: Address
    error: str | None
    seconds: float = 0.0
    version: str | None = None
    nodes: Mapping[str, int] = dataclasses.field(default_factory=dict)


def examine(config: Config) -> Iterator[Finding]:
    """Yield what there is to know of the cluster that a config describes, if it does.

    Blocks until servers and nodes have answered, or had their time.
    """
    if not _is_meant(config):
        return
    yield from _from_glimpse(config)
    yield from _local_pool(config)
    try:
        settings = read_settings(config, {})
    except (PoolsError, TypeError, ValueError):
        return  # told with the options
    keys = list(examine_key(settings))
    yield from keys
    try:
        tls = tls_context(settings)
    except SecurityError as error:
        yield Finding("servers", "transport", "TLS", "tls", "fault", str(error))
        return
    yield Finding("servers", "transport", "TLS" if tls is not None else "plain", "tls")
    seen = asyncio.run(look(settings, tls))
    yield from (judge_server(server) for server in seen)
    if any(server.error is None for server in seen):
        yield from _examine_nodes(settings, seen, may_ask=all(one.state != "fault" for one in keys))


def _is_meant(config: Config) -> bool:
    sections = {section.partition(".")[0] for section in config.sections}
    if "gearman" in sections or "job_server_url" in config.sections.get("client", {}):
        return True
    try:
        return backend_name(None, config).rpartition(":")[2] == "gearman"
    except PoolsError:
        return False


# ── options ──


def _from_glimpse(config: Config) -> Iterator[Finding]:
    """Yield the options that a section of Glimpse's gives, in the place of those of ``[gearman]``."""
    client, places = config.sections.get("client", {}), Places(config)
    if "job_server_url" not in client:
        return
    try:
        settings = read_settings(config, {})
    except (PoolsError, TypeError, ValueError) as error:
        yield Finding("[client]", "options", "cannot be used", config.origin, "fault", str(error))
        return
    for key, option in FROM_GLIMPSE.items():
        if key in client and option not in config.sections.get("gearman", {}):
            yield Finding("[gearman]", option, plain(getattr(settings, option)), places.of("client", key))


def _local_pool(config: Config) -> Iterator[Finding]:
    """Yield a fault if a node could not run its tasks in the pool that the config names."""
    if "gearman.worker" not in config.sections:
        return
    try:
        name = read_node_settings(config, {}).pool
    except (PoolsError, TypeError, ValueError):
        return  # told with the options
    try:
        GetClusterPackage(name)
    except PoolsError as error:
        place = Places(config).of("gearman.worker", "pool")
        yield Finding("[gearman.worker]", "pool", name, place, "fault", str(error))


# ── the key ──


def examine_key(settings: GearmanSettings) -> Iterator[Finding]:
    """Yield how the key is kept and how long it is; never the key."""
    path = settings.secret_file
    try:
        check_security(settings)
        if path is None:
            advice = (
                "any user of this machine could run code in the workers; `pools gearman init` makes a key"
            )
            yield Finding("key", "signatures", "off", "allow_unsigned", "note", advice)
            return
        length = len(read_secret(path))
    except SecurityError as error:
        kept = None if path is None else {"file": str(path), **_mode(path)}
        yield Finding("key", "signatures", kept, "secret_file", "fault", str(error))
    else:
        yield Finding("key", "signatures", {"file": str(path), **_mode(path), "bytes": length}, "secret_file")


def _mode(path: Path) -> dict[str, str]:
    try:
        return {"mode": f"{stat.S_IMODE(path.stat().st_mode):04o}"}
    except OSError:
        return {}


# ── servers ──


async def look(settings: GearmanSettings, tls: ssl.SSLContext | None) -> list[Seen]:
    """Connect to all job servers at once, and return how each was found."""
    names = Names(settings.namespace)
    links = [
        Link(
            address,
            settings,
            tls,
            receive=lambda _link, _packets: None,
            up=lambda _link: None,
            down=lambda _link: None,
            quiet=True,
        )
        for address in settings.addresses
    ]
    tasks = [asyncio.create_task(link.run()) for link in links]
    try:
        return await asyncio.gather(*(_look_at(link, names, settings.connect_timeout) for link in links))
    finally:
        await close_all(tasks)
        await asyncio.sleep(0)  # transports close in the next turn of the loop


async def _look_at(link: Link, names: Names, patience: float) -> Seen:
    await link.tried.wait()
    connection = link.connection
    if connection is None:
        return Seen(link.address, link.error or "the connection was lost")
    began = time.perf_counter()
    try:
        async with asyncio.timeout(patience):
            lines = await connection.ask("workers", many=True)
    except TransportError as error:
        return Seen(link.address, str(error))
    except TimeoutError:
        return Seen(link.address, f"it has stopped answering for {patience:g} s")
    seconds = time.perf_counter() - began
    nodes = {node.name: node.slots for node in names.nodes(lines).values()}
    return Seen(
        link.address, None, seconds, await _version(connection, min(patience, VERSION_PATIENCE)), nodes
    )


async def _version(connection: Connection, patience: float) -> str | None:
    try:
        async with asyncio.timeout(patience):
            (line,) = await connection.ask("version", many=False)
    except (TransportError, TimeoutError):
        return None
    return line.removeprefix("OK ").strip()


def judge_server(seen: Seen) -> Finding:
    """Return what is to be said of a server."""
    address = str(seen.address)
    if seen.error is None:
        value = {"version": seen.version or "not told", "answers in": f"{1000 * seen.seconds:.1f} ms"}
        return Finding("servers", address, {**value, "nodes": len(seen.nodes)}, "job_servers")
    why = seen.error.removeprefix(f"{address}: ")
    advice = f"{why}; is one running there (`pools gearman broker`), and no firewall between?"
    return Finding("servers", address, "not reached", "job_servers", "fault", advice)


# ── nodes ──


def _examine_nodes(settings: GearmanSettings, seen: Sequence[Seen], may_ask: bool) -> Iterator[Finding]:
    there = {name: slots for server in seen for name, slots in server.nodes.items()}
    if not there:
        advice = (
            f"no node of namespace {settings.namespace!r} is connected, so calls would wait; start one: "
            "pools gearman worker -c FILE"
        )
        yield Finding("nodes", "connected", [], "job servers", "fault", advice)
        return
    if not may_ask:
        for name, slots in there.items():
            yield Finding("nodes", name, {"workers": slots, "not asked": "there is no key"}, "job servers")
        return
    reached = tuple(str(server.address) for server in seen if server.error is None)
    before = time.time()
    try:
        answers = ask_nodes(dataclasses.replace(settings, job_servers=reached), {"do": "ping"}, None)
    except PoolsError as error:
        yield Finding("nodes", "connected", sorted(there), "job servers", "fault", str(error))
        return
    after = time.time()
    for name, answer in answers.items():
        yield judge_node(name, answer)
        if not isinstance(answer, PoolsError):
            yield judge_clock(name, answer.get("time"), before, after, settings.max_frame_age)


def judge_node(name: str, answer: Any) -> Finding:
    """Return what is to be said of a node.

    Args:
        name: its name.
        answer: to a ping; or the error that came in its place.
    """
    if isinstance(answer, PoolsError):
        return Finding("nodes", name, "no answer", "ping", "fault", str(answer))
    value = {
        key: answer.get(key) for key in ("host", "pid", "pool", "slots", "state", "running", "done", "failed")
    }
    return Finding("nodes", name, value, "ping")


def judge_clock(name: str, told: float | None, before: float, after: float, most: float) -> Finding:
    """Return how far a node's clock differs from ours.

    Args:
        name: the node's.
        told: the time by its clock when it answered; None if it does not say.
        before: the time by ours before it was asked.
        after: likewise when all had answered.
        most: the seconds that a frame may be old.
    """
    what = f"{name}, clock"
    if told is None:
        return Finding("nodes", what, "not known", "ping")
    off = told - before if told < before else max(0.0, told - after)
    value = f"{off:+.1f} s"
    if abs(off) > most:
        advice = f"beyond {most:g} s (max_frame_age) a node refuses our jobs: set both clocks by NTP"
        return Finding("nodes", what, value, "ping", "fault", advice)
    if abs(off) > most / 4:
        advice = f"from {most:g} s on (max_frame_age) it would refuse our jobs: set both clocks by NTP"
        return Finding("nodes", what, value, "ping", "note", advice)
    return Finding("nodes", what, value, "ping")

"""The command ``pools gearman``: set up, run and look after a cluster.

    init                         a config with a fresh secret
    broker, worker, up           a job server, a node, or both on one machine
    status, ping                 what servers and nodes say
    drain, restart, kill         end a node's work in one way or another

Exit status: 0; 1 when a node did not answer; 2 when what was asked makes no sense, with one line on stderr.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pools_core.cli import print_table, run_command
from pools_core.config import load
from pools_core.errors import ConfigError, PoolsError
from pools_gearman.settings import (
    Address,
    BrokerSettings,
    GearmanSettings,
    read_broker_settings,
    read_node_settings,
    read_settings,
)

__all__ = ["main"]

NO_ANSWER = 1

CONFIG = """\
; The same on every machine of the cluster, and so is {key}, which is secret: whoever has it can run
; code on all of them.  Copy both with scp, and keep the key's mode at 0600.
[gearman]
job_servers = {servers}
secret_file = {key}                ; relative to this file

[gearman.server]
listen = {listen}

[gearman.worker]
pool = multicore                   ; a node runs its tasks in this local backend
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_command(gearman, argv, "pools gearman")


@click.group(no_args_is_help=True)
def gearman() -> None:
    """Pools over a cluster of machines, through Gearman job servers."""


config_option = click.option(
    "-c",
    "--config",
    metavar="FILE",
    envvar="POOLS_CONFIG",
    help="The cluster's config; default $POOLS_CONFIG, else the user's pools.ini.",
)
node_option = click.option("--node", metavar="NAME", help="Only this node; default all.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


# ── setting up ──


@gearman.command()
@click.option("-c", "--config", metavar="FILE", default="config.ini", show_default=True)
@click.option("--job-server", "servers", metavar="HOST:PORT", multiple=True, help="Default 127.0.0.1:4730.")
@json_option
def init(config: str, servers: tuple[str, ...], as_json: bool) -> None:
    """Write a config, and beside it a fresh secret; neither may be there yet."""
    path = Path(config)
    key = path.with_name("cluster.key")
    addresses = [_address(server) for server in servers or ("127.0.0.1",)]
    listen = addresses[0] if addresses[0].is_loopback else Address("0.0.0.0", addresses[0].port)  # noqa: S104
    text = CONFIG.format(key=key.name, servers=", ".join(map(str, addresses)), listen=listen)
    for file, content, mode in ((key, secrets.token_hex(32) + "\n", 0o600), (path, text, 0o644)):
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            raise ConfigError(f"{file} is there already; remove it first, or name another with -c") from None
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
        with os.fdopen(handle, "w") as out:
            out.write(content)
    if as_json:
        click.echo(json.dumps({"config": str(path), "secret_file": str(key)}))
    else:
        click.echo(f"wrote {path} and {key}; next: pools gearman up -c {path}")


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@gearman.command()
@config_option
@click.option("--listen", metavar="HOST:PORT", help="Default as configured, or else 127.0.0.1:4730.")
@click.option("--server", type=click.Choice(["auto", "gearmand", "gear"]))
def broker(config: str | None, listen: str | None, server: str | None) -> int:
    """Run a job server: gearmand if it is installed, else gear's, for trials."""
    from pools_gearman.broker import run_broker

    _log_to_stderr()
    return run_broker(_broker_settings(config, listen, server))


def _broker_settings(config: str | None, listen: str | None, server: str | None) -> BrokerSettings:
    return read_broker_settings(_config(config), {"listen": listen, "server": server})


def _worker_options(command: Any) -> Any:
    for option in (
        click.option("--name", metavar="NAME", help="The node's name; default host and process id."),
        click.option("-j", "--jobs", "n_jobs", type=int, metavar="N", help="How many workers."),
        click.option("--pool", metavar="BACKEND", help="The local backend; default as configured."),
    ):
        command = option(command)
    return command


@gearman.command()
@config_option
@_worker_options
def worker(config: str | None, **options: Any) -> int:
    """Run a node: it takes jobs and runs them in a local pool."""
    _log_to_stderr()
    return _be_node(config, options)


@gearman.command()
@config_option
@_worker_options
def up(config: str | None, **options: Any) -> int:
    """Run a job server and a node together, for a trial on one machine."""
    from pools_gearman.trial import job_server

    _log_to_stderr()
    settings = read_settings(_config(config), {})
    with job_server(settings, config):
        return _be_node(config, options)


def _be_node(config: str | None, options: dict[str, Any]) -> int:
    from pools_gearman.worker import run_node

    read = _config(config)
    settings = read_settings(read, {})
    own = read_node_settings(read, options)

    def ready(node: Any) -> None:
        workers = f"{node.slots} worker{'s' if node.slots != 1 else ''}"
        where = ", ".join(settings.job_servers)
        click.echo(
            f"node {own.name} is ready: {workers} ({own.pool}), namespace {settings.namespace}, on {where}"
        )

    return run_node(settings, own, read, ready)


# ── looking ──


@gearman.command()
@config_option
@json_option
def status(config: str | None, as_json: bool) -> None:
    """Show the job servers: what waits, what runs, and which nodes are there."""
    from pools_gearman.admin import look_at_servers

    found = look_at_servers(_settings(config))
    if as_json:
        click.echo(json.dumps(found))
        return
    rows = [
        [
            row["server"],
            "up" if row["up"] else f"down: {row['error']}",
            str(row.get("waiting", "")),
            str(row.get("running", "")),
            ", ".join(f"{name} ({slots})" for name, slots in sorted(row.get("nodes", {}).items())) or "none",
        ]
        for row in found
    ]
    print_table(["server", "state", "jobs waiting", "running", "nodes (workers)"], rows)


@gearman.command()
@config_option
@node_option
@json_option
def ping(config: str | None, node: str | None, as_json: bool) -> int:
    """Show every node and its worker processes."""
    answers = _ask(config, {"do": "ping"}, node)
    if as_json:
        return _print_json(answers)
    rows = []
    for name, answer in answers.items():
        if isinstance(answer, PoolsError):
            rows.append([name, str(answer), *[""] * 9])
            continue
        mean = "" if answer["mean"] is None else f"{1000 * answer['mean']:.3g} ms"
        rows.append(
            [
                name,
                answer["host"],
                str(answer["pid"]),
                answer["state"],
                _when(answer["since"]),
                str(answer["done"]),
                f"{answer['running']} of {answer['slots']}",
                mean,
                _seconds(answer["cpu"]),
                _mib(answer["memory"]),
                f"{answer['load'][0]:.2f}",
            ]
        )
        rows += [
            ["", "", str(w["pid"]), "process", _when(w["since"]), "", "", "", _seconds(w["cpu"]),
             _mib(w["memory"]), ""]
            for w in answer["workers"]
        ]  # fmt: skip
    columns = "node, host, pid, state, up since, jobs done, running, mean time, CPU, memory, load"
    print_table(columns.split(", "), rows)
    return _status_of(answers)


# ── telling ──


@gearman.command()
@config_option
@node_option
@json_option
def drain(config: str | None, node: str | None, as_json: bool) -> int:
    """Have nodes finish what they run, take nothing new, and end."""
    return _tell(config, "drain", node, as_json)


@gearman.command()
@config_option
@node_option
@json_option
def restart(config: str | None, node: str | None, as_json: bool) -> int:
    """Have nodes replace their worker processes one by one, while work goes on."""
    return _tell(config, "restart", node, as_json)


@gearman.command()
@config_option
@node_option
@json_option
def kill(config: str | None, node: str | None, as_json: bool) -> int:
    """End nodes at once; what they had goes back to the queue."""
    return _tell(config, "kill", node, as_json)


def _tell(config: str | None, what: str, node: str | None, as_json: bool) -> int:
    answers = _ask(config, {"do": what}, node)
    if as_json:
        return _print_json(answers)
    for name, answer in answers.items():
        told = answer if isinstance(answer, PoolsError) else ", ".join(f"{k} {v}" for k, v in answer.items())
        click.echo(f"{name}: {told}")
    return _status_of(answers)


def _ask(config: str | None, question: Any, node: str | None) -> dict[str, Any]:
    from pools_gearman.admin import ask_nodes

    return ask_nodes(_settings(config), question, node)


def _print_json(answers: dict[str, Any]) -> int:
    plain = {
        name: {"error": str(answer)} if isinstance(answer, PoolsError) else answer
        for name, answer in answers.items()
    }
    click.echo(json.dumps(plain))
    return _status_of(answers)


def _status_of(answers: dict[str, Any]) -> int:
    return NO_ANSWER if any(isinstance(answer, PoolsError) for answer in answers.values()) else 0


# ── small ──


def _config(config: str | None) -> Any:
    return load(config)


def _settings(config: str | None) -> GearmanSettings:
    return read_settings(_config(config), {})


def _log_to_stderr() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.INFO)  # whatever callers have workers log


def _when(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _seconds(cpu: float | None) -> str:
    return "" if cpu is None else f"{cpu:.1f} s"


def _mib(nbytes: int | None) -> str:
    return "" if nbytes is None else f"{nbytes / (1 << 20):.0f} MiB"

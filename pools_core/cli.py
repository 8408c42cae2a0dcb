"""The command ``pools``: which backends there are, a job without a program, a backend's own command.

    pools backends                                   a table
    pools map FUNC ITEM...                           func(item) for each item, results on stdout
    pools doctor                                     what pools find here, and what will not work
    pools <backend> ...                              that backend's RunMain

Exit status: 0; 1 when a task failed, or the doctor found a fault; 2 when what was asked makes no sense, with
one line on stderr; 130 on Ctrl-C; 141 when whoever read our output stopped reading, as for any program in a
pipe.

This module alone imports click and rich; what a job of ``pools map`` does is in ``cli_map``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import click

from pools_core.cli_map import (
    TASK_FAILED,
    Job,
    OutputClosedError,
    UnprintableError,
    find_option,
    run_job,
    write_line,
)
from pools_core.doctor_report import shown
from pools_core.errors import BackendLoadError, PoolsError
from pools_core.functions import FunctionNotFoundError, find_function
from pools_core.items import BadInputError, read_items
from pools_core.options import nearest
from pools_core.registry import GetClusterPackage, backends, hooks, names

__all__ = ["backend_main", "main", "print_table", "run_command"]

FAULT_FOUND: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 128 + signal.SIGINT
OUTPUT_CLOSED: Final = 128 + 13
"""As a shell reports a program that SIGPIPE ended; Windows knows neither the name nor the number."""


# ── the way in ──


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        argv: the arguments without the program's name; default those of the process.
    """
    relay = hooks()
    if relay is not None:
        relay.pools_cli(cli=cli)
    return run_command(cli, argv, "pools")


def backend_main(backend: str, argv: Sequence[str] | None, facts: Callable[[], Mapping[str, Any]]) -> int:
    """Run a local backend's own command, which has ``info``, and return its exit status.

    Args:
        backend: the backend's name.
        argv: the arguments after the backend's name; default those of the process.
        facts: returns what ``info`` tells, by name.
    """

    @click.group(name=backend, help=f"The {backend} backend.", no_args_is_help=True)
    def group() -> None: ...

    @group.command()
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    def info(as_json: bool) -> None:
        """Show what this backend finds on this machine."""
        found = facts()
        if as_json:
            write_line(json.dumps(found))
        else:
            print_table([""] * 2, [[name, shown(value)] for name, value in found.items()], header=False)

    return run_command(group, argv, f"pools {backend}")


def run_command(command: click.Command, argv: Sequence[str] | None, name: str) -> int:
    """Run a click command; turn every way in which it may end into an exit status.

    Args:
        command: the command.
        argv: its arguments; default those of the process.
        name: what it is called in its help.
    """
    try:
        status = command.main(None if argv is None else list(argv), prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except UnprintableError as error:
        return _complain(str(error), TASK_FAILED)
    except (FunctionNotFoundError, BadInputError, PoolsError) as error:
        return _complain(str(error))
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (OutputClosedError, BrokenPipeError):
        # Python flushes standard output once more when it ends; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    return status if isinstance(status, int) else 0


def _complain(text: str, status: int = BAD_INPUT) -> int:
    click.echo(f"pools: {' '.join(text.split())}", err=True)
    return status


class Commands(click.Group):
    """Our own commands, and every installed backend's name as one more."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, ours first."""
        own = super().list_commands(ctx)
        return own + [name for name in names() if name not in own]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; a backend is not loaded before its command runs."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        if cmd_name in names() or ":" in cmd_name:
            return BackendCommand(cmd_name, help=f"The {cmd_name} backend's own command.")
        raise click.UsageError(
            f"no command or backend named {cmd_name!r}{nearest(cmd_name, self.list_commands(ctx))}"
        )


class BackendCommand(click.Command):
    """Hands all that follows to the backend, ``--help`` included."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the arguments as they are."""
        ctx.args = list(args)
        return []

    def invoke(self, ctx: click.Context) -> int:
        """Run the backend's RunMain and return its exit status."""
        package = GetClusterPackage(str(self.name))
        try:
            return package.RunMain(ctx.args)
        except ModuleNotFoundError as error:
            raise BackendLoadError(f"the command of backend {self.name!r} does not load: {error}") from error


@click.group(cls=Commands, no_args_is_help=True)
@click.version_option(package_name="pools-core", prog_name="pools")
def cli() -> None:
    """One pool API from a laptop to a cluster."""


# ── pools backends ──


@cli.command("backends")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per backend.")
def list_backends(as_json: bool) -> None:
    """Show which backends are installed, whose they are, and whether they can be used."""
    found = backends()
    if as_json:
        for name, info in found.items():
            write_line(json.dumps({**asdict(info), "name": name}))
        return
    rows = [
        [name, info.distribution, info.version, "yes" if info.usable else f"no: {info.why}"]
        for name, info in found.items()
    ]
    print_table(["name", "distribution", "version", "usable"], rows)


# ── pools doctor ──


@cli.command()
@click.option(
    "-c",
    "--config",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="A config file, .ini or .toml; default $POOLS_CONFIG, else the user's pools.ini or pools.toml.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(config: str | None, as_json: bool) -> int:
    """Show what pools find here: versions, backends, CPUs, limits, options, and the cluster's health.

    The exit status is 1 if something will not work; the last lines say what to do about it.
    """
    from pools_core.doctor import examine

    report = examine(config)
    if as_json:
        write_line(json.dumps(report.as_json(), default=str))
    else:
        print_table([""] * 3, report.rows(), header=False)
        for line in ["", *report.advice()]:
            write_line(line)
    return 0 if report.is_well else FAULT_FOUND


# ── pools map ──


@cli.command("map")
@click.argument("func")
@click.argument("items", nargs=-1)
@click.option("--lines", metavar="FILE|-", help="Each line of a file is an item.")
@click.option("--jsonl", metavar="FILE|-", help="Each line of a file is an item, as JSON.")
@click.option(
    "--glob", "patterns", metavar="PATTERN", multiple=True, help="Files are items; ** is any folders."
)
@click.option("--output", type=click.Choice(["text", "jsonl"]), help="Default jsonl with --jsonl, else text.")
@click.option("--unordered", is_flag=True, help="Print results as they come, not in the order of items.")
@click.option("--backend", metavar="NAME", help="Default: as configured, or else multicore.")
@click.option("--config", metavar="FILE", help="A config file, .ini or .toml.")
@click.option("-j", "--jobs", "n_jobs", type=int, metavar="N", help="How many workers.")
@click.option("--chunksize", type=float, metavar="N", help="Items sent to a worker at a time.")
@click.option(
    "--timeout", "task_timeout", type=float, metavar="SECONDS", help="Kill a task that runs longer."
)
@click.option(
    "--retries", "max_retries", type=int, metavar="N", help="Run a failed task again, so many times."
)
@click.option(
    "--on-error", type=click.Choice(["raise", "return"]), help="Stop at a failure, or report and go on."
)
@click.option("--worker-init", metavar="FUNC", help="Called in each worker before its first item.")
@click.option("--worker-exit", metavar="FUNC", help="Likewise after its last item.")
@click.option(
    "--lifespan", "worker_lifespan", type=int, metavar="N", help="Replace a worker after so many items."
)
@click.option("--seed", type=int, metavar="N", help="Give each item its own random numbers, see task_rng.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show on stderr how far the job is. Default: if that is a terminal.",
)
@click.option("--insights", is_flag=True, help="Tell on stderr at the end where the time went.")
def map_items(
    func: str,
    items: tuple[str, ...],
    lines: str | None,
    jsonl: str | None,
    patterns: tuple[str, ...],
    output: str | None,
    unordered: bool,
    backend: str | None,
    config: str | None,
    n_jobs: int | None,
    worker_init: str | None,
    worker_exit: str | None,
    progress: bool | None,
    insights: bool,
    **options: Any,
) -> int:
    """Call FUNC on each item and print the results.

    FUNC is module:function or file.py:function; an item is its one argument: text, or what the JSON
    says.  A result is printed as text (str) or JSON, one per line, as soon as it is there.  With
    --on-error return a failure is a line on stderr, or among JSON results an object with "error",
    "type" and "index"; the exit status is 1 if there was one.
    """
    function = find_function(func)
    options["worker_init"] = find_option("--worker-init", worker_init)
    options["worker_exit"] = find_option("--worker-exit", worker_exit)
    job = Job(
        function=function,
        items=read_items(items, lines, jsonl, patterns),
        as_json=(output or ("jsonl" if jsonl else "text")) == "jsonl",
        unordered=unordered,
        progress=progress,
        insights=insights,
        call_options={name: value for name, value in options.items() if value is not None},
    )
    return run_job(job, backend, config, n_jobs)


# ── output ──


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], header: bool = True) -> None:
    """Print rows under columns; in a file or a pipe each row is one line."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE, show_header=header, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    # In a file or a pipe no line need be folded; 80 columns would cut the reason why a backend fails.
    Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 1000).print(table)

"""The command ``pools``: which backends there are, a job without a program, a backend's own command.

    pools backends                                   a table
    pools map FUNC ITEM...                           func(item) for each item, results on stdout
    pools <backend> ...                              that backend's RunMain

Exit status: 0; 1 when a task failed; 2 when what was asked makes no sense, with one line on stderr;
130 on Ctrl-C; 141 when whoever read our output stopped reading, as for any program in a pipe.

This module alone imports click and rich.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from pools_core.errors import BackendLoadError, PoolsError, RemoteTraceback, UnsupportedOptionError
from pools_core.failures import type_name
from pools_core.functions import FunctionNotFoundError, find_function
from pools_core.items import BadInputError, read_items
from pools_core.options import nearest
from pools_core.registry import GetClusterPackage, MakePool, backends, hooks, names
from pools_core.results import Failure

if TYPE_CHECKING:
    from pools_core.pool import Pool

__all__ = ["backend_main", "main", "print_table", "run_command"]

TASK_FAILED: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 128 + signal.SIGINT
OUTPUT_CLOSED: Final = 128 + 13
"""As a shell reports a program that SIGPIPE ended; Windows knows neither the name nor the number."""


class OutputClosedError(Exception):
    """Whoever read standard output has stopped."""


class UnprintableError(click.ClickException):
    """A result has no form in the output that was asked for."""


OURS: Final = (
    BadInputError,
    OutputClosedError,
    click.ClickException,
    UnsupportedOptionError,
    KeyboardInterrupt,
    SystemExit,
)
"""What ends a job and is no task's failure."""


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
            _write(json.dumps(found))
        else:
            print_table([""] * 2, [[name, _fact(value)] for name, value in found.items()], header=False)

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
            _write(json.dumps({**asdict(info), "name": name}))
        return
    rows = [
        [name, info.distribution, info.version, "yes" if info.usable else f"no: {info.why}"]
        for name, info in found.items()
    ]
    print_table(["name", "distribution", "version", "usable"], rows)


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
    **options: Any,
) -> int:
    """Call FUNC on each item and print the results.

    FUNC is module:function or file.py:function; an item is its one argument: text, or what the JSON
    says.  A result is printed as text (str) or JSON, one per line, as soon as it is there.  With
    --on-error return a failure is a line on stderr, or among JSON results an object with "error",
    "type" and "index"; the exit status is 1 if there was one.
    """
    function = find_function(func)
    source = read_items(items, lines, jsonl, patterns)
    writer = JsonWriter() if (output or ("jsonl" if jsonl else "text")) == "jsonl" else TextWriter()
    given = {name: value for name, value in options.items() if value is not None}
    try:
        with _make_pool(backend, config, n_jobs) as pool:
            results = _start(pool, function, source, unordered, given)
            return _print_results(results, writer, options["on_error"] == "return")
    except BaseException as error:
        # A task may raise anything, SystemExit too; what is ours, and Ctrl-C, is told by our caller.
        if _is_the_tasks(error) or not isinstance(error, OURS):
            return _tell(error)
        raise


def _make_pool(backend: str | None, config: str | None, n_jobs: int | None) -> Pool:
    try:
        return MakePool(backend, config, n_jobs=n_jobs)
    except (PoolsError, TypeError, ValueError) as error:
        raise BadInputError(str(error)) from error


def _start(
    pool: Pool,
    function: Callable[[Any], Any],
    source: Iterator[Any],
    unordered: bool,
    options: dict[str, Any],
) -> Iterator[Any]:
    chunksize = options.pop("chunksize", None)
    call = pool.imap_unordered if unordered else pool.imap
    try:
        return call(function, source, chunksize, **options)
    except (TypeError, ValueError) as error:
        raise BadInputError(str(error)) from error


def _print_results(results: Iterator[Any], writer: Writer, go_on: bool) -> int:
    """Print results as they come; return the exit status.

    Args:
        results: what the pool delivers.
        writer: prints them.
        go_on: whether a result that cannot be printed is reported like a failure, or ends the job.
    """
    status = 0
    for number, result in enumerate(results):
        failure = result if isinstance(result, Failure) else None
        if failure is None:
            try:
                writer.result(result, number)
            except UnprintableError as error:
                if not go_on:
                    raise
                failure = Failure(error, number)
        if failure is not None:
            writer.failure(failure)
            status = TASK_FAILED
    return status


def _is_the_tasks(error: BaseException) -> bool:
    """Whether a task raised it, rather than the pool."""
    return isinstance(error.__cause__, RemoteTraceback)


def _tell(error: BaseException) -> int:
    """Show a task's failure on stderr: its traceback in the worker, and which task it was."""
    shown = [f"pools: {_short(error)}"]
    if isinstance(error.__cause__, RemoteTraceback):
        shown = [error.__cause__.tb.rstrip("\n")]
    notes = getattr(error, "__notes__", ())
    shown += [f"pools: {note}" for note in notes]
    click.echo("\n".join(shown), err=True)
    return TASK_FAILED


def _short(error: BaseException) -> str:
    text = str(error)
    return f"{type_name(type(error))}: {text}" if text else type_name(type(error))


# ── output ──


class Writer:
    """Prints results, one per line, each at once."""

    def result(self, value: Any, number: int) -> None:
        """Print what a task returned."""
        raise NotImplementedError

    def failure(self, failure: Failure) -> None:
        """Print a task's failure."""
        raise NotImplementedError


class TextWriter(Writer):
    """Results as ``str`` shows them; failures on stderr, so that they cannot be taken for results."""

    def result(self, value: Any, number: int) -> None:
        """Print what a task returned."""
        _write(str(value))

    def failure(self, failure: Failure) -> None:
        """Print a task's failure on stderr."""
        click.echo(f"pools: task {failure.index}: {_short(failure.error)}", err=True)


class JsonWriter(Writer):
    """Results as JSON; a failure is an object among them."""

    def result(self, value: Any, number: int) -> None:
        """Print what a task returned."""
        try:
            text = json.dumps(value, default=_plain, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            what = f"result {number} is not JSON: {error}; return something else, or use --output text"
            raise UnprintableError(what) from error
        _write(text)

    def failure(self, failure: Failure) -> None:
        """Print a task's failure among the results."""
        kind = type_name(type(failure.error))
        told = {"error": str(failure.error), "type": kind, "index": failure.index}
        _write(json.dumps(told, ensure_ascii=False))


def _plain(value: Any) -> Any:
    """Return a numpy scalar or array as plain numbers; whatever else has no JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"an object of type {type_name(type(value))}")


def _write(text: str) -> None:
    """Print a line at once: whoever reads may be waiting for it."""
    try:
        try:
            sys.stdout.write(f"{text}\n")
        except UnicodeEncodeError:  # a file name that is not text, or a terminal that knows few letters
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputClosedError from error


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


def _fact(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)

"""The items of a job that is given on the command line: where they come from, one by one.

Nothing is read ahead: an endless standard input is as good as a file.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

__all__ = ["BadInputError", "read_items"]


class BadInputError(Exception):
    """What was given as input cannot be used; the text is one line for the user."""


def read_items(
    arguments: Sequence[str] = (),
    lines: str | None = None,
    jsonl: str | None = None,
    patterns: Sequence[str] = (),
) -> Iterator[Any]:
    """Return an iterator over the items, which come from exactly one kind of source.

    Args:
        arguments: the items themselves.
        lines: a file, or ``-`` for standard input, of which each line is an item, without its end.
        jsonl: likewise, each line a JSON value; blank lines are skipped.
        patterns: file name patterns, ``**`` for any number of folders; the items are the files that
            match, pattern by pattern, each sorted.

    Raises:
        BadInputError: none or several kinds were given, a file cannot be opened, a pattern matches no
            file.  The iterator raises it for a line that is not JSON, with the line's number.
    """
    given = [bool(arguments), lines is not None, jsonl is not None, bool(patterns)]
    if sum(given) == 0:
        raise BadInputError("there are no items: give them as arguments, or with --lines, --jsonl or --glob")
    if sum(given) > 1:
        raise BadInputError("items come from one kind of source: arguments, --lines, --jsonl or --glob")
    if lines is not None:
        return _lines(_open(lines))
    if jsonl is not None:
        return _json_values(_open(jsonl), "standard input" if jsonl == "-" else jsonl)
    if patterns:
        return iter([path for pattern in patterns for path in _files(pattern)])
    return iter(arguments)


def _open(name: str) -> TextIO:
    """Open a file of lines.  Bytes that are not UTF-8 survive as file names do."""
    if name == "-":
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape", newline="\n")
        return sys.stdin
    try:
        return open(name, encoding="utf-8-sig", errors="surrogateescape", newline="\n")
    except OSError as error:
        raise BadInputError(f"{name} cannot be read: {error.strerror or error}") from error


def _lines(file: TextIO) -> Iterator[str]:
    try:
        for line in file:
            # A carriage return within a line, as progress bars and odd file names have it, ends none.
            yield line.removesuffix("\n").removesuffix("\r")
    finally:
        if file is not sys.stdin:
            file.close()


def _json_values(file: TextIO, name: str) -> Iterator[Any]:
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                why = (
                    f"{error.msg} (column {error.colno})"
                    if isinstance(error, json.JSONDecodeError)
                    else error
                )
                raise BadInputError(f"{name}, line {number} is not JSON: {why}") from error
            yield value


def _files(pattern: str) -> list[str]:
    paths = glob.glob(os.path.expanduser(pattern), recursive=True)
    files = sorted(path for path in paths if not os.path.isdir(path))
    if not files:
        raise BadInputError(f"no file matches {pattern!r}")
    return files

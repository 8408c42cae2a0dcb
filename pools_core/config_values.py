"""From the text of a config file to values, by the type of the option.

Values that are no text, as a TOML file or a mapping has them, must fit as they are.
"""

from __future__ import annotations

import operator
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

__all__ = ["convert", "whole_number"]

BOOLEANS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("1", "yes", "true", "on"), True),
    **dict.fromkeys(("0", "no", "false", "off"), False),
}


def whole_number(name: str, value: Any, least: int) -> int:
    """Return ``value`` as an int; for the ``__post_init__`` of settings.

    Args:
        name: the option's name; the error's sentence begins with it.
        value: an int or a numpy integer.
        least: the smallest that makes sense.

    Raises:
        TypeError: it is no integer; True, 2.5 and "3" are none.
        ValueError: it is less than ``least``.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is a whole number, not {value!r} ({type(value).__name__})")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} is a whole number of at least {least}, not {number}")
    return number


def convert(value: Any, wanted: Any, folder: Path) -> Any:
    """Return a value of the type wanted, or raise ValueError with what would have been right.

    Text is parsed, whether it comes from a file or a mapping; other values must fit.
    """
    origin = typing.get_origin(wanted)
    if wanted is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, typing.get_args(wanted), folder)
    if origin is Literal:
        return _convert_literal(value, typing.get_args(wanted))
    if origin in (tuple, list, Sequence):
        return _convert_list(value, wanted, folder)
    convert = SCALARS.get(wanted)
    if convert is None:
        raise ValueError("can only be given in code")
    if wanted is Path:
        return folder / convert(value)
    return convert(value)


def _convert_union(value: Any, members: tuple[Any, ...], folder: Path) -> Any:
    is_none = value is None or (isinstance(value, str) and value.strip().lower() in ("", "none"))
    if is_none and type(None) in members:
        return None
    complaints = []
    for member in members:
        if member is not type(None):
            try:
                return convert(value, member, folder)
            except ValueError as error:
                complaints.append(str(error))
    raise ValueError(" or ".join(complaints))


def _convert_literal(value: Any, members: tuple[Any, ...]) -> Any:
    for member in members:
        if value == member or (isinstance(value, str) and value.strip() == str(member)):
            return member
    raise ValueError(f"is one of {', '.join(str(member) for member in members)}")


def _convert_list(value: Any, wanted: Any, folder: Path) -> Any:
    kind = list if typing.get_origin(wanted) is list else tuple
    member = typing.get_args(wanted)[0]
    if isinstance(value, str):
        if value.strip().startswith("["):
            value = _json_list(value)
        else:
            value = [part for part in value.replace("\n", ",").split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError("is a list, its members separated by commas")
    try:
        return kind(convert(part, member, folder) for part in value)
    except ValueError as error:
        raise ValueError(f"is a list, of which each member {error}") from None


def _json_list(text: str) -> list[Any]:
    import json

    try:
        found = json.loads(text)
    except ValueError:
        raise ValueError("is a list, its members separated by commas, or a list in JSON") from None
    if not isinstance(found, list):
        raise ValueError("is a list")
    return found


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in BOOLEANS:
        return BOOLEANS[value.strip().lower()]
    raise ValueError("is yes or no (true, false, on, off, 1, 0)")


def _to_int(value: Any) -> int:
    try:
        if isinstance(value, str):
            return int(value)
        return whole_number("", value, -sys.maxsize)
    except (TypeError, ValueError):
        raise ValueError("is a whole number") from None


def _to_float(value: Any) -> float:
    if not isinstance(value, bool) and isinstance(value, str | int | float):
        try:
            return float(value)
        except ValueError:
            pass
    raise ValueError("is a number")


def _to_str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("is text")


def _to_path(value: Any) -> Path:
    if isinstance(value, os.PathLike) or (isinstance(value, str) and value.strip()):
        return Path(value).expanduser()
    raise ValueError("is a path")


SCALARS: Final[Mapping[Any, Callable[[Any], Any]]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_str,
    Path: _to_path,
}

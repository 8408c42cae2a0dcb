"""What a user says of a progress bar in tqdm's keyword arguments, checked before the call starts.

Nothing is drawn.  ``need`` and ``check_with_tqdm`` import what they ask for; the others import nothing.
"""

from __future__ import annotations

import importlib
import inspect
import numbers
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pools_core.progress import ProgressStyle

__all__ = ["KINDS", "OVERRIDDEN", "check_with_tqdm", "need", "read_options", "without_what_does_not_count"]

MODULES: Final = {
    "tqdm": ("tqdm.std",),
    "rich": ("rich.progress",),
    "ipywidgets": ("ipywidgets", "tqdm.notebook"),
}
OVERRIDDEN: Final = ("total", "leave")
"""Options that the call itself decides."""

COLOURS: Final = frozenset({"BLACK", "RED", "GREEN", "YELLOW", "BLUE", "MAGENTA", "CYAN", "WHITE"})

KINDS: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "ascii": ((bool, str), "a bool or a str"),
    "bar_format": ((str,), "a str"),
    "colour": ((str,), "a str"),
    "delay": ((numbers.Real,), "a number"),
    "desc": ((str,), "a str"),
    "disable": ((bool,), "a bool"),
    "dynamic_ncols": ((bool,), "a bool"),
    "gui": ((bool,), "a bool"),
    "initial": ((numbers.Real,), "a number"),
    "lock_args": ((tuple,), "a tuple"),
    "maxinterval": ((numbers.Real,), "a number"),
    "mininterval": ((numbers.Real,), "a number"),
    "miniters": ((numbers.Real,), "a number"),
    "ncols": ((numbers.Integral,), "an int"),
    "nrows": ((numbers.Integral,), "an int"),
    "position": ((numbers.Integral,), "an int"),
    "smoothing": ((numbers.Real,), "a number"),
    "unit": ((str,), "a str"),
    "unit_divisor": ((numbers.Real,), "a number"),
    "unit_scale": ((numbers.Real,), "a bool or a number"),
    "write_bytes": ((bool,), "a bool"),
}
"""What tqdm documents for its options.  tqdm itself checks none, and fails in the midst of drawing."""


def read_options(options: object, style: ProgressStyle) -> Mapping[str, Any]:
    """Check that the options are a mapping with values of the right types; return it, or an empty one.

    Args:
        options: keyword arguments of tqdm; a mapping or None.
        style: the style of the bar that they are for.

    Raises:
        TypeError: no mapping, or a value of the wrong type.
        NotImplementedError: a position for style "rich", whose bars find their places themselves; programs
            that come from MPIRE catch just this error.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"progress_bar_options is a dict, not {type(options).__name__} ({options!r})")
    for name, value in options.items():
        _check_value(name, value)
    if style == "rich" and options.get("position") is not None:
        # No gap to fill later, and no ValueError: MPIRE raises just this, and programs catch it.
        raise NotImplementedError(
            f'progress_bar_style "rich" takes no position, but got {options["position"]!r}: its bars find '
            'their own places; leave position out of progress_bar_options, or choose style "std"'
        )
    return options


def _check_value(name: str, value: object) -> None:
    kinds, words = KINDS.get(name, ((object,), "anything"))
    if name == "file":
        fits, words = hasattr(value, "write"), "an open file"
    else:
        fits = isinstance(value, kinds)
    if value is not None and not fits:
        raise TypeError(f"progress bar option {name!r} is {words}, not {type(value).__name__} ({value!r})")


def need(distribution: str, what: str) -> None:
    """Raise an ImportError that says what to install, where the distribution is missing."""
    try:
        for module in MODULES[distribution]:
            importlib.import_module(module)
    except ImportError as error:
        # tqdm may be what a notebook lacks; the sentence names what is really missing.
        missing = "tqdm" if (error.name or "").startswith("tqdm") else distribution
        raise ImportError(f"{what} needs {missing}: pip install {missing}", name=missing) from error


def check_with_tqdm(options: Mapping[str, Any]) -> None:
    """Let tqdm judge names and format: its signature and its formatter, which build and draw nothing."""
    from tqdm.std import TqdmKeyError, tqdm

    known = set(inspect.signature(tqdm.__init__).parameters) - {"self", "iterable", "kwargs"}
    unknown = {name: value for name, value in options.items() if name not in known}
    if unknown:
        raise TqdmKeyError(f"Unknown argument(s): {unknown}")
    if options.get("bar_format"):
        tqdm.format_meter(0, 10, 0.0, ncols=80, bar_format=options["bar_format"])


def without_what_does_not_count(options: Mapping[str, Any], style: ProgressStyle) -> dict[str, Any]:
    """Return a copy without what the call sets itself and without unknown colours; warn of both."""
    kept = dict(options)
    for name in OVERRIDDEN:
        if name in kept:
            del kept[name]
            _warn(f"progress bar option {name!r} is set by the call itself; what you gave is not used")
    colour = kept.get("colour")
    if colour and style in ("std", "rich") and not _is_colour(colour):
        del kept["colour"]
        known = ", ".join(sorted(COLOURS))
        _warn(f"unknown colour {colour!r} of a progress bar is not used; known are #00ff00 and {known}")
    return kept


def _is_colour(text: str) -> bool:
    return text.upper() in COLOURS or re.fullmatch("#[0-9a-fA-F]{6}", text) is not None


def _warn(text: str) -> None:
    """Warn about the line of the user's program that called a pool."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("pools_"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, RuntimeWarning, stacklevel=level)

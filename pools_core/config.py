"""Settings of a backend, from a config file and from code.

    pools.ini, pools.toml, a mapping ──▶ Config ──┐
                                                   ├──▶ settings(cls, ...) ──▶ one frozen dataclass
    keyword arguments ────────────────────────────┘

Which file is read, and how, stands in ``config_files``; how text becomes values in ``config_values``.
A backend describes its options once, as the fields of a frozen dataclass: their types say how the
text of a file is parsed, its ``__post_init__`` says which values make sense.  Code wins over the
file, ``None`` in code means "not given", and nothing that is misspelt passes in silence.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import typing
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pools_core.config_files import Config, ConfigSource, load
from pools_core.config_values import convert, whole_number
from pools_core.errors import ConfigError, UnsupportedOptionError
from pools_core.options import nearest

__all__ = [
    "ALIASES",
    "POOL_OPTIONS",
    "Config",
    "ConfigSource",
    "as_options",
    "load",
    "settings",
    "whole_number",
]

POOL_OPTIONS: Final[Mapping[str, str]] = {
    "n_jobs": "how many workers the pool has",
    "daemon": "whether workers are forbidden to have children of their own",
    "cpu_ids": "the CPUs that each worker is pinned to",
    "start_method": "how worker processes are started: fork, forkserver or spawn",
    "shared_objects": "what each task gets besides its item",
    "pass_worker_id": "whether each task gets its worker's number",
    "use_worker_state": "whether each task gets its worker's own dictionary",
    "keep_alive": "whether workers outlive a call",
    "enable_insights": "whether times are taken",
    "order_tasks": "whether workers take chunks in turn",
    "max_worker_memory": "how large a worker may grow before it is replaced",
    "blas_threads": "how many threads numerical libraries may use in a worker",
}
"""Options that a pool may have on one backend or another, and what they mean."""

ALIASES: Final[Mapping[str, str]] = {"processes": "n_jobs"}
"""Other names of options, in code and in files."""

NEAR: Final = 0.7
"""How like a known section an unknown one must be to count as misspelt; others belong to others."""

S = TypeVar("S")


def settings(cls: type[S], section: str, config: ConfigSource, options: Mapping[str, Any]) -> S:
    """Return the settings of a backend, or of a part of it, from config and code.

    Args:
        cls: a frozen dataclass; a field's type says how text is parsed, and a field may bring its own
            ``metadata={"parse": function_of_str}``.  Its ``__post_init__`` raises ValueError or
            TypeError for a bad value, in a sentence that begins with the option's name.
        section: the config section; its first part is the backend's name.
        config: a path (``.ini`` or ``.toml``), a mapping of sections, or None for the default file,
            if there is one.
        options: what was given in code; it wins, and None there means "not given", unless the field has
            ``metadata={"none": True}``.

    Raises:
        ConfigError: the config cannot be read, or has an unknown section or key, or a bad value.
        UnsupportedOptionError: an option given in code that only other backends have.
        TypeError: an option given in code that none has, or of the wrong type.
        ValueError: an option given in code whose value makes no sense.
    """
    read = load(config)
    _check_sections(read, cls, section)
    from_file = {**_from_pool_section(cls, read), **_read_section(cls, section, read)}
    from_code = _read_options(cls, section, options)
    values = {**from_file, **from_code}
    for field in _fields(cls).values():
        if field.name not in values and not _has_default(field):
            raise read.error(section, field.name, "is needed and has no default")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        culprit = error.option if isinstance(error, UnsupportedOptionError) else str(error).partition(" ")[0]
        if culprit in from_file and culprit not in from_code:
            raise read.error(section, culprit, str(error)) from error
        raise


def as_options(instance: object) -> dict[str, Any]:
    """Return the fields of a settings object, by name, as they would be given in code."""
    return {name: getattr(instance, name) for name in _fields(type(instance))}


# ── which sections there may be ──


def _check_sections(read: Config, cls: type, section: str) -> None:
    """Refuse sections that look like a slip of the pen; leave those of other programs alone."""
    if not read.sections:
        return
    from pools_core import registry  # lazily: it looks through the metadata of what is installed

    read.check_pool_section()
    own = section.partition(".")[0]
    package = sys.modules.get(cls.__module__.partition(".")[0])
    parts: Mapping[str, type] | None = getattr(package, "config_sections", None)
    known = sorted({"pool", own, *registry.names()})
    for name in read.sections:
        backend, dot, _ = name.partition(".")
        if dot and backend == "pool":
            raise ConfigError(f"{read.origin}: unknown section [{name}]; did you mean 'pool'?")
        if dot and backend == own and parts is not None and name not in parts:
            raise ConfigError(
                f"{read.origin}: unknown section [{name}]{nearest(name, sorted({own, *parts}))}"
            )
        if backend not in known:
            import difflib

            close = difflib.get_close_matches(backend, known, n=1, cutoff=NEAR)
            if close:
                raise ConfigError(f"{read.origin}: unknown section [{name}]; did you mean {close[0]!r}?")


# ── from sections and keywords to values ──


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _from_pool_section(cls: type, read: Config) -> dict[str, Any]:
    """Return what ``[pool]`` says for all backends, of what this one's settings have."""
    off = read.plugins_off()
    return {"plugins_off": off} if off and "plugins_off" in _fields(cls) else {}


def _read_section(cls: type, section: str, read: Config) -> dict[str, Any]:
    fields, hints = _fields(cls), _hints(cls)
    values: dict[str, Any] = {}
    for key, value in read.sections.get(section, {}).items():
        name = ALIASES.get(key, key)
        if name not in fields:
            if key in read.variables:
                continue
            raise _unknown_key(read, section, key, fields)
        if name in values:
            raise read.error(section, key, f"it is another name of {name!r}, which is given too")
        parse = fields[name].metadata.get("parse")
        try:
            if parse is None:
                values[name] = convert(value, hints[name], read.folder)
            else:
                values[name] = parse(value) if isinstance(value, str) else value
        except ValueError as error:
            raise read.error(section, key, f"{error}, not {value!r}") from error
    return values


def _unknown_key(read: Config, section: str, key: str, fields: Mapping[str, Any]) -> ConfigError:
    if key in POOL_OPTIONS:
        return read.error(section, key, str(_unsupported(key, section)))
    return read.error(section, key, f"unknown key{nearest(key, list(fields))}")


def _read_options(cls: type, section: str, options: Mapping[str, Any]) -> dict[str, Any]:
    fields = _fields(cls)
    values: dict[str, Any] = {}
    for given, value in options.items():
        name = ALIASES.get(given, given)
        if name not in fields:
            if name not in POOL_OPTIONS:
                raise TypeError(
                    f"unknown option {given!r} of the {section} backend{nearest(given, list(fields))}"
                )
            if value is not None:
                raise _unsupported(given, section)
        elif value is not None or fields[name].metadata.get("none"):
            if name in values:
                raise TypeError(f"{given} and {name} are one option under two names; give one of them")
            values[name] = value
    return values


def _unsupported(option: str, section: str) -> UnsupportedOptionError:
    from pools_core.registry import capable  # lazily: it loads every backend to answer

    return UnsupportedOptionError(option, section.partition(".")[0], capable(option))


def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing

"""Settings of a backend, from a config file and from code.

    pools.ini, pools.toml, a mapping ──▶ Config ──┐
                                                   ├──▶ settings(cls, ...) ──▶ one frozen dataclass
    keyword arguments ────────────────────────────┘

A backend describes its options once, as the fields of a frozen dataclass: their types say how the
text of a file is parsed, its ``__post_init__`` says which values make sense.  Code wins over the
file, ``None`` in code means "not given", and nothing that is misspelt passes in silence.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import operator
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

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

BOOLEANS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("1", "yes", "true", "on"), True),
    **dict.fromkeys(("0", "no", "false", "off"), False),
}

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Config:
    """What a config file or mapping says, not yet parsed by type.

    Attributes:
        origin: where it comes from, for messages: a path or "the config mapping".
        folder: what relative paths are relative to.
        sections: section name, with dots for subsections, to key to value.
        variables: keys of an ini file's ``[DEFAULT]``: there for interpolation, unknown ones do no harm.
    """

    origin: str = "no config"
    folder: Path = Path()
    sections: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    variables: frozenset[str] = frozenset()

    def backend(self) -> str | None:
        """Return what ``[pool] backend`` names, or None.

        Raises:
            ConfigError: the section ``[pool]`` says something else or something impossible.
        """
        self.check_pool_section()
        name = self.sections.get("pool", {}).get("backend")
        if name is not None and not (isinstance(name, str) and name.strip()):
            raise self.error("pool", "backend", f"is the name of a backend, not {name!r}")
        return name

    def check_pool_section(self) -> None:
        """Raise ConfigError when ``[pool]`` has a key other than ``backend``."""
        for key in self.sections.get("pool", {}):
            if key != "backend" and key not in self.variables:
                raise self.error("pool", key, f"unknown key{nearest(key, ['backend'])}")

    def error(self, section: str, key: str, what: str) -> ConfigError:
        """Return the error that says what is wrong with a key, and where it stands."""
        return ConfigError(f"{self.origin}, section [{section}], key {key!r}: {what}")


ConfigSource = str | os.PathLike[str] | Mapping[str, Any] | Config | None
"""A path, a mapping of sections, what ``load`` returned, or None for the default config file."""


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
    from_file = _read_section(cls, section, read)
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


def load(config: ConfigSource = None) -> Config:
    """Read a config and return its sections; the values are not parsed yet.

    Args:
        config: a path (``.ini`` or ``.toml``) or a mapping of sections.  None stands for
            ``$POOLS_CONFIG``, else ``pools.ini`` or ``pools.toml`` in the user's config directory, else
            nothing.  The current directory is never looked into: a config names job servers, and
            whoever can write one can run code.

    Raises:
        ConfigError: it cannot be read or makes no sense.
        TypeError: ``config`` is none of these.
    """
    if isinstance(config, Config):
        return config
    if config is None:
        found = default_path()
        return Config() if found is None else _read_file(found)
    if isinstance(config, Mapping):
        return _from_tables(config, "the config mapping", Path())
    if isinstance(config, str | os.PathLike):
        return _read_file(Path(config))
    raise TypeError(f"config is a path, a mapping of sections or None, not {type(config).__name__}")


def default_path() -> Path | None:
    """Return the config file that is read when none is given, or None.

    Raises:
        ConfigError: there are two of them in the user's config directory.
    """
    named = os.environ.get("POOLS_CONFIG")
    if named:
        return Path(named)
    import platformdirs

    folder = platformdirs.user_config_path("pools", appauthor=False)
    found = [path for path in (folder / "pools.ini", folder / "pools.toml") if path.is_file()]
    if len(found) > 1:
        raise ConfigError(f"both {found[0]} and {found[1].name} exist; keep one of them, or set POOLS_CONFIG")
    return found[0] if found else None


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


# ── from files to sections ──


def _read_file(path: Path) -> Config:
    path = path.expanduser()
    readers = {".ini": _read_ini, ".toml": _read_toml}
    if path.suffix not in readers:
        raise ConfigError(f"config file {path}: its name must end in .ini or .toml")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        hint = " (named by the environment variable POOLS_CONFIG)" if _is_from_environment(path) else ""
        raise ConfigError(f"config file {path} does not exist{hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}") from error
    return readers[path.suffix](text, path)


def _is_from_environment(path: Path) -> bool:
    named = os.environ.get("POOLS_CONFIG")
    return bool(named) and Path(str(named)).expanduser() == path


def _read_ini(text: str, path: Path) -> Config:
    import configparser

    parser = configparser.ConfigParser(inline_comment_prefixes=(";",))
    try:
        parser.read_string(text, source=str(path))
    except configparser.Error as error:
        raise ConfigError(f"config file {path}: {_one_line(error)}") from error
    sections: dict[str, dict[str, Any]] = {}
    origin = str(path)
    for name in parser.sections():
        sections[name] = {}
        for key in parser[name]:
            try:
                sections[name][key] = parser.get(name, key)
            except configparser.InterpolationError as error:
                what = f"{_one_line(error)} (a plain percent sign is written %%)"
                raise Config(origin).error(name, key, what) from error
    return Config(origin, path.parent, sections, frozenset(parser.defaults()))


def _read_toml(text: str, path: Path) -> Config:
    import tomllib

    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config file {path}: {_one_line(error)}") from error
    return _from_tables(tables, str(path), path.parent)


def _from_tables(tables: Mapping[str, Any], origin: str, folder: Path) -> Config:
    sections: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            what = f"{name!r} stands outside of any section; options stand in the section of their backend"
            raise ConfigError(f"{origin}: {what}")
        _flatten(str(name), table, sections)
    return Config(origin, folder, sections)


def _flatten(name: str, table: Mapping[str, Any], sections: dict[str, dict[str, Any]]) -> None:
    """Make a table within a table a section of its own, its name with a dot, as an ini file has it."""
    own = sections.setdefault(name, {})
    for key, value in table.items():
        if isinstance(value, Mapping):
            _flatten(f"{name}.{key}", value, sections)
        else:
            own[str(key)] = value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


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
            close = difflib.get_close_matches(backend, known, n=1, cutoff=NEAR)
            if close:
                raise ConfigError(f"{read.origin}: unknown section [{name}]; did you mean {close[0]!r}?")


# ── from sections and keywords to values ──


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


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
                values[name] = _convert(value, hints[name], read.folder)
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


# ── from text to values, by type ──


def _convert(value: Any, wanted: Any, folder: Path) -> Any:
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
                return _convert(value, member, folder)
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
        return kind(_convert(part, member, folder) for part in value)
    except ValueError as error:
        raise ValueError(f"is a list, of which each member {error}") from None


def _json_list(text: str) -> list[Any]:
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

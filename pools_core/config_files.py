"""Config files: which one is read, and what its sections say; the values are not parsed yet.

    --config, config=       a path or a mapping
    $POOLS_CONFIG           a path
    pools.ini, pools.toml   in the user's config directory

The first of them that is there is the config; the current directory is never looked into, because a
config names job servers, and whoever can write one can run code.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pools_core.config_values import convert
from pools_core.errors import ConfigError
from pools_core.options import nearest

__all__ = ["Config", "ConfigSource", "default_path", "load", "user_files"]

POOL_KEYS: Final = ["backend", "plugins_off"]
"""What the section ``[pool]`` may say."""

PLACES: Final = ("HOME", "XDG_CONFIG_HOME", "USERPROFILE", "LOCALAPPDATA")
"""Variables that decide where the user's config directory is; it is worked out anew when one has changed."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a config file or mapping says, not yet parsed by type.

    Attributes:
        origin: where it comes from, for messages: a path or "the config mapping".
        folder: what relative paths are relative to.
        sections: section name, with dots for subsections, to key to value.
        variables: keys of an ini file's ``[DEFAULT]``: there for interpolation, unknown ones do no harm.
        path: the file that it was read from, if it was.
    """

    origin: str = "no config"
    folder: Path = Path()
    sections: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    variables: frozenset[str] = frozenset()
    path: Path | None = None

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

    def plugins_off(self) -> tuple[str, ...]:
        """Return the names of the plugins that ``[pool] plugins_off`` switches off.

        Raises:
            ConfigError: it is no list of names.
        """
        value = self.sections.get("pool", {}).get("plugins_off", ())
        try:
            found = convert(value, tuple[str, ...], self.folder)
        except ValueError as error:
            raise self.error("pool", "plugins_off", f"{error}, not {value!r}") from error
        return tuple(name.strip() for name in found)

    def check_pool_section(self) -> None:
        """Raise ConfigError when ``[pool]`` has a key that there is not."""
        for key in self.sections.get("pool", {}):
            if key not in POOL_KEYS and key not in self.variables:
                raise self.error("pool", key, f"unknown key{nearest(key, POOL_KEYS)}")

    def error(self, section: str, key: str, what: str) -> ConfigError:
        """Return the error that says what is wrong with a key, and where it stands."""
        return ConfigError(f"{self.origin}, section [{section}], key {key!r}: {what}")


ConfigSource = str | os.PathLike[str] | Mapping[str, Any] | Config | None
"""A path, a mapping of sections, what ``load`` returned, or None for the default config file."""


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
    found = [path for path in user_files() if path.is_file()]
    if len(found) > 1:
        raise ConfigError(f"both {found[0]} and {found[1].name} exist; keep one of them, or set POOLS_CONFIG")
    return found[0] if found else None


def user_files() -> list[Path]:
    """Return the files in the user's config directory that are looked for; there may be one of them."""
    folder = _user_folder(tuple(os.environ.get(name) for name in PLACES))
    return [folder / "pools.ini", folder / "pools.toml"]


@functools.lru_cache(maxsize=1)
def _user_folder(_places: tuple[str | None, ...]) -> Path:
    import platformdirs

    return platformdirs.user_config_path("pools", appauthor=False)


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
    return Config(origin, path.parent, sections, frozenset(parser.defaults()), path)


def _read_toml(text: str, path: Path) -> Config:
    import tomllib

    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config file {path}: {_one_line(error)}") from error
    return dataclasses.replace(_from_tables(tables, str(path), path.parent), path=path)


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

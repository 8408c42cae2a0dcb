"""What ``pools doctor`` tells of configs: which file is read, and where each option has its value from."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Final

from pools_core.config import ALIASES, settings
from pools_core.config_files import Config, load, user_files
from pools_core.config_lines import Places
from pools_core.doctor_report import DEFAULT, Finding, plain
from pools_core.errors import ConfigError

__all__ = ["examine_files", "examine_options", "where"]

VARIABLE: Final = "POOLS_CONFIG"
NOT_HERE: Final = ("shared_objects", "plugins_off")
"""Options that no section of a backend can have: one is for programs only, one is told with the plugins."""


def examine_files(named: str | None) -> tuple[Config, list[Finding]]:
    """Read the config and return it, empty if it cannot be read, and what there is to say of the files.

    Args:
        named: the file that the command names, if it does.
    """
    try:
        read, trouble = load(named), ""
    except ConfigError as error:
        read, trouble = Config(), str(error)
    variable = os.environ.get(VARIABLE)
    users = user_files()
    folder = str(users[0].parent)
    if named or variable:
        by = "--config" if named else f"${VARIABLE}"
        state = "cannot be used" if trouble else "read"
        return read, [
            _file(f"by {by}", state, str(named or variable), trouble),
            Finding("config", "the user's", f"passed over for that by {by}", folder),
        ]
    found = []
    for path in users:
        state = "not there" if not path.is_file() else "cannot be used" if trouble else "read"
        found.append(_file(path.name, state, folder, trouble if path.is_file() else ""))
    return read, found


def _file(name: str, value: str, source: str, trouble: str) -> Finding:
    return Finding("config", name, value, source, "fault" if trouble else "well", trouble)


def examine_options(cls: type, section: str, read: Config) -> Iterator[Finding]:
    """Yield each option of a section: the value that it has, and where that comes from.

    Args:
        cls: the dataclass whose fields are the options, as for ``pools_core.config.settings``.
        section: the section of the config.
        read: the config.
    """
    topic = f"[{section}]"
    try:
        values: object = settings(cls, section, read, {})
    except (ConfigError, TypeError, ValueError) as error:
        yield Finding(topic, "options", "cannot be used", read.origin, "fault", " ".join(str(error).split()))
        return
    places = Places(read)
    given = {ALIASES.get(key, key): key for key in read.sections.get(section, {})}
    for field in dataclasses.fields(cls):
        if field.init and field.name not in NOT_HERE:
            key = given.get(field.name)
            source = DEFAULT if key is None else places.of(section, key)
            yield Finding(topic, field.name, plain(getattr(values, field.name)), source)


def where(read: Config, section: str, key: str) -> str | None:
    """Return the place of a key as ``file:line``; None if the config does not have it."""
    return Places(read).of(section, key) if key in read.sections.get(section, {}) else None

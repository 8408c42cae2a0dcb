"""Where in a config file a key stands, for people who look for it; parsers do not tell.

What is found is only shown, never used: a line that cannot be found costs a line number, no value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pools_core.config_files import Config

__all__ = ["Places"]

Found = Iterator[tuple[str, str, int]]
"""Section, key, number of the line."""

INI_SECTION: Final = re.compile(r"\[(?P<name>.+)\]")
INI_KEY: Final = re.compile(r"(?P<key>[^=:]+?)\s*[=:]")
TOML_SECTION: Final = re.compile(r"\s*\[(?P<name>[^\[\]]+)\]")
TOML_KEY: Final = re.compile(r"\s*(?P<key>[\w.\"' -]+?)\s*=")


class Places:
    """Tells where the keys of a config stand.

    Args:
        config: what was read; its file is read once more.
    """

    def __init__(self, config: Config) -> None:
        self._origin = config.origin
        self._lines: dict[tuple[str, str], int] = {}
        if config.path is not None:
            for section, key, number in _found_in(config.path):
                self._lines.setdefault((section, key), number)

    def of(self, section: str, key: str) -> str:
        """Return ``file:line``; only the file where the line is not found."""
        line = (
            self._lines.get((section, key)) or self._line_around(section) or self._lines.get(("DEFAULT", key))
        )
        return self._origin if line is None else f"{self._origin}:{line}"

    def _line_around(self, section: str) -> int | None:
        """Return the line of an inline table of TOML, which is a section to us and a key to its table."""
        outer, _, inner = section.rpartition(".")
        return self._lines.get((outer, inner))


def _found_in(path: Path) -> Found:
    try:
        lines = path.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):  # gone since it was read
        return iter(())
    return _found_in_toml(lines) if path.suffix == ".toml" else _found_in_ini(lines)


def _found_in_ini(lines: list[str]) -> Found:
    section, deep = "", None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if not text or text[0] in "#;" or (deep is not None and indent > deep):  # the last: more of a value
            continue
        if header := INI_SECTION.match(text):
            section, deep = header["name"], None
        elif key := INI_KEY.match(text):
            deep = indent
            yield section, key["key"].lower(), number


def _found_in_toml(lines: list[str]) -> Found:
    table = ""
    for number, line in enumerate(lines, 1):
        if header := TOML_SECTION.match(line):
            table = ".".join(_parts(header["name"]))
        elif key := TOML_KEY.match(line):
            *inner, last = _parts(key["key"])
            yield ".".join([table, *inner] if table else inner), last, number


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]

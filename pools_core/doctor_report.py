"""What ``pools doctor`` finds, as values; and how these are shown to people and to programs.

    Finding ─┐
    Finding ─┼─▶ Report ─┬─▶ rows of a table, and what to do   (people)
    Finding ─┘           └─▶ JSON                              (programs)

Whoever examines something returns findings, and judges them; nothing is printed here.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pools_core.config_files import Config

__all__ = ["DEFAULT", "Finding", "Report", "State", "hide_secrets", "plain", "shown"]

State = Literal["well", "note", "fault"]

DEFAULT: Final = "default"
"""Source of a value that nobody has set."""

HIDDEN: Final = "(set, not shown)"

TELLING: Final = re.compile(r"secret|passw|token|credential|key$", re.IGNORECASE)
"""Names of options whose values may be secret."""

NAMES_A_FILE: Final = re.compile(r"(file|path)$", re.IGNORECASE)
"""Names of options that tell where a secret is kept."""

KEY_LIKE: Final = re.compile(r"[\w+/=.-]{32,}", re.ASCII)
"""What may be a key itself, put where the name of its file should be."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what it belongs to, such as ``cpus``; options have their section, such as ``[multicore]``.
        name: what it is, such as ``usable``; unique within its topic.
        value: what was found; None, or as JSON has it.
        source: where the value comes from: a file and line, an environment variable, ``default``.
        state: ``"well"``; ``"note"`` if it is worth knowing; ``"fault"`` if something will not work.
        advice: what is the matter, and what to do; empty if all is well.
    """

    topic: str
    name: str
    value: Any
    source: str = ""
    state: State = "well"
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of an examination, in the order in which they are shown."""

    findings: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        """Whether nothing was found that will not work."""
        return not self.of("fault")

    def of(self, state: State) -> list[Finding]:
        """Return the findings of one state."""
        return [finding for finding in self.findings if finding.state == state]

    def as_json(self) -> dict[str, Any]:
        """Return all that was found."""
        return {"well": self.is_well, "findings": [dataclasses.asdict(finding) for finding in self.findings]}

    def rows(self) -> list[list[str]]:
        """Return a table: topic (in its first row), what, and what was found of it."""
        rows = []
        for topic in dict.fromkeys(finding.topic for finding in self.findings):
            own = _without_defaults([finding for finding in self.findings if finding.topic == topic])
            for number, one in enumerate(own):
                rows.append(["" if number else topic, one.name, _told(one)])
        return rows

    def advice(self) -> list[str]:
        """Return the lines that say what is the matter and what to do, faults first."""
        faults, notes = (
            [f"  {one.topic}, {one.name}: {one.advice}" for one in found]
            for found in (self.of("fault"), self.of("note"))
        )
        lines = ["will not work:", *faults] if faults else ["all is well"]
        return [*lines, "worth knowing:", *notes] if notes else lines


def _without_defaults(findings: list[Finding]) -> list[Finding]:
    """Return the findings of a topic, with the options that nobody has set as one, at the end."""
    unset = [
        one for one in findings if one.source == DEFAULT and one.state == "well" and one.topic.startswith("[")
    ]
    if not unset:
        return findings
    together = Finding(unset[0].topic, "the others", {one.name: one.value for one in unset}, DEFAULT)
    return [*(one for one in findings if one not in unset), together]


def _told(finding: Finding) -> str:
    """Return what was found, and where it comes from, in one line."""
    mark = "" if finding.state == "well" else f"{finding.state.upper()}: "
    return f"{mark}{shown(finding.value)}" + (f"  ({finding.source})" if finding.source else "")


def shown(value: Any) -> str:
    """Return a value as people read it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(part)}" for name, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "none"
    return str(value)


def plain(value: Any) -> Any:
    """Return the value of an option as JSON has it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else repr(value)


# ── secrets ──


def hide_secrets(findings: Iterable[Finding], config: Config) -> Iterator[Finding]:
    """Yield the findings with what a config holds of secrets taken out, wherever it occurs.

    Names of files that hold secrets are not secret; a key in the place of such a name is.
    """
    secrets = sorted(set(_secrets_of(config)), key=len, reverse=True)
    for finding in findings:
        yield Finding(*(_masked(getattr(finding, one.name), secrets) for one in dataclasses.fields(Finding)))


def _secrets_of(config: Config) -> Iterator[str]:
    for section in config.sections.values():
        for key, value in section.items():
            if (
                TELLING.search(key)
                and value not in (None, "")
                and not _is_file(key, str(value), config.folder)
            ):
                yield str(value)


def _is_file(key: str, value: str, folder: Path) -> bool:
    """Whether the value of an option that sounds secret is the name of a file."""
    path = folder / value
    if "passw" in key.lower():
        return False
    try:
        if path.expanduser().is_file():
            return True
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, nobody's home
        return False
    if KEY_LIKE.fullmatch(value):
        return "/" in value and path.parent.is_dir()
    return bool(NAMES_A_FILE.search(key)) or "/" in value or "." in value


def _masked(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, HIDDEN)
        return value
    if isinstance(value, dict):
        return {name: _masked(part, secrets) for name, part in value.items()}
    return [_masked(part, secrets) for part in value] if isinstance(value, list) else value

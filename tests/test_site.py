"""The documentation site: it builds without a warning, and its reference has every public name.

What counts as described, for a function that has parameters:

    Args:         names every parameter, in order, and nothing else
    otherwise     the text names each parameter, or refers to another function that is described
                  (``Like ``map`` ...``), or the parameter's name is that of the function (``set_keep_alive``)
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SECONDS = 300
GENERATOR = ("sphinx", "myst_parser", "furo", "sphinx_copybutton")

PUBLIC = [
    "pools_core",
    "pools_core.adapters.executor",
    "pools_core.adapters.joblib",
    "pools_core.adapters.stub",
    "pools_core.aio",
    "pools_core.calls",
    "pools_core.errors",
    "pools_core.frames",
    "pools_core.hookspecs",
    "pools_core.protocol",
    "pools_core.testing",
    "pools_core.workqueue",
    "pools_gearman",
    "pools_multicore",
    "pools_singlecore",
    "pools_threads",
]
"""What users, and writers of backends and plugins, import."""

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Warns|Yields):")
ENTRY = re.compile(r"    ([\w*]+(?:, [\w*]+)*): ")
REFERENCE = re.compile(r"\b(?:[Ll]ike|[Aa]s|[Aa]s for|[Ss]ee) ``([\w.]+)``|^``(\w+)`` with")


@dataclass(frozen=True)
class Name:
    """A public name and what stands behind it."""

    full: str
    value: Any

    def __str__(self) -> str:
        return self.full

    @property
    def is_code(self) -> bool:
        """Whether it is a class or a function."""
        return inspect.isclass(self.value) or inspect.isfunction(self.value)


def exports() -> Iterator[Name]:
    """Yield what each public module exports."""
    for module in PUBLIC:
        package = importlib.import_module(module)
        for name in package.__all__:
            yield Name(f"{module}.{name}", getattr(package, name))


def names() -> list[Name]:
    """Return the classes and functions among the exports, each once."""
    found = {id(name.value): name for name in reversed(list(exports())) if name.is_code}
    return list(found.values())


def callables() -> Iterator[tuple[str, Any]]:
    """Yield the public functions, and the methods that public classes define themselves."""
    for name in names():
        if inspect.isfunction(name.value):
            yield name.full, name.value
        elif not issubclass(name.value, enum.Enum):
            for attribute, value in ours(name.value).items():
                plain = value.__func__ if isinstance(value, staticmethod | classmethod) else value
                if not attribute.startswith(("_", "test_")) and inspect.isfunction(plain):
                    yield f"{name.full}.{attribute}", plain


def ours(kind: type) -> dict[str, Any]:
    """Return what a class has of its own, or from another class of ours that is not public by itself."""
    public = {name.value for name in names()} - {kind}
    found: dict[str, Any] = {}
    for one in reversed(kind.__mro__):
        if one not in public and one.__module__.startswith("pools_"):
            found.update(vars(one))
    return found


def parameters(function: Any) -> list[str]:
    """Return the names of its parameters, without ``self`` and ``cls``."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def fields(kind: type) -> list[str] | None:
    """Return the fields that a record defines itself; None for what is no record."""
    if issubclass(kind, tuple):
        return list(getattr(kind, "_fields", ())) or None
    if not dataclasses.is_dataclass(kind):
        return None
    return [field.name for field in dataclasses.fields(kind) if field.name in vars(kind)["__annotations__"]]


def section(doc: str, *titles: str) -> list[str] | None:
    """Return what a section of a docstring describes; None if there is no such section."""
    found, inside = None, False
    for line in inspect.cleandoc(doc).splitlines():
        if title := SECTION.fullmatch(line):
            inside = title[1] in titles
            found = [] if inside and found is None else found
        elif line and not line.startswith(" "):
            inside = False
        elif inside and found is not None and (entry := ENTRY.match(line)):
            found += [each.lstrip("*") for each in entry[1].split(", ")]
    return found


def is_written_out(value: Any) -> bool:
    """Whether it has a docstring that somebody wrote, not the one that ``dataclass`` makes up."""
    doc = value.__doc__ or ""
    return bool(doc.strip()) and not doc.startswith(f"{getattr(value, '__name__', '')}(")


# ── the site ──


@pytest.fixture(scope="module")
def inventory(tmp_path_factory) -> dict[str, set[str]]:
    """Build the site, strictly; return by page the names that it describes."""
    missing = [module for module in GENERATOR if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; run: pip install -e '.[docs]'")
    from sphinx.util.inventory import InventoryFile

    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-b", "html"]
    command += ["-d", str(folder / "doctrees"), str(ROOT / "docs"), str(folder / "html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr

    built = InventoryFile.loads((folder / "html" / "objects.inv").read_bytes(), uri="").data
    described: dict[str, set[str]] = {}
    for kind, objects in built.items():
        if kind.startswith("py:"):
            for name, item in objects.items():
                described.setdefault(item.uri.partition("#")[0], set()).add(name)
    return described


def test_the_reference_has_every_public_name(inventory):
    """Somebody who adds a name tells what it is; it also fails if a page, a link or a reference is broken."""
    described = set().union(*inventory.values())

    assert [str(name) for name in exports() if name.full not in described] == []


def test_the_reference_is_in_the_folder_for_it(inventory):
    """Pages that people wrote do not grow names by accident, and every page of the folder has some."""
    pages = {f"api/{path.stem}.html" for path in (ROOT / "docs" / "api").glob("*.md")}

    assert set(inventory) == pages


DIRECTIVE = re.compile(r"^\.\. auto(?:class|function|data|exception):: ([\w.]+)\.(\w+)$", re.MULTILINE)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "api").glob("*.md")), ids=lambda path: path.stem)
def test_what_the_reference_describes_is_exported_where_it_says(page):
    """Writers of backends import it from there, under a strict type checker."""
    described = DIRECTIVE.findall(page.read_text(encoding="utf-8"))

    assert described
    for module, name in described:
        assert name in importlib.import_module(module).__all__


# ── docstrings ──

KNOWN = {full.rpartition(".")[2] for full in [*map(str, names()), *dict(callables())]}
"""What a docstring may refer to instead of describing parameters."""


@pytest.mark.parametrize("name", [name for name in names() if inspect.isclass(name.value)], ids=str)
def test_a_public_class_says_what_it_is_and_what_it_is_made_of(name):
    """Fields and parameters are described, all of them, and none that is not there."""
    kind = name.value
    assert is_written_out(kind)
    own = fields(kind)
    if own is not None:
        assert (section(kind.__doc__, "Attributes", "Args") or []) == own
    elif "__init__" in vars(kind):
        assert (section(kind.__doc__, "Args") or []) == parameters(kind)


@pytest.mark.parametrize(
    ("name", "function"), [pytest.param(name, function, id=name) for name, function in callables()]
)
def test_a_public_function_says_what_it_does_and_describes_its_parameters(name, function):
    """The rules stand at the top of this file."""
    assert is_written_out(function)
    doc = inspect.getdoc(function) or ""
    described = section(doc, "Args")
    wanted = parameters(function)

    if described is not None:
        assert described == wanted
    elif reference := REFERENCE.search(doc):
        assert (reference[1] or reference[2]).rpartition(".")[2] in KNOWN
    else:
        last = name.rpartition(".")[2]
        assert [each for each in wanted if each not in last and not re.search(rf"\b{each}\b", doc)] == []


@pytest.mark.parametrize("name", [name for name in names() if inspect.isclass(name.value)], ids=str)
def test_public_properties_say_what_they_are(name):
    """They look like attributes, and their docstring is all that there is."""
    properties = {each: value for each, value in ours(name.value).items() if isinstance(value, property)}
    assert [each for each, value in properties.items() if each[0] != "_" and not value.__doc__] == []

"""Every block of the README and of docs/ that looks as if it ran, runs.

What a fence's info string means:

    python            part of the page's script; all of them share one namespace, in order
    text              straight after a python block: what that block prints; ``...`` stands for anything in
                      a line, and alone in a line for any lines
    console           lines that begin with ``$ ``, run by bash; the lines after one are what it prints
    LANG file=NAME    a file that stands in the folder where the page's blocks run
    python needs=A,B  run if these modules are installed; ``.ci/run`` installs them
    python no-run     not run; a reason must follow
    bash, others      for people: not run (``.ci/run`` runs the README's second command)

A page's script is a file of its own, run as a script, so that functions in ``__main__`` meet workers
as they do in a user's program.  Its lines have the numbers that they have in the page.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from pools_core.testing.leaks import gone
from pools_core.testing.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "examples/third_party_backend/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
SECONDS_PER_PAGE = 120
BETWEEN = "\x1e"  # printed between blocks


@dataclass(frozen=True)
class Block:
    """A fenced block: its info string, the number of its first line, its text."""

    info: str
    line: int
    text: str

    @property
    def language(self) -> str:
        """First word of the info string."""
        return (self.info.split() or [""])[0]

    @property
    def file(self) -> str | None:
        """Name of the file that the block is, if it is one."""
        found = re.search(r"\bfile=(\S+)", self.info)
        return found[1] if found else None

    @property
    def needs(self) -> list[str]:
        """Modules that it imports and that the project does not need."""
        found = re.search(r"\bneeds=(\S+)", self.info)
        return found[1].split(",") if found else []

    @property
    def runs(self) -> bool:
        """Whether it is part of the page's script."""
        if self.language != "python" or self.file is not None or "no-run" in self.info:
            return False
        return all(importlib.util.find_spec(module) is not None for module in self.needs)


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found, inside = [], None
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if inside is None:
            inside = (line[3:].strip(), number + 1)
        else:
            info, first = inside
            found.append(Block(info, first, "\n".join(lines[first - 1 : number - 1])))
            inside = None
    assert inside is None, f"{page.name}: the block that begins in line {inside} has no end"
    return found


def pages_with(what: Callable[[Block], bool]) -> list[Path]:
    """Return the pages that have such a block; the example's own page needs the example installed."""
    return [page for page in PAGES if "third_party" not in str(page) and any(map(what, blocks_of(page)))]


def script_of(blocks: list[Block]) -> str:
    """Return the page's python blocks as one script, each line where it stands in the page."""
    lines: list[str] = []
    for block in blocks:
        if block.runs:
            lines += [""] * (block.line - 1 - len(lines))
            lines += block.text.splitlines()
            lines += [f"print({BETWEEN!r}, flush=True) if __name__ == '__main__' else None"]
    return "\n".join(lines) + "\n"


def matches(printed: str, expected: str) -> bool:
    """Whether the text is as expected; see the top for ``...``; runs of blanks count as one."""
    pattern = "".join(
        r"(?:.*\n)*" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + r"\n"
        for line in squeezed(expected)
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in squeezed(printed))) is not None


def squeezed(text: str) -> list[str]:
    """Return the lines with single blanks, and none at their ends."""
    return [" ".join(line.split()) for line in text.strip().splitlines()]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, without a config of theirs; what it leaves running is ended."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("POOLS_")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    environment["XDG_CONFIG_HOME"] = str(folder)
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, said = process.communicate(timeout=SECONDS_PER_PAGE)
        finally:
            end_session(process.pid)
    return subprocess.CompletedProcess(command, process.returncode, printed, said)


def end_session(session: int) -> None:
    """End the processes of a session: of a page that takes too long, a cluster may be left."""
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == session:
                os.kill(process.pid, signal.SIGKILL)


def write_files(blocks: list[Block], folder: Path) -> None:
    """Write the blocks that are files."""
    for block in blocks:
        if block.file is not None:
            (folder / block.file).write_text(block.text + "\n", encoding="utf-8")


@pytest.mark.parametrize("page", pages_with(lambda block: block.runs), ids=lambda page: page.stem)
def test_the_python_blocks_of_a_page_run_and_print_what_it_says(page: Path, tmp_path: Path) -> None:
    """An example that does not work costs a newcomer an hour, and us the newcomer."""
    blocks = blocks_of(page)
    write_files(blocks, tmp_path)
    script = (
        tmp_path / f"page_{page.stem.replace('-', '_')}.py"
    )  # never the name of a module, such as gearman
    script.write_text(script_of(blocks), encoding="utf-8")

    done = run([sys.executable, "-W", "error", str(script)], tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    printed = iter(done.stdout.split(f"{BETWEEN}\n"))
    for block, following in itertools.pairwise([*blocks, Block("", 0, "")]):
        if block.runs:
            output = next(printed)
            if following.language == "text":
                assert matches(output, following.text), f"{page.name}:{following.line}: it prints\n{output}"


@pytest.mark.parametrize(
    "page", pages_with(lambda block: block.language == "console"), ids=lambda page: page.stem
)
def test_the_commands_of_a_page_print_what_it_says(page: Path, tmp_path: Path) -> None:
    """Commands are copied as they stand, prompt aside."""
    blocks = blocks_of(page)
    write_files(blocks, tmp_path)
    for block in blocks:
        if block.language != "console":
            continue
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            done = run(["bash", "-c", command], tmp_path)
            output = done.stdout + done.stderr
            assert matches(output, expected), f"{page.name}:{block.line}: {command} prints\n{output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_block_that_does_not_run_says_why(page: Path) -> None:
    """An example is left out by decision, never by accident."""
    for block in blocks_of(page):
        assert block.language, f"{page.name}:{block.line}: the block has no language"
        if "no-run" in block.info:
            assert len(block.info.partition("no-run")[2].split()) > 2, (
                f"{page.name}:{block.line}: why no-run?"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """A dead link in an error's explanation is a dead end."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_nothing_of_a_page_runs_on(tmp_path: Path) -> None:
    """A page that breaks off would leave its cluster behind, and the next one would find its port taken."""
    done = run(["bash", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"], tmp_path)

    wait_until(lambda: gone(int(done.stdout)), what="what the command left has ended")


def test_the_readme_gives_two_commands_and_ci_runs_the_second() -> None:
    """What a newcomer types to test is what we test."""
    commands = [
        line.removeprefix("$ ")
        for block in blocks_of(ROOT / "README.md")
        if block.language in ("bash", "sh", "console", "shell")
        for line in block.text.splitlines()
        if line and not line.startswith("#")
    ]

    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci/run").read_text(encoding="utf-8")

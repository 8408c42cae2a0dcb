"""Makes the pictures that come from real runs: ``python docs/pictures/make.py``.

    insights.svg      the timeline of a pool's workers, as Insights.plot draws it
    pools-map.svg     a terminal while ``pools map`` runs
    gearman-ping.svg  a terminal after ``pools gearman ping``, with a cluster on this machine

Needs the extras ``plot`` and ``gearman``.  ``flow.svg`` is drawn by hand.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sysconfig
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from pools_core import MakePool

HERE: Final = Path(__file__).parent
COUNTER: Final = """\
import os, tokenize

def count(path):
    with open(path, "rb") as file:
        tokens = sum(1 for _ in tokenize.tokenize(file.readline))
    return f"{tokens:>7,} tokens in {os.path.basename(path)}"
"""


def load() -> None:
    """Stand for a model that takes a while to load."""
    time.sleep(0.3)


def main() -> None:
    """Make them all."""
    draw_insights()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record_map(folder)
        record_ping(folder)


def draw_insights() -> None:
    """Draw a call whose longest task is its last: all other workers wait for one."""
    seconds = [0.02 + 0.14 * (number * 7 % 10) / 10 for number in range(60)] + [0.9]
    with MakePool("multicore", n_jobs=4, enable_insights=True) as pool:
        pool.map(time.sleep, seconds, chunksize=1, worker_init=load)
        pool.insights().plot(HERE / "insights.svg")


def record_map(folder: Path) -> None:
    """Record ``pools map`` at the moment when more than half of its items are done."""
    (folder / "tokens.py").write_text(COUNTER, encoding="utf-8")
    (folder / "lib").symlink_to(sysconfig.get_path("stdlib"))
    command = "pools map tokens.py:count -j 2 --glob 'lib/t*.py'"
    terminal = Terminal(command, folder, columns=90)
    for written in terminal.screens():
        shares = re.findall(r"(\d+)%\|", written)
        if shares and int(shares[-1]) > 50:
            terminal.save("pools-map.svg", written)
            break


def record_ping(folder: Path) -> None:
    """Record ``pools gearman ping`` after some work on a cluster of this machine."""
    init = ["pools", "gearman", "init", "--job-server", "127.0.0.1:47391"]
    subprocess.run(init, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with cluster(folder):
        with MakePool("gearman", config=folder / "config.ini") as pool:
            pool.map(time.sleep, [0.01] * 200)
        terminal = Terminal("pools gearman ping -c config.ini", folder, columns=120)
        *_, written = terminal.screens()
        terminal.save("gearman-ping.svg", written)


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Run a job server and a node, as ``pools gearman up`` does."""
    command = ["pools", "gearman", "up", "-c", "config.ini", "-j", "2", "--name", "laptop"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        try:
            next(line for line in up.stdout if "is ready" in line)
            yield
        finally:
            up.terminate()


class Terminal:
    """A terminal in which one command runs.

    Args:
        command: what is typed.
        folder: where it runs.
        columns: the width.
    """

    def __init__(self, command: str, folder: Path, columns: int) -> None:
        self.command = command
        self.folder = folder
        self.columns = columns

    def screens(self) -> Iterator[str]:
        """Run the command; yield all that it has written, whenever it has written more."""
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 30, self.columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        command = ["bash", "-c", self.command]
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=its, stdout=its, stderr=its
        )
        os.close(its)
        written = b""
        with process, open(ours, "rb", buffering=0) as screen:
            try:
                while piece := screen.read(65536):
                    written += piece
                    yield written.decode(errors="ignore")
            except OSError:  # how Linux says that the last writer is gone
                pass

    def save(self, name: str, written: str) -> None:
        """Write a picture of it."""
        console = Console(record=True, width=self.columns, file=io.StringIO(), force_terminal=True)
        console.print(Text.assemble(("$ ", "bold green"), self.command))
        for line in written.replace("\r\n", "\n").rstrip("\n").split("\n"):
            console.print(as_shown(line), overflow="crop", no_wrap=True)
        drawn = console.export_svg(title="pools", unique_id=Path(name).stem)
        # No font from the network: a picture shall not fetch anything.
        drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
        (HERE / name).write_text(drawn, encoding="utf-8")


def as_shown(line: str) -> Text:
    """Return a line as it looks: what follows a carriage return stands over what was there."""
    parts = [part for part in line.split("\r") if part.strip()]
    return Text.from_ansi(parts[-1] if parts else "")


if __name__ == "__main__":
    main()

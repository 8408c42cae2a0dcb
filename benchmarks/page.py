"""The results in ``docs/benchmarks.md``: what stands between the two markers is written anew."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from benchmarks.report import Report, Verdict, amount, as_table, growth_lines, rows_of, verdicts_of

__all__ = ["BEGIN", "END", "results", "write_page"]

BEGIN: Final = "<!-- results -->"
END: Final = "<!-- /results -->"


def write_page(page: Path, report: Report, plots: list[Path]) -> None:
    """Replace the results in the page.

    Args:
        page: the file.
        report: what was found.
        plots: pictures that stand beside the page.

    Raises:
        ValueError: the page has no markers.
    """
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{page} has no {BEGIN} ... {END}")
    section = "\n".join([BEGIN, "", *results(report, [plot.name for plot in plots]), "", END])
    page.write_text(pattern.sub(lambda _: section, text), encoding="utf-8")


def results(report: Report, plots: list[str]) -> list[str]:
    """Return the lines of the section: where and when, the charts, how we stand, all values."""
    lines = [f"* {line}" for line in report.headline()]
    for plot in plots:
        lines += ["", f"![{'cost per task' if 'growth' in plot else 'us and the best peer'}]({plot})"]
    lines += ["", *standing(verdicts_of(report.samples))]
    rows = rows_of(report.samples)
    growth = growth_lines(rows)
    if growth:
        lines += ["", "| tasks | workers | library | per task |", "|---:|---:|---|---:|"]
        lines += ["| " + " | ".join(line) + " |" for line in growth]
    rest = [row for row in rows if row.case.group != "growth"]
    return [*lines, "", "Every library:", "", "```text", as_table(rest), "```"]


def standing(verdicts: list[Verdict]) -> list[str]:
    """Return a table with one line for each case."""
    lines = [
        "| case | ours | best peer | ÷ ours | goal | ours ÷ limit | goal |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    return lines + [line_of(verdict) for verdict in verdicts]


def line_of(verdict: Verdict) -> str:
    """Return the line of one case; what misses its goal is bold."""
    case = verdict.case
    missed = case.goal is not None and verdict.ratio is not None and verdict.ratio < case.goal
    far = case.distance is not None and verdict.distance is not None and verdict.distance > case.distance
    peer = f"{verdict.peer}, {amount(verdict.peer_best, case.unit)}" if verdict.peer else ""
    cells = [
        f"`{case.name}`",
        amount(verdict.ours, case.unit),
        peer,
        bold(number(verdict.ratio), missed),
        f"≥ {case.goal:g}" if case.goal is not None else "",
        bold(number(verdict.distance), far),
        f"≤ {case.distance:g}" if case.distance is not None else "",
    ]
    return "| " + " | ".join(cells) + " |"


def number(value: float | None) -> str:
    """Return a ratio as people write it."""
    return "" if value is None else f"{value:.2f}"


def bold(text: str, really: bool) -> str:
    """Return the text, set in bold if it is to be."""
    return f"**{text}**" if really and text else text

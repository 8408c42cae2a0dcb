"""The charts: how far ahead of the best peer, case by case; and what a task costs as a pool grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from benchmarks.libraries import OURS
from benchmarks.report import Report, Row, Verdict, amount, rows_of, verdicts_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

INK: Final = "#22303c"
FAINT: Final = "#8a97a3"
GRID: Final = "#e3e8ec"
AHEAD: Final = "#1b7f79"
BEHIND: Final = "#c8553d"
BAND: Final = "#f6f8f9"
TIMES: Final = "\N{MULTIPLICATION SIGN}"
RAISED: Final = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
TEXT: Final = 9.0
ROW: Final = 0.30
"""Inches for each case."""
MARGIN: Final = 1.35
"""Inches above and below the cases together."""


def draw(report: Report, path: Path) -> list[Path]:
    """Draw the charts; return the files written: the path itself and, if growth was measured, another."""
    written = []
    verdicts = [
        verdict for verdict in verdicts_of(report.samples) if verdict.ratio and verdict.case.unit == "s"
    ]
    if verdicts:
        save(chart_of_ratios(verdicts, report), path)
        written.append(path)
    rows = [row for row in rows_of(report.samples) if row.case.group == "growth" and row.best is not None]
    if rows:
        beside = path.with_name(f"{path.stem}-growth{path.suffix}")
        save(chart_of_growth(rows), beside)
        written.append(beside)
    return written


def save(figure: Figure, path: Path) -> None:
    """Write the figure; the same figures make the same file."""
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that knows how to draw itself as SVG."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasSVG(figure)
    return figure


# --- us and the best peer ------------------------------------------------------------------------------


def chart_of_ratios(verdicts: Sequence[Verdict], report: Report) -> Figure:
    """One row for each case: a bar from 1 to the best peer's time divided by ours."""
    height = ROW * len(verdicts) + MARGIN
    figure = new_figure(9.6, height)
    axes = figure.add_axes((0.17, 0.62 / height, 0.48, 1 - MARGIN / height))
    low, high = extent(verdicts)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(len(verdicts) - 0.5, -0.5)
    for place, verdict in enumerate(verdicts):
        draw_row(axes, place, verdict, first_of_group(verdicts, place))
    axes.axvline(1, color=INK, linewidth=1.2, zorder=4)
    dress(axes, low, high)
    caption(figure, report, height)
    return figure


def extent(verdicts: Sequence[Verdict]) -> tuple[float, float]:
    """Return the ends of the scale: all bars, and room for what is written beside them."""
    ratios = [verdict.ratio or 1 for verdict in verdicts]
    return min(0.5, 0.8 * min(ratios)), max(4, 1.6 * max(ratios))


def first_of_group(verdicts: Sequence[Verdict], place: int) -> bool:
    """Whether a new group of cases begins here."""
    return place > 0 and verdicts[place].case.group != verdicts[place - 1].case.group


def draw_row(axes: Axes, place: int, verdict: Verdict, parted: bool) -> None:
    """Draw one case: its bar, its goal, the other peers, and the words left and right of it."""
    ratio = verdict.ratio or 1
    colour = AHEAD if ratio >= 1 else BEHIND
    axes.barh(place, ratio - 1, left=1, height=0.56, color=colour, zorder=3)
    high = axes.get_xlim()[1]
    others = [min(other, high * 0.97) for other in verdict.others]
    axes.plot(others, [place] * len(others), "o", markersize=3, markeredgewidth=0, color=FAINT, zorder=2)
    if verdict.case.goal is not None and verdict.case.goal != 1:
        axes.plot([verdict.case.goal] * 2, [place - 0.4, place + 0.4], color=INK, linewidth=1.4, zorder=5)
    if parted:
        axes.axhline(place - 0.5, color=GRID, linewidth=1, zorder=1, xmin=-0.31, xmax=1.715, clip_on=False)
    write(axes, -0.015, place, verdict.case.name, ha="right", color=INK)
    write(axes, 1.03, place, f"{ratio:.2f} {TIMES}", ha="left", color=colour, weight="bold")
    write(axes, 1.185, place, verdict.peer or "", ha="left", color=INK)
    write(axes, 1.715, place, times(verdict), ha="right", color=FAINT, size=TEXT - 1)


def times(verdict: Verdict) -> str:
    """Return the two times behind a ratio."""
    unit = verdict.case.unit
    return f"{amount(verdict.peer_best, unit)} : {amount(verdict.ours, unit)}"


def write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write beside the rows: x as a share of the width, y as a row."""
    style = {"size": TEXT, "va": "center", **style}
    axes.text(x, y, text, transform=axes.get_yaxis_transform(), clip_on=False, **style)


def dress(axes: Axes, low: float, high: float) -> None:
    """Take away the box, and set the scale."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    steps = [step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= step <= high]
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} {TIMES}"))
    axes.tick_params(axis="x", length=0, labelsize=TEXT - 1, labelcolor=FAINT)
    axes.set_yticks([])
    axes.grid(visible=True, axis="x", color=GRID, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)


def caption(figure: Figure, report: Report, height: float) -> None:
    """Write above and below the rows what they show."""
    inch = 1 / height
    figure.text(0.02, 1 - 0.26 * inch, "Time of the best peer ÷ ours", size=12, weight="bold", color=INK)
    figure.text(
        0.02,
        1 - 0.48 * inch,
        "log scale; right of the line we are quicker; black tick: the goal; dots: the other peers",
        size=TEXT - 0.5,
        color=FAINT,
    )
    figure.text(0.739, 1 - 0.48 * inch, "best peer", size=TEXT - 0.5, color=FAINT, ha="left")
    figure.text(0.993, 1 - 0.48 * inch, "its time : ours", size=TEXT - 0.5, color=FAINT, ha="right")
    here = report.machine
    text = f"{here['processor']}, {here['cpus']} CPUs; {here['python']}; {report.settings.workers} workers; "
    figure.text(0.02, 0.14 * inch, text + report.date, size=TEXT - 1.5, color=FAINT)


# --- growth ----------------------------------------------------------------------------------------------


def chart_of_growth(rows: Sequence[Row]) -> Figure:
    """Two panels: microseconds per task over the number of tasks, and over the number of workers."""
    figure = new_figure(9.6, 3.4)
    by_tasks = [row for row in rows if row.case.workers is None]
    by_workers = [row for row in rows if row.case.workers is not None]
    top = 2 * max(cost(row) for row in rows)
    bottom = min(0.1, *(cost(row) / 2 for row in rows))
    for place, (title, part) in enumerate((("tasks", by_tasks), ("workers", by_workers))):
        axes = figure.add_axes((0.07 + 0.49 * place, 0.15, 0.42, 0.6))
        panel(axes, title, part)
        axes.set_ylim(bottom, top)
    figure.text(0.02, 0.92, "What a task costs as a pool grows", size=12, weight="bold", color=INK)
    text = "microseconds for each task of imap(inc, ...), log scales; flat is good"
    figure.text(0.02, 0.855, text, size=TEXT - 0.5, color=FAINT)
    for place, library in enumerate(sorted({row.library for row in rows}, key=lambda name: name != OURS)):
        style: dict[str, Any] = {"size": TEXT, "color": colour_of(library), "weight": "bold"}
        figure.text(0.98, 0.92 - 0.065 * place, library, ha="right", **style)
    return figure


def cost(row: Row) -> float:
    """Return the microseconds for each task."""
    return 1e6 * (row.best or 0) / row.size


def power_of_ten(value: float) -> str:
    """Return ten and its power, as people write it."""
    return "10" + f"{math.log10(value):.0f}".translate(RAISED)


def colour_of(library: str) -> str:
    """Return the colour of a library's line and name."""
    return AHEAD if library == OURS else FAINT


def panel(axes: Axes, title: str, rows: Sequence[Row]) -> None:
    """Draw a line for each library."""
    axes.set_xscale("log", base=10 if title == "tasks" else 2)
    axes.set_yscale("log")
    for library in dict.fromkeys(row.library for row in rows):
        points = sorted(
            (row.size if title == "tasks" else row.workers, cost(row))
            for row in rows
            if row.library == library
        )
        axes.plot(*zip(*points, strict=True), "-o", color=colour_of(library), markersize=4, linewidth=1.8)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(GRID)
    axes.grid(visible=True, axis="y", which="major", color=GRID, linewidth=0.8)
    axes.tick_params(which="both", length=0, labelsize=TEXT - 1, labelcolor=FAINT)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} µs"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if title == "workers":
        axes.xaxis.set_major_locator(FixedLocator([row.workers for row in rows]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axes.set_xlabel(title, size=TEXT, color=INK)

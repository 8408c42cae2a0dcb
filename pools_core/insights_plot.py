"""The timeline of a pool's workers as a picture: one line per worker, coloured by what it did.

matplotlib is used through its objects alone.  Its ``pyplot`` would keep the figure for ever, and may open
windows; neither is a library's business.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pools_core.insights import Insights, Kind
from pools_core.insights_report import counted

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot"]

SUFFIXES: Final = (".svg", ".png", ".pdf")

COLOURS: Final[dict[Kind, str]] = {
    "start_up": "#999999",
    "init": "#e69f00",
    "working": "#0072b2",
    "exit": "#cc79a7",
}
"""By kind, in the order of a worker's life; to be told apart by the colour-blind (Okabe and Ito), too."""

WIDTH: Final = 10.0
"""Inches."""

HEIGHT_PER_WORKER: Final = 0.3
"""Inches, which leaves room for a label of ordinary size."""

HEIGHTS: Final = (3.0, 30.0)
"""Inches: below, the axes would not fit; above, no viewer shows it."""

LABELS: Final = 90
"""The most workers of which each has its label: as many as the greatest height has room for."""

BAR: Final = 0.8
"""Thickness of a bar, as a part of the distance between two."""


def plot(insights: Insights, path: str | os.PathLike[str]) -> Path:
    """Draw the timeline into a file; see ``Insights.plot``."""
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a plot is a file that ends in {', '.join(SUFFIXES)}, not {file.name!r}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        what = "plot() needs matplotlib; run: pip install 'pools-core[plot]'"
        raise ImportError(what, name="matplotlib") from error
    low, high = HEIGHTS
    height = min(max(low, 1.5 + HEIGHT_PER_WORKER * len(insights.workers)), high)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_bars(axes, insights)
    _label(axes, insights)
    _explain(figure)
    figure.savefig(file, dpi=150)
    return file


def _rows(insights: Insights) -> dict[int, int]:
    """Return the row of each worker, by its number; numbers may have gaps, rows have none."""
    numbers = {one.worker for one in insights.workers} | {one.worker for one in insights.spans}
    return {worker: row for row, worker in enumerate(sorted(numbers))}


def _draw_bars(axes: Axes, insights: Insights) -> None:
    """Draw all bars of one worker and kind at once: matplotlib is slow at thousands of single ones."""
    bars: dict[tuple[int, Kind], list[tuple[float, float]]] = {}
    for span in insights.spans:
        bars.setdefault((span.worker, span.kind), []).append((span.start, span.end - span.start))
    rows = _rows(insights)
    for (worker, kind), ranges in bars.items():
        axes.broken_barh(ranges, (rows[worker] - BAR / 2, BAR), facecolors=COLOURS[kind])


def _label(axes: Axes, insights: Insights) -> None:
    rows = _rows(insights)
    step = -(-len(rows) // LABELS) or 1
    shown = list(rows)[::step]
    axes.set_yticks([rows[worker] for worker in shown], [f"worker {worker}" for worker in shown])
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)  # the first worker on top
    axes.set_xlim(0, insights.seconds or 1)
    axes.set_xlabel("time since the insights began (seconds)")
    axes.set_ylabel("workers")
    axes.set_title(_title(insights))
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _title(insights: Insights) -> str:
    if not insights.workers:
        return "nothing has run yet"
    tasks = counted(insights.tasks, "task")
    return f"{counted(len(insights.workers), 'worker')}, {tasks}, {insights.ratios['working']:.0%} working"


def _explain(figure: Figure) -> None:
    """Put a legend beside the bars, where it hides none."""
    from matplotlib.patches import Patch

    marks = [Patch(color=colour, label=kind.replace("_", "-")) for kind, colour in COLOURS.items()]
    marks.append(Patch(facecolor="white", edgecolor="#999999", label="waiting"))
    figure.legend(handles=marks, loc="outside right upper")

"""Figures of a study of seeds, as PNG and SVG: no dates, ids or names of the machine, so that bytes can be compared."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from repro.stats import t_interval

FORMATS = ("png", "svg")
_CONFIDENCE = 0.95
_MOST_LABELS = 20
_SIZE = (4.6, 3.4)  # of one panel, in inches
_BLUE, _GREY, _RED = "#1f5fa8", "#9aa3ad", "#b3372f"
#: Of a file: what would make its bytes differ from one time or version to the next.
_METADATA: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}

Curve = Sequence[tuple[float, float]]


class Picture(NamedTuple):
    """What is known of one metric: as `repro.seeds.report.metrics` has it, its curves by seed, its sd by source.

    Runs that differ in one source or another are no sample of anything: with ``sources`` no interval is drawn of them.
    """

    name: str
    values: Mapping[str, Any]
    curves: Mapping[str, Curve]
    sources: Mapping[str, float]
    what: str = "seed"


def draw(found: Picture) -> dict[str, bytes]:
    """Return the figure of a metric by its formats, ``png`` and ``svg``.

    Its panels: every value with the interval of the mean, the curves with a band, the interval against the number of
    seeds, and the spread by source; those that there is nothing to show of are left out, {} where that is all.
    """
    import matplotlib as mpl
    from matplotlib import style
    from matplotlib.figure import Figure

    panels = _panels(found)
    files: dict[str, bytes] = {}
    if not panels:
        return files
    with style.context("default"), mpl.rc_context({"svg.hashsalt": "repro", "font.size": 9}):
        figure = Figure(figsize=(_SIZE[0] * len(panels), _SIZE[1]), layout="constrained", dpi=120)
        for axes, panel in zip(np.ravel(figure.subplots(1, len(panels))), panels, strict=True):
            axes.spines[["top", "right"]].set_visible(False)
            panel(found, axes)
        for form in FORMATS:
            data = io.BytesIO()
            figure.savefig(data, format=form, metadata=_METADATA[form])
            files[form] = data.getvalue()
    return files


def _panels(found: Picture) -> list[Callable[[Picture, Any], None]]:
    """Return what draws the panels that there is something to show in."""
    values = _finite(found)
    by_count = len(values) > 2 and not found.sources  # noqa: PLR2004
    wanted = {_every: values, _curves: _several(found), _by_count: by_count, _sources: found.sources}
    return [panel for panel, shown in wanted.items() if shown]


def _finite(found: Picture) -> dict[str, float]:
    return {seed: value for seed, value in found.values["values"].items() if math.isfinite(value)}


def _several(found: Picture) -> dict[str, dict[float, float]]:
    """Return the curves that have more than one point."""
    return {seed: dict(curve) for seed, curve in found.curves.items() if len(curve) > 1}


def stems(metrics: Iterable[str]) -> dict[str, str]:
    """Return the stem of each metric's files: ``val/acc`` is ``val-acc``, and ``val-acc-2`` where that is taken."""
    found: dict[str, str] = {}
    for name in metrics:
        stem = plain = re.sub(r"[^\w.=-]+", "-", name).strip("-.") or "metric"
        for number in itertools.count(2):
            if stem not in found.values():
                break
            stem = f"{plain}-{number}"
        found[name] = stem
    return found


def _every(found: Picture, axes: Any) -> None:
    """Draw every seed, with the mean, its interval and that of the next seed."""
    shown = _finite(found)
    places = range(len(shown))
    if "mean" in found.values and not found.sources:
        axes.axhspan(*found.values["t_interval"], color=_BLUE, alpha=0.15, lw=0, label="95% interval of the mean")
        axes.axhline(found.values["mean"], color=_BLUE, lw=1, label="mean")
        for edge in found.values["prediction_interval"]:
            axes.axhline(edge, color=_GREY, lw=1, ls=":", label="the next seed: 95%")
    axes.plot(places, [*shown.values()], "o", color=_BLUE, ms=5)
    axes.set_xticks(places, [*shown] if len(shown) <= _MOST_LABELS else [""] * len(shown))
    if max(map(len, shown)) > 4:  # noqa: PLR2004 - names that would run into one another
        axes.tick_params(axis="x", labelrotation=90, labelsize=7)
    axes.set_xlabel(found.what)
    axes.set_ylabel(found.name)
    lost = f", {found.values['diverged']} diverged" if found.values["diverged"] else ""
    axes.set_title(f"every {found.what} (n = {len(shown)}{lost})")
    _legend(axes)


def _legend(axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        axes.legend(once.values(), once.keys(), frameon=False, fontsize=7)


def _curves(found: Picture, axes: Any) -> None:
    """Draw each seed's curve, their mean and its interval at the steps that all have."""
    several = _several(found)
    for curve in several.values():
        axes.plot([*curve], [*curve.values()], color=_GREY, lw=0.7)
    common = sorted(set.intersection(*(set(curve) for curve in several.values())))
    table = np.array([[curve[step] for step in common] for curve in several.values()])
    if len(several) > 1 and common and np.isfinite(table).all():
        low, high = np.array([t_interval(column, _CONFIDENCE) for column in table.T]).T
        axes.fill_between(common, low, high, color=_BLUE, alpha=0.2, lw=0, label="95% interval of the mean")
        axes.plot(common, table.mean(axis=0), color=_BLUE, lw=1.5, label="mean")
    axes.set_xlabel("step")
    axes.set_ylabel(found.name)
    axes.set_title("curves")
    _legend(axes)


def running(values: Sequence[float]) -> list[tuple[int, float, float, float]]:
    """Return n, mean and interval of the mean for the first 2, 3, ... values."""
    counts = range(2, len(values) + 1)
    return [(n, float(np.mean(values[:n])), *t_interval(values[:n], _CONFIDENCE)) for n in counts]


def _by_count(found: Picture, axes: Any) -> None:
    """Draw mean and interval as they were after so many seeds."""
    count, mean, low, high = zip(*running([*_finite(found).values()]), strict=True)
    axes.fill_between(count, low, high, color=_BLUE, alpha=0.2, lw=0, label="95% interval of the mean")
    axes.plot(count, mean, "o-", color=_BLUE, ms=3, lw=1, label="mean")
    axes.set_xticks(count if len(count) <= _MOST_LABELS else count[:: len(count) // 10])
    axes.set_xlabel(f"number of {found.what}s")
    axes.set_ylabel(found.name)
    axes.set_title("interval against n")
    _legend(axes)


def _sources(found: Picture, axes: Any) -> None:
    """Draw the standard deviation that each source makes when it alone varies."""
    names = [*found.sources]
    axes.barh(names, [found.sources[name] for name in names], color=_RED, height=0.6)
    axes.invert_yaxis()
    axes.set_xlabel(f"sd of {found.name}")
    axes.set_title("each source varied alone")

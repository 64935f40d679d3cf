"""The figures of a study of seeds, from its document and the curves that its runs left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repro.report import figures
from repro.report.figures import Curve, Picture
from repro.run import metrics
from repro.store.store import Store


def draw(document: Mapping[str, Any], store: Store, what: str = "seed") -> dict[str, bytes]:
    """Return the figures of all metrics by their files' names; ``document`` is what ``repro seeds --json`` prints."""
    done = [run for run in document["runs"] if run["state"] == "COMPLETED"]
    curves = {run.get("varied", str(run["seed"])): _curves(store, run["run_id"]) for run in done}
    files: dict[str, bytes] = {}
    stems = figures.stems(document["metrics"])
    for name, item in document["metrics"].items():
        of_metric = {key: found[name] for key, found in curves.items() if name in found}
        sources = {
            source: found["metrics"][name]["sd"]
            for source, found in document.get("sources", {}).items()
            if "sd" in found["metrics"].get(name, {})
        }
        picture = Picture(name, item, of_metric, sources if "varied" in document["runs"][0] else {}, what)
        files |= {f"{stems[name]}.{form}": data for form, data in figures.draw(picture).items()}
    return files


def _curves(store: Store, run_id: str) -> dict[str, Curve]:
    series = metrics.series(store.run_folder(run_id))
    return {
        name: [(index if point.step is None else point.step, point.value) for index, point in enumerate(points)]
        for name, points in series.items()
    }

"""Does halving pay? Over trial tables, 200 studies each, as the table in RESULTS.md.

python experiments/tables/run.py FOLDER_OF_TABLES [--repeats 200]
"""

import argparse
import sys
import tempfile
from pathlib import Path

from repro.tune import report, simulation, specification, table

STUDY = "table: {path}\nmethod: {{successive_halving: {{configurations: 16, eta: 2, rungs: {rungs}}}}}\nseed: 0\n"
RUNGS = {"taskset": ("[25%, 50%, 100%]", "[2%, 4%, 100%]"), "algoperf": ("[25%, 50%, 100%]", "[2.5%, 5%, 100%]")}
CONTROLS = ("random_full", "first_then_top", "random_full_at_classical_cost", "first_then_top_at_classical_cost")


def row(path: Path, rungs: str, repeats: int) -> str:
    """Return a line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_text(STUDY.format(path=path, rungs=rungs))
        study = specification.load(file)
    data = table.read(path)
    found = simulation.repeat(study, data, repeats)
    search = found["search"]
    cells = [f"{search['regret']:.3f}, {search['found_best']:.0%}, {search['cost'] / float(data.high):.1f}"]
    for name in CONTROLS:
        item = found.get(name)
        if item is None:
            cells.append("")
            continue
        low, high = item["interval"]
        cells.append(
            f"{item['runs']}: {item['regret']:.3f}, {item['found_best']:.0%}; "
            f"{item['difference']:+.3f} [{low:+.3f}, {high:+.3f}] {item['verdict']}"
        )
    return f"| {path.stem} | {' | '.join(cells)} | {report.verdict(found)} |"


def main() -> None:
    """Print a table for each set of tables and rungs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=200)
    chosen = parser.parse_args()
    for prefix, ladders in RUNGS.items():
        for rungs in ladders:
            sys.stdout.write(f"\n### {prefix}, rungs at {rungs[1:-1]}\n\n")
            head = ["table", "halving", *(name.replace("_", " ") for name in CONTROLS), "against random"]
            sys.stdout.write(f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n")
            for path in sorted(chosen.folder.glob(f"{prefix}-*.npz")):
                sys.stdout.write(row(path, rungs, chosen.repeats) + "\n")


if __name__ == "__main__":
    main()

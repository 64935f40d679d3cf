"""Lists, checks and replays of large stores: how long, how much memory, and how it grows from 1,000 to 20,000 runs.

    python benchmarks/size.py [--runs 1000,20000] [--points 1100000]

A store is made of one real run, sealed again and again under other ids with other metrics: the same files, journal
lines and objects that `repro run` leaves. Every command is a process of its own; times are wall-clock seconds, memory
is the peak resident set in MB (getrusage). The machine is shared: look at the ratios, which are measured in one go.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from repro.base import clock, journal
from repro.record.values import Outcome, Record, seal
from repro.store.store import Store

SCRIPT = "import repro\nfor i in range(3):\n    repro.current().log(step=i, acc=i / 3)\n"
POINTS = """\
import repro
run = repro.current()
for step in range({steps}):
    run.log({{f"m{{k}}": step / (k + 1) for k in range({names})}}, step=step)
"""


def repro(*words: str, cwd: Path) -> tuple[float, float]:
    """Run a command; return its seconds and its peak memory in MB."""
    before = time.perf_counter()
    process = subprocess.Popen(["repro", *words], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"repro {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - before, usage.ru_maxrss / 1e3


def project(folder: Path, script: str) -> Path:
    """Make a project with one script."""
    folder.mkdir(parents=True)
    (folder / "n.py").write_text(script)
    subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)
    return folder


def many(folder: Path, runs: int) -> Path:
    """Make a project whose store has so many runs."""
    root = project(folder, SCRIPT)
    repro("run", "--", "python", "n.py", cwd=root)
    store = Store(root / ".repro")
    (first,) = store.run_ids()
    record, outcome = store.record(first), store.outcome(first)
    if outcome is None:
        raise SystemExit("the first run has no outcome")
    original = store.run_folder(first)
    lines: list[bytes] = []
    for number in range(runs - 1):
        run_id = clock.new_run_id()
        copy = store.run_folder(run_id)
        shutil.copytree(original, copy, copy_function=os.link)
        for name in ("record.json", "outcome.json"):
            (copy / name).unlink(missing_ok=True)
        made = msgspec.structs.replace(record, run_id=run_id)
        ended = msgspec.structs.replace(outcome, run_id=run_id, metrics={"acc": number / runs})
        lines += [_seal(store, copy, "record", made), _seal(store, copy, "outcome", ended)]
    _append(store.journal, lines)
    return root


def _seal(store: Store, folder: Path, kind: str, value: Record | Outcome) -> bytes:
    from repro.base import digest

    path = folder / f"{kind}.json"
    path.write_bytes(seal(value))
    path.chmod(0o444)
    place = path.relative_to(store.folder).as_posix()
    entry = {"kind": kind, "run": value.run_id, "path": place, "digest": digest.of_file(path), "time": clock.now()}
    return msgspec.json.encode(entry)


def _append(path: Path, entries: list[bytes]) -> None:
    """Append lines to a journal as `journal.append` does, without a sync for each."""
    from repro.base import canonical, digest

    last = path.read_bytes().splitlines()[-1]
    number, previous = msgspec.json.decode(last)["seq"], digest.of_bytes(last)
    with path.open("ab") as file:
        for data in entries:
            number += 1
            entry = msgspec.json.decode(data) | {"seq": number, "prev": previous}
            line = canonical.dumps(entry | {"sum": digest.of_bytes(canonical.dumps(entry))})
            previous = digest.of_bytes(line)
            file.write(line + b"\n")
    if faults := journal.check(path)[1]:
        raise SystemExit(faults[0])


def of_runs(place: Path, counts: list[int]) -> None:
    """Print what commands take in stores of so many runs."""
    commands = {
        "ls, first": ("ls",),
        "ls, again": ("ls",),
        "verify last": ("verify", "last"),
        "verify": ("verify",),
        "run, lost cache": ("run", "--", "python", "n.py"),
        "run": ("run", "--", "python", "n.py"),
    }
    print(f"{'runs':>8}  " + "  ".join(f"{name:>16}" for name in commands))
    for count in counts:
        root = many(place / str(count), count)
        shown = []
        for name, words in commands.items():
            if name == "ls, first":
                (root / ".repro" / "index.sqlite").unlink(missing_ok=True)
            if name == "run, lost cache":
                shutil.rmtree(root / ".repro" / "cache")
            seconds, memory = repro(*words, cwd=root)
            shown.append(f"{seconds:6.2f} s {memory:4.0f} MB")
        print(f"{count:>8}  " + "  ".join(f"{text:>16}" for text in shown), flush=True)
        shutil.rmtree(root)


def of_points(place: Path, points: int, names: int = 2_001) -> None:
    """Print what the replay and the lists of a run with so many points take."""
    root = project(place / "points", POINTS.format(steps=points // names, names=names))
    for words in (("run", "--", "python", "n.py"), ("replay", "last"), ("log", "last"), ("log", "last", "--csv")):
        seconds, memory = repro(*words, cwd=root)
        print(f"{points:>10,} points  {' '.join(words[:3]):<18} {seconds:6.2f} s {memory:4.0f} MB", flush=True)
    shutil.rmtree(root)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="1000,20000", help="sizes of stores, with commas")
    parser.add_argument("--points", type=int, default=1_100_000)
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        if asked.runs:
            of_runs(Path(folder), [int(text) for text in asked.runs.split(",")])
        if asked.points:
            of_points(Path(folder), asked.points)


if __name__ == "__main__":
    main()

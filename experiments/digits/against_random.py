"""Hyperband in rounds up to 1,600 epochs against 64 random configurations in full (6,400 epochs), five study seeds.

    python experiments/digits/against_random.py FOLDER [--seeds 5] [--workers 2] [--only hyperband]

FOLDER gets a copy of the experiment with its studies, and the store; run again, it goes on. Prints a line for each
study: the best of the search, and the best on five fresh seeds with its interval.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
METHODS = {"hyperband": ("{hyperband: {eta: 2}}", "budget: 1600"), "random": ("random", "trials: 64")}
STUDY = """\
experiment: experiment.yaml
space:
  optimizer: {{choice: [sgd, adam]}}
  lr: {{log: [1.0e-4, 1.0]}}
  batch_size: {{power_of_two: [16, 256]}}
  momentum: {{uniform: [0.0, 0.99], when: {{optimizer: sgd}}}}
method: {method}
fidelity: {{epochs: [25, 100]}}
objective: {{val_acc: max}}
seeds: {{per_trial: 1, finalists: 5}}
seed: {seed}
{limit}
"""


def lay_out(folder: Path, seeds: int) -> None:
    """Write the experiment and all studies first: they are part of the code that is captured."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train.py", "experiment.yaml"):
        shutil.copy(HERE / name, folder / name)
    for seed in range(seeds):
        for name, (method, limit) in METHODS.items():
            text = STUDY.format(method=method, limit=limit, seed=seed)
            (folder / f"{name}-{seed}.yaml").write_text(text)


def tune(folder: Path, name: str, workers: int) -> dict:
    """Run a study, and return its document."""
    command = [str(Path(sys.executable).with_name("repro")), "tune", name, "--json", "--workers", str(workers)]
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def main() -> None:
    """Run all studies, and print what they came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=METHODS)
    chosen = parser.parse_args()
    lay_out(chosen.folder, chosen.seeds)
    for name in [chosen.only] if chosen.only else METHODS:
        for seed in range(chosen.seeds):
            found = tune(chosen.folder, f"{name}-{seed}.yaml", chosen.workers)
            best, first = found["best"], found["finalists"][0]
            low, high = first["interval"]
            ties = sum(bool(item["tie"]) for item in found["finalists"][1:])
            sys.stdout.write(
                f"| {name} | {seed} | {len(found['trials'])} | {found['budget_spent']} | {found['budget_retrained']} |"
                f" {best['metrics']['val_acc']:.4f} | {best['metrics']['test_acc']:.4f} |"
                f" {first['mean']:.4f} [{low:.4f}, {high:.4f}] | {ties} |\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()

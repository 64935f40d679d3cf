"""How many trials a second the tuner decides, beside Optuna in memory with its Hyperband pruner, in one run.

    .venv/bin/python benchmarks/tune.py            10,000 trials here, 2,000 of Optuna's

No training: a trial's loss is a formula of its configuration and budget. Ours draws from a space of four parameters,
runs Hyperband (eta 2, 25 to 100) through the simulated engine, and writes the decision log's lines with their digest.
Optuna draws the same four parameters (RandomSampler), reports at 25, 50 and 100, and prunes by HyperbandPruner; each of
its trials costs more than the one before, so fewer of them flatter it.
"""

import argparse
import itertools
import math
import statistics
import time

import optuna

from repro.engines.simulated import Simulated
from repro.tune import brackets, decisions, domains, draws
from repro.tune.brackets import Brackets
from repro.tune.draws import Draws
from repro.tune.drive import drive
from repro.tune.scheduler import Limits, Trials
from repro.tune.search import Amount, Score

SPACE = {
    "optimizer": {"choice": ["sgd", "adam"]},
    "lr": {"log": [1.0e-4, 1.0]},
    "batch_size": {"power_of_two": [16, 256]},
    "momentum": {"uniform": [0.0, 0.99], "when": {"optimizer": "sgd"}},
}
LIMIT = 2.0  # seconds for 10,000 trials
TIMES = 10  # as many a second as Optuna


def loss(params: dict, budget: float) -> float:
    """Return a loss that falls with the budget, and is least at a learning rate of 0.01."""
    away = (math.log10(params["lr"]) + 2) ** 2 + (params.get("momentum", 0.5) - 0.9) ** 2
    return away + params["batch_size"] / 1000 + 10 / budget


def ours(count: int) -> tuple[float, str]:
    """Return the seconds that so many trials take, and the digest of their decisions."""

    def fail(place: tuple, message: str, hint: str | None = None) -> None:
        raise ValueError(place, message, hint)

    start = time.perf_counter()
    space = domains.read(SPACE, fail)
    shapes = brackets.hyperband((Amount(25), Amount(50), Amount(100)), Amount(2))
    scheduler = Brackets(shapes, Trials(Draws(draws.random(space, 7)), "min"), Limits(count))
    params = scheduler.trials.params
    engine = Simulated(
        2,
        lambda job: Score(loss(params(job.trial), float(job.budget))),
        lambda job: float(job.budget - job.start),
    )
    drive(scheduler, engine)
    digest = decisions.digest_of(map(decisions.line, scheduler.entries))
    assert len(scheduler.trials.all) == count  # noqa: S101  (what is timed is what is claimed)
    return time.perf_counter() - start, digest


def theirs(count: int) -> float:
    """Return the seconds that so many trials take Optuna."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial: optuna.Trial) -> float:
        optimizer = trial.suggest_categorical("optimizer", ["sgd", "adam"])
        params = {
            "lr": trial.suggest_float("lr", 1e-4, 1.0, log=True),
            "batch_size": 2 ** trial.suggest_int("batch_size", 4, 8),
        }
        if optimizer == "sgd":
            params["momentum"] = trial.suggest_float("momentum", 0.0, 0.99)
        for budget in (25, 50, 100):
            trial.report(loss(params, budget), budget)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss(params, 100)

    start = time.perf_counter()
    study = optuna.create_study(
        study_name="benchmark",
        sampler=optuna.samplers.RandomSampler(seed=7),
        pruner=optuna.pruners.HyperbandPruner(min_resource=25, max_resource=100, reduction_factor=2),
    )
    study.optimize(objective, n_trials=count)
    return time.perf_counter() - start


def main() -> None:
    """Print both, and whether the claims hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000, help="of ours")
    parser.add_argument("--optuna", type=int, default=2_000, help="of Optuna's")
    chosen = parser.parse_args()
    runs = [ours(chosen.trials) for _ in range(3)]
    seconds = statistics.median(item[0] for item in runs)
    print(f"repro: {chosen.trials:,} trials of Hyperband in {seconds:.2f} s (median of 3; the limit is {LIMIT:g} s)")
    print(f"       {', '.join(f'{item[0]:.2f}' for item in runs)} s; {chosen.trials / seconds:,.0f} a second")
    print(f"       one digest: {all(a[1] == b[1] for a, b in itertools.pairwise(runs))}, {runs[0][1]}")
    other = theirs(chosen.optuna)
    print(
        f"optuna {optuna.__version__}: {chosen.optuna:,} trials in {other:.2f} s, {chosen.optuna / other:,.0f} a second"
    )
    times = (chosen.trials / seconds) / (chosen.optuna / other)
    print(f"repro decides {times:.1f} times as many a second (the limit is {TIMES})")


if __name__ == "__main__":
    main()

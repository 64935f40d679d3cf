"""Studies over trial tables: figures on real trainings, the store, verification, errors, by the command line."""

import random
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from repro.tune import decisions, report, simulation, specification, table

TABLES = ROOT.parent / "shared" / "data" / "tables"
real = pytest.mark.skipif(not TABLES.is_dir(), reason="the tables of shared/data are not beside this clone")
HALVING = "{successive_halving: {configurations: 16, eta: 2, rungs: 3}}"


def write(folder, name="table.npz", **changed):
    """Write a small table: 40 configurations, 8 budgets, 3 seeds; the final loss is the configuration's x."""
    x = np.arange(40, dtype=float)
    budget = np.arange(1, 9) * 10
    noise = np.random.default_rng(0).normal(size=(40, 8, 3))
    metric = x[:, None, None] + noise * (8 - np.arange(8))[None, :, None] / 2
    metric[5] = np.nan
    arrays = {
        "param_names": np.array(["x", "y"]),
        "params": np.stack([x, x % 3], axis=1),
        "budget": budget,
        "budget_name": np.array("epoch"),
        "metric": metric.astype(np.float32),
        "metric_name": np.array("loss"),
        "mode": np.array("min"),
        "source": np.array("made"),
    }
    arrays |= changed
    np.savez(folder / name, **{name: value for name, value in arrays.items() if value is not None})
    return folder / name


def study_of(folder, method, more="", name="study.yaml", path="table.npz"):
    """Write and read a study file over a table."""
    (folder / name).write_text(f"table: {path}\nmethod: {method}\n{more}\n")
    return specification.load(folder / name)


def digest_of(found):
    """The digest of a simulation's decisions."""
    return decisions.digest_of(map(decisions.line, found.scheduler.entries))


@real
def test_the_figures_on_taskset(tmp_path):
    """Over 200 repeats the classical halving wins against random search of equal cost on each of the 12 tables.

    The mean regret is at most 0.03, and the best of the 16 is found in at least 90%.
    """
    found = [
        simulation.repeat(study_of(tmp_path, HALVING, path=path), table.read(path), 200)
        for path in sorted(TABLES.glob("taskset-*.npz"))
    ]
    assert [report.verdict(item) for item in found] == ["won"] * 12
    assert np.mean([item["search"]["regret"] for item in found]) <= 0.03
    assert np.mean([item["random_full"]["regret"] for item in found]) == pytest.approx(0.28, abs=0.02)
    assert np.mean([item["search"]["found_best"] for item in found]) >= 0.9
    assert all((item["random_full"]["runs"], item["first_then_top"]["runs"]) == (8, 8) for item in found)
    assert all(79_000 < item["search"]["cost"] <= 80_000 for item in found)  # what diverged is never promoted


#: What eight trainings in full come to, at random and after one first evaluation.
_EIGHT = ("random_full_at_classical_cost", "first_then_top_at_classical_cost")


@real
def test_early_rungs_on_algoperf(tmp_path):
    """With rungs at 25, 50, 100% halving wins on all workloads; at 2.5, 5, 100% it wins clearly on few, and it says so.

    What it loses against is named: eight in full, which is what the classical rungs cost, at random or after one first
    evaluation.
    """
    ends = {"classical": [], "early": []}
    for path in sorted(TABLES.glob("algoperf-*.npz")):
        data = table.read(path)
        for name, rungs in (("classical", "3"), ("early", "[2.5%, 5%, 100%]")):
            method = HALVING.replace("rungs: 3", f"rungs: {rungs}")
            ends[name].append(simulation.repeat(study_of(tmp_path, method, path=path), data, 200))
    assert [report.verdict(item) for item in ends["classical"]] == ["won"] * 6
    early = ends["early"]
    assert sum(report.verdict(item) == "won" for item in early) <= 1
    assert sum(item["random_full_at_classical_cost"]["difference"] > 0 for item in early) >= 4
    assert [item["first_then_top_at_classical_cost"]["verdict"] for item in early] == ["lost"] * 6
    mean = {name: np.mean([item[name]["regret"] for item in early]) for name in ("search", *_EIGHT)}
    assert list(mean.values()) == pytest.approx([0.14, 0.09, 0.05], abs=0.01)
    assert all("the search lost against" in "".join(report.repeated(_summary(item))) for item in early)


def _summary(found):
    known = {"method": "x", "table": "t", "repeats": 200, "seed": 0, "budget_unit": "s", "summary": found}
    return known | {"verdict": report.verdict(found)}


METHODS = [
    HALVING,
    "{hyperband: {eta: 2}}",
    "{asha: {eta: 2, workers: 3, rungs: 4}}",
    "{median_stopping: {rungs: 4, after: 2}}",
    "random",
    "grid",
]


@pytest.mark.parametrize("method", METHODS)
def test_workers_and_delays_decide_nothing(method, tmp_path):
    """By the hundred: any number of workers and any delays leave the decisions of one worker without delay."""
    write(tmp_path)
    study = study_of(tmp_path, method, "trials: 30\nseed: 7")
    data = table.read(tmp_path / "table.npz")
    expected = digest_of(simulation.simulate(study, data))
    for turn in range(30):
        assert digest_of(simulation.simulate(study, data, 1 + turn % 8, delays(turn))) == expected


def delays(turn):
    """Delays that depend on the turn; every third has none."""
    chance = random.Random(turn)  # noqa: S311  (delays in a test)
    return (lambda _job: chance.expovariate(0.05)) if turn % 3 else (lambda _job: 0.0)


def test_the_clock_is_virtual(tmp_path):
    """Four workers take less virtual time than one, which takes as long as the budget that was spent."""
    write(tmp_path)
    study, data = study_of(tmp_path, HALVING), table.read(tmp_path / "table.npz")
    one, four = simulation.simulate(study, data, 1), simulation.simulate(study, data, 4)
    assert one.clock == one.scheduler.trials.spent == 16 * 80 / 2
    assert four.clock < one.clock / 3


def test_the_column_of_a_budget(tmp_path):
    """A budget's column is the last one within it; a budget before the first column has the first."""
    data = table.read(write(tmp_path))
    assert [data.column(amount) for amount in (5, 10, 19, 20, 79, 80)] == [0, 0, 0, 1, 6, 7]


def test_what_diverged_comes_last(tmp_path):
    """A configuration that ends in NaN is ranked last with its reason, and is never promoted."""
    write(tmp_path)
    study = study_of(tmp_path, "{successive_halving: {configurations: 40, eta: 2, rungs: 3}}")
    found = simulation.simulate(study, table.read(tmp_path / "table.npz"))
    last = found.scheduler.entries[40]["ranked"][-1]
    assert last[1] == "diverged: NaN"
    assert last[0] not in found.scheduler.entries[40]["promoted"]
    assert found.scheduler.trials.params(last[0])["x"] == 5


def test_one_document(project):
    """`repro tune --json` prints one document with the promised keys; a second time nothing is run."""
    write(project.root)
    study_of(project.root, HALVING, "seed: 7")
    first = project.repro("tune", "study.yaml", "--json", check=0).json
    second = project.repro("tune", "study.yaml", "--json", "--workers", "2", check=0).json
    assert {"study_id", "best", "trials", "budget_spent", "decisions_digest", "controls"} <= first.keys()
    assert {"params", "metrics", "run_id"} <= first["best"].keys()
    assert (first["budget_spent"], first["budget_retrained"], len(first["trials"])) == (640, 960, 16)
    assert (first["run_now"], second["run_now"]) == (28, 0)
    changing = ("run_now", "virtual_time")
    assert {k: v for k, v in first.items() if k not in changing} == {
        k: v for k, v in second.items() if k not in changing
    }
    assert first["best"]["run_id"] is None
    assert first["best"]["metrics"]["loss"] == min(
        trial["metrics"]["loss"] for trial in first["trials"] if trial["state"] == "finished"
    )
    assert first["controls"]["random_full"]["runs"] == 8


def test_a_study_is_looked_at(project):
    """`repro study` shows a kept study by its id, its file, or last, and derives its decisions again."""
    write(project.root)
    study_of(project.root, "{hyperband: {eta: 2}}", "fidelity: {epoch: [20, 80]}")
    found = project.repro("tune", "study.yaml", "--json", check=0).json
    assert "3 x" not in project.repro("tune", "study.yaml", "--dry-run", check=0).out
    assert project.repro("study", "show", found["study_id"][:5], "--json", check=0).json["best"] == found["best"]
    assert project.repro("study", "best", "study.yaml", "--json", check=0).json == found["best"]
    assert project.repro("study", "trials", "last", "--json", check=0).json == found["trials"]
    log = project.repro("study", "decisions", "last", "--json", check=0).json
    assert log["decisions_digest"] == found["decisions_digest"]
    assert len(log["decisions"]) == found["decisions"]
    assert "promoted" in project.repro("study", "decisions", "last", check=0).out
    assert project.repro("study", "verify", "last", "--json", check=0).json["digest"] == found["decisions_digest"]
    assert project.repro("verify", check=0).code == 0


def test_a_changed_log_is_found(project):
    """A decision that was changed in the log, or a table that is another one, is told."""
    write(project.root)
    study_of(project.root, HALVING)
    found = project.repro("tune", "study.yaml", "--json", check=0).json
    log = project.store / "studies" / found["study_id"] / "decisions.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b'"promoted":[', b'"promoted":[99,', 1))
    verified = project.repro("study", "verify", "last", "--json", check=3).json
    assert "decision 16 in the log" in verified["faults"][0]
    assert "decision 16" in project.repro("tune", "study.yaml", check=2).err
    log.write_bytes(whole[:-20])
    assert "the log ends after 18 decisions" in project.repro("study", "verify", "last", check=3).out
    assert project.repro("tune", "study.yaml", "--json", check=0).json["decisions_digest"] == found["decisions_digest"]
    assert log.read_bytes() == whole
    write(project.root, mode=np.array("max"))
    assert "is not the table" in project.repro("study", "verify", "last", check=2).err
    assert "another table" in project.repro("tune", "study.yaml", check=2).err


def test_sealed_files_of_a_study(project):
    """`repro verify` finds a study's specification that was changed, and one that no line of the journal knows."""
    write(project.root)
    study_of(project.root, HALVING)
    study_id = project.repro("tune", "study.yaml", "--json", check=0).json["study_id"]
    folder = project.store / "studies" / study_id
    (folder / "ends" / "0001.json").write_text("{}")
    assert "ends/0001.json is in no line of the journal" in project.repro("verify", check=3).out
    (folder / "ends" / "0001.json").unlink()
    (folder / "specification.json").chmod(0o644)
    (folder / "specification.json").write_bytes(
        (folder / "specification.json").read_bytes().replace(b"halving", b"halvinG")
    )
    assert "specification.json was changed after it was sealed" in project.repro("verify", check=3).out


def test_a_crash_between_sealing_and_the_journal(project):
    """A file of a study that a crash left out of the journal is entered when the study goes on."""
    write(project.root)
    study_of(project.root, HALVING)
    project.repro("tune", "study.yaml", check=0)
    journal = next(project.store.glob("journal*.jsonl"))
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b"ends/0000.json" in lines[-1]
    assert b"specification.json" in lines[-2]
    journal.write_bytes(b"".join(lines[:-2]))
    assert "is in no line of the journal" in project.repro("verify", check=3).out
    project.repro("tune", "study.yaml", check=0)
    assert "specification.json" in project.repro("verify", check=0).out


def test_a_raised_limit_extends_the_study(project):
    """--trials is no part of what is sealed: raising it goes on with the same study, and the log only grows."""
    write(project.root)
    study_of(project.root, "{hyperband: {eta: 2}}", "fidelity: {epoch: [20, 80]}")
    first = project.repro("tune", "study.yaml", "--json", check=0).json
    second = project.repro("tune", "study.yaml", "--trials", "20", "--json", check=0).json
    assert second["study_id"] == first["study_id"]
    assert (len(first["trials"]), len(second["trials"])) == (10, 20)
    assert second["trials"][:10] == first["trials"]
    assert second["budget_spent"] == 2 * first["budget_spent"]
    assert project.repro("study", "verify", "last", check=0).code == 0
    budget = project.repro("tune", "study.yaml", "--budget", "1280", "--dry-run", "--json", check=0).json
    assert (budget["trials"], budget["budget"], budget["budget_retrained"]) == (24, 1280, 1600)


def test_a_changed_study_is_refused(project):
    """A study that was changed after it began is refused by what changed, with the way on: --new, or put it back."""
    write(project.root)
    study_of(project.root, HALVING, "seed: 7")
    first = project.repro("tune", "study.yaml", "--json", check=0).json
    study_of(project.root, HALVING, "seed: 8")
    refused = project.repro("tune", "study.yaml", check=2).err
    assert "specification.seed" in refused
    assert "--new" in refused
    second = project.repro("tune", "study.yaml", "--new", "--json", check=0).json
    assert second["study_id"] != first["study_id"]
    study_of(project.root, HALVING, "seed: 7  # a comment is no change\n")
    again = project.repro("tune", "study.yaml", "--json", check=0).json
    assert (again["study_id"], again["run_now"]) == (first["study_id"], 0)


def test_an_experiment_after_a_table(project):
    """A study file that was over a table and now is of an experiment is another study: refused by what changed."""
    write(project.root)
    study_of(project.root, HALVING)
    project.repro("tune", "study.yaml", check=0)
    project.write("experiment.yaml", "name: x\ncommand: python -c pass {x}\nparams: {x: 1.0}\n")
    project.write(
        "study.yaml",
        "experiment: experiment.yaml\nspace: {x: {choice: [1.0, 2.0]}}\nmethod: grid\nobjective: {loss: min}\n",
    )
    assert "was begun with another" in project.repro("tune", "study.yaml", check=2).err


def test_finalists_on_fresh_seeds(tmp_path):
    """The best three are evaluated on seeds that the search did not see; a tie within the interval is called one."""
    from repro.tune import finalists

    found = finalists.compared(
        {1: [1.0, 2.0, 3.0], 2: [1.1, 1.9, 3.1], 3: [9.0, 9.1, 9.2], 4: [0.0, np.nan, 0.0]}, "min"
    )
    assert [(item["trial"], item["tie"]) for item in found] == [(1, True), (2, True), (3, False), (4, None)]
    data = table.read(write(tmp_path))
    study = study_of(tmp_path, HALVING, "seeds: {per_trial: 1, finalists: 2}")
    first = data.first(study.seed)
    expected = [float(data.metric[3, -1, (first + at) % 3]) for at in (1, 2)]
    assert simulation.fresh(study, data, 3) == expected


def test_repeats_by_the_command_line(project):
    """--repeats prints the search beside its controls with intervals, and keeps nothing."""
    write(project.root)
    study_of(project.root, HALVING)
    found = project.repro("tune", "study.yaml", "--repeats", "20", "--json", check=0).json
    assert found["verdict"] in ("won", "lost", "undecided")
    assert len(found["summary"]["random_full"]["interval"]) == 2
    assert "against random search" in project.repro("tune", "study.yaml", "--repeats", "20", check=0).out
    assert not (project.store / "studies").exists()


WRONG = [
    ("method: portfolio", "portfolio"),
    ("method: {portfolio: {}}", "portfolio"),
    ("method: hyperbnad", "did you mean 'hyperband'"),
    ("methd: random", "unknown key 'methd'"),
    ("method: tpe", "tpe needs a space"),
    ("method: random", "a limit is expected"),
    ("method: {successive_halving: {eta: 2}}", "'configurations' is missing"),
    ("method: {successive_halving: {configurations: 16, eta: 1}}", "a number above 1 is expected"),
    ("method: {successive_halving: {configurations: 3, eta: 2, rungs: 3}}", "leave none for rung 3"),
    ("method: {successive_halving: {configurations: 16, rungs: [5, 7]}}", "the last budget is 7"),
    ("method: {successive_halving: {configurations: 16, rungs: [0.5, 0.25, 1.0]}}", "budgets that grow"),
    ("method: {successive_halving: {configurations: 16, rungs: [1/0%, 100%]}}", "a number of rungs is expected"),
    ("method: {successive_halving: {configurations: 99}}", "leave no room"),
    ("method: hyperband\ntrials: 2", "the limits leave no room"),
    ("method: hyperband\nspace: {x: {choice: [1]}}", "a table has its own configurations"),
    ("method: hyperband\nobjective: {acc: max}", "the table has loss: min"),
    ("method: hyperband\nfidelity: {step: [1, 2]}", "the table has epoch up to 80"),
    ("method: hyperband\nseeds: {per_trial: 2, finalists: 2}", "the table has 3"),
    ("method: hyperband\nseeds: {finalist: 2}", "did you mean 'finalists'"),
    ("method: hyperband\nseed: -1", "a whole number from 0 on"),
    ("method: hyperband\ntrials: many", "a whole number from 1 on"),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_what_is_wrong_with_a_study_file(text, words, project, capsys, monkeypatch):
    """A study file that cannot be understood is exit code 2 with what was expected, and leaves no study."""
    from repro.cli.main import _guarded

    write(project.root)
    project.write("study.yaml", f"table: table.npz\n{text}\n")
    monkeypatch.chdir(project.root)
    assert _guarded(["tune", "study.yaml"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (project.store / "studies").exists()


BROKEN = [
    ({"budget": np.array([3, 2, 1, 4, 5, 6, 7, 8])}, "increasing amounts"),
    ({"mode": np.array("best")}, "min or max"),
    ({"metric": None}, "'metric' is missing"),
    ({"metric": np.zeros((40, 7))}, "metric: shape (40, 8)"),
    ({"params": np.zeros((40, 3))}, "params: shape (C, 2)"),
    ({"config_names": np.array(["a"])}, "config_names: 40 are expected"),
]


@pytest.mark.parametrize(("changed", "words"), BROKEN)
def test_what_is_wrong_with_a_table(changed, words, tmp_path):
    """A table with arrays that do not fit is refused by what does not."""
    from repro.errors import ConfigError

    with pytest.raises(ConfigError) as error:
        table.read(write(tmp_path, **changed))
    assert words in str(error.value)


@pytest.mark.parametrize("data", [b"", b"no archive", None])
def test_what_is_no_table(data, tmp_path):
    """A file that is no archive, or is not there, is an error that names it; pickles are never loaded."""
    from repro.errors import ConfigError

    path: Path = tmp_path / "table.npz"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"table\.npz"):
        table.read(path)
    np.savez(path, metric=np.array([{}], dtype=object))
    with pytest.raises(ConfigError, match="pickle"):
        table.read(path)


def test_rungs_in_three_ways(tmp_path):
    """Fractions, per cent and amounts mean the same rungs."""
    write(tmp_path)
    data = table.read(tmp_path / "table.npz")
    found = []
    for rungs in ("[0.25, 0.5, 1.0]", "[25%, 50%, 100%]", "[25, 50, 100]", "[20, 40, 80]", "3"):
        study = study_of(tmp_path, HALVING.replace("rungs: 3", f"rungs: {rungs}"))
        found.append(digest_of(simulation.simulate(study, data)))
    assert len(set(found)) == 1


def test_rank_correlation():
    """Spearman's rho as scipy has it, ties shared, with what diverged at the end; its interval covers it."""
    from scipy import stats

    from repro.tune import controls

    chance = np.random.default_rng(3)
    for _ in range(20):
        one = chance.integers(0, 6, 12).astype(float)
        other = one + chance.normal(size=12)
        found = controls.rank_correlation(one, other)
        assert found["rho"] == pytest.approx(stats.spearmanr(one, other).statistic)
        assert found["interval"][0] < found["rho"] < found["interval"][1]
    assert controls.rank_correlation(np.array([1.0, np.inf, 2.0]), np.array([1.0, 9.0, np.inf]))["rho"] == 0.5
    assert controls.rank_correlation(np.ones(5), np.arange(5.0))["rho"] is None


def test_regret():
    """0 is the best of all at the full budget, 1 their median or worse; what diverged is the worst of all.

    Where more than half diverged there is no such median: then it is that of the others.
    """
    from repro.tune import controls

    losses = np.array([1.0, 2.0, 3.0, 5.0, 9.0, np.inf])
    found = [controls.regret(losses, value) for value in (1.0, 2.5, 4.0, 9.0, np.inf)]
    assert found == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert controls.regret(np.array([1.0, 2.0, 3.0, np.inf, np.inf, np.nan, np.inf]), 1.5) == 0.5
    assert controls.regret(np.full(3, np.inf), np.inf) == 0.0

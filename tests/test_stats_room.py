"""What holds for all of `repro.stats`: seeds matter and global state does not, bad input is named, import is light."""

import math
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from repro import stats

NAN, INF = math.nan, math.inf
X = [0.91, 0.93, 0.90, 0.97, 0.92]
#: More pairs than the permutation test takes all patterns of.
A, B = np.random.default_rng(1).standard_normal((2, 25))
ROWS = [[0.5, 0.5], [0.2, 0.8]]

RANDOM = {
    "bootstrap_interval": lambda rng: stats.bootstrap_interval(A, rng=rng, resamples=200),
    "bca_interval": lambda rng: stats.bca_interval(A, rng=rng, resamples=200),
    "permutation_p": lambda rng: stats.permutation_p(A, B, rng=rng, resamples=200),
    "compare_paired": lambda rng: stats.compare_paired(A, B, rng=rng).permutation_p,
}


@pytest.mark.parametrize("draw", RANDOM.values(), ids=RANDOM)
def test_the_generator_decides_and_nothing_else(draw):
    """The same seed gives the same, other seeds give others; global seeds neither matter nor change."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is what is tested
    before = random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    found = [draw(np.random.default_rng(seed)) for seed in (0, 1, 2, 3)]
    assert (random.getstate(), repr(np.random.get_state())) == before  # noqa: NPY002
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert draw(np.random.default_rng(0)) == found[0]
    assert len(set(found)) > 1


def test_a_generator_goes_on():
    """Two calls with one generator draw different resamples."""
    rng = np.random.default_rng(0)
    assert RANDOM["bca_interval"](rng) != RANDOM["bca_interval"](rng)


RNG = np.random.default_rng(0)
BAD = {
    "t_interval: one value": (lambda: stats.t_interval([1.0], 0.95), "2 values are expected"),
    "t_interval: a table": (lambda: stats.t_interval([[1.0, 2.0]], 0.95), "1 dimension"),
    "t_interval: nothing": (lambda: stats.t_interval([], 0.95), "something in it"),
    "t_interval: NaN": (lambda: stats.t_interval([1.0, NAN], 0.95), "finite"),
    "t_interval: confidence 95": (lambda: stats.t_interval(X, 95), "confidence: a number above 0 and below 1"),
    "t_interval: confidence NaN": (lambda: stats.t_interval(X, NAN), "confidence"),
    "sd_interval: infinity": (lambda: stats.sd_interval([1.0, INF], 0.95), "finite"),
    "sd_interval: confidence 0": (lambda: stats.sd_interval(X, 0), "confidence"),
    "prediction_interval: one value": (lambda: stats.prediction_interval([1.0], 0.95), "2 values"),
    "prediction_interval: confidence 1": (lambda: stats.prediction_interval(X, 1), "confidence"),
    "predict: NaN": (lambda: stats.predict(X, NAN), "new: a finite number"),
    "running: one value": (lambda: stats.running([1.0]), "2 values"),
    "summarize: NaN": (lambda: stats.summarize([1.0, NAN]), "finite"),
    "iqm: one value": (lambda: stats.iqm([1.0]), "2 values"),
    "bootstrap: NaN": (lambda: stats.bootstrap_interval([1.0, NAN], rng=RNG), "finite"),
    "bootstrap: no resamples": (lambda: stats.bootstrap_interval(X, rng=RNG, resamples=0), "resamples"),
    "bca: confidence": (lambda: stats.bca_interval(X, 1.5, rng=RNG), "confidence"),
    "improvement: lengths": (lambda: stats.probability_of_improvement([1, 2], [1, 2, 3]), "a has 2 values and b has 3"),
    "improvement: one pair": (lambda: stats.probability_of_improvement([1], [1]), "a: 2 values"),
    "sign_test_p: NaN": (lambda: stats.sign_test_p([1, 2], [1, NAN]), "b: only finite"),
    "permutation_p: lengths": (lambda: stats.permutation_p([1, 2], [1, 2, 3], rng=RNG), "pairs are expected"),
    "compare_paired: confidence": (lambda: stats.compare_paired(A, B, rng=RNG, confidence=2), "confidence"),
    "clopper_pearson: wins": (lambda: stats.clopper_pearson(6, 5), "5 are possible"),
    "clopper_pearson: half a win": (lambda: stats.clopper_pearson(2.5, 5), "whole number"),
    "holm: above 1": (lambda: stats.holm([0.5, 1.5]), "from 0 to 1"),
    "holm: none": (lambda: stats.holm([]), "something in it"),
    "noether: gamma": (lambda: stats.noether_sample_size(0.5, 0.05, 0.05), "above 0.5"),
    "sign test: gamma NaN": (lambda: stats.sign_test_sample_size(NAN, 0.05, 0.05), "above 0.5"),
    "sign test: alpha": (lambda: stats.sign_test_sample_size(0.75, 0, 0.05), "alpha"),
    "detectable: one seed": (lambda: stats.minimum_detectable_effect(1, 0.8, False), "2 or more"),
    "detectable: power below alpha": (lambda: stats.minimum_detectable_effect(5, 0.01, False), "power"),
    "seeds_needed: no effect": (lambda: stats.seeds_needed(0), "effect"),
    "t_test_power: effect NaN": (lambda: stats.t_test_power(NAN, 5), "effect"),
    "welch_power: sd": (lambda: stats.welch_power(1, 0, 1, 5), "sd_a"),
    "expected_best: none": (lambda: stats.expected_best(0), "1 or more"),
    "variance_of_mean: rho": (lambda: stats.variance_of_mean(1, -0.6, 3), "rho"),
    "variance_of_mean: variance": (lambda: stats.variance_of_mean(-1, 0, 3), "variance"),
    "winner: one model": (lambda: stats.one_seed_picks_winner([[1, 2]]), "2 x 2"),
    "split: not 0 or 1": (lambda: stats.split_variance([[0, 2], [1, 1]]), "only 0 and 1"),
    "split: halves": (lambda: stats.split_variance([[0, 0.5], [1, 1]]), "only 0 and 1"),
    "split: NaN": (lambda: stats.split_variance([[0, NAN], [1, 1]]), "finite"),
    "split: one seed": (lambda: stats.split_variance([[0, 1]]), "2 x 2"),
    "real_variance: below 0": (lambda: stats.real_variance(-1, 0, 10), "variances of 0 or more"),
    "calibrated_variance: percent": (lambda: stats.calibrated_variance(5, 10), "share from 0 to 1"),
    "churn: one seed": (lambda: stats.churn([[1, 2]]), "two seeds"),
    "churn: probabilities": (lambda: stats.churn([[0.1], [0.2]]), "whole numbers are expected"),
    "class_spread: lengths": (lambda: stats.class_spread([[1, 0], [0, 1]], [1]), "each of the 2 examples"),
    "nll: logits": (lambda: stats.nll([[1.5, -0.5]], [0]), "probabilities are expected"),
    "nll: sums": (lambda: stats.nll([[0.5, 0.6]], [0]), "sums to 1"),
    "nll: labels": (lambda: stats.nll(ROWS, [0, 2]), "0 to 1 are expected"),
    "nll: a label below 0": (lambda: stats.nll(ROWS, [0, -1]), "0 to 1 are expected"),
    "nll: lengths": (lambda: stats.nll(ROWS, [0]), "each of the 2 examples"),
    "calibration_error: bins": (lambda: stats.calibration_error(ROWS, [0, 1], bins=0), "bins"),
    "ensemble: weights": (lambda: stats.ensemble([ROWS, ROWS], [1]), "each of the 2 members"),
    "ensemble: a weight below 0": (lambda: stats.ensemble([ROWS, ROWS], [2, -1]), "0 or more"),
    "ensemble: all weights 0": (lambda: stats.ensemble([ROWS, ROWS], [0, 0]), "not all 0"),
    "ensemble: one member's table": (lambda: stats.ensemble(ROWS), "3 dimensions"),
    "greedy_selection: rounds": (lambda: stats.greedy_selection([ROWS], [0, 1], rounds=0), "rounds"),
    "vary_alone: none": (lambda: stats.vary_alone({}), "one stream"),
    "vary_alone: one value": (lambda: stats.vary_alone({"init": [1.0]}), "init: 2 values"),
    "crossed: one row": (lambda: stats.crossed([[1, 2]]), "2 x 2"),
    "crossed: NaN": (lambda: stats.crossed([[1, 2], [NAN, 1]]), "finite"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_by_name(call, message):
    """ValueError says which argument is wrong and what was expected."""
    with pytest.raises(ValueError, match=message):
        call()


def test_importing_it_is_light():
    """``import repro.stats`` brings numpy alone: scipy is imported where it is needed, and torch never."""
    code = "import repro.stats, sys; print(sorted({'scipy', 'torch', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_in_the_reference():
    """What ``repro.stats`` exports has a docstring and a place in docs/reference/statistics.md."""
    page = (Path(__file__).parents[1] / "docs" / "reference" / "statistics.md").read_text()
    assert [name for name in stats.__all__ if not re.search(rf"\b{name}\b", page)] == []
    assert all(getattr(stats, name).__doc__ for name in stats.__all__)

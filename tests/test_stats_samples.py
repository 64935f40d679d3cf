"""One metric over seeds: trimmed mean, luck of the best, plateau of the mean, and 16,620 real runs."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from repro import stats

#: Beside the repository; see the README there. 13 tuned torch models, 86 data sets, 15 seeds each.
TABM = Path(__file__).parents[2] / "shared" / "data" / "tabm_seeds.csv.gz"
SAMPLES = st.lists(st.integers(-1000, 1000), min_size=2, max_size=20)


def test_iqm_figures():
    """Three values are not trimmed; of five the smallest and the largest go."""
    assert stats.iqm([1, 2, 9]) == 4.0
    assert stats.iqm([100, 2, 3, 4, 1]) == 3.0


@given(SAMPLES)
def test_iqm_is_scipys_trimmed_mean_and_lies_within(x):
    """It is ``trim_mean(x, 0.25)``, and neither below the smallest nor above the largest value."""
    assert min(x) <= stats.iqm(x) <= max(x)
    assert stats.iqm(x) == pytest.approx(scipy.stats.trim_mean(x, 0.25))


@given(SAMPLES, st.integers(-100, 100), st.integers(1, 100))
def test_iqm_moves_and_stretches_with_the_values(x, shift, scale):
    """Another unit or origin changes it as it changes the values."""
    assert stats.iqm(np.array(x) * scale + shift) == pytest.approx(stats.iqm(x) * scale + shift, abs=1e-6)


def test_the_best_of_five_is_lucky_by_1_16_sd():
    """The expected maximum of n normal values: 1.163 at five, 0.564 at two, 0 at one; simulated at 20."""
    assert stats.expected_best(5) == pytest.approx(1.163, abs=0.0005)
    assert stats.expected_best(2) == pytest.approx(np.pi**-0.5)
    assert stats.expected_best(1) == pytest.approx(0)
    drawn = np.random.default_rng(0).standard_normal((50_000, 20)).max(axis=1).mean()
    assert stats.expected_best(20) == pytest.approx(drawn, abs=0.01)


def test_the_mean_of_runs_that_share_their_tuning_ends_at_a_plateau():
    """``V/k + ((k-1)/k) rho V``: V for one run, V/k without correlation, rho V in the end; simulated for four."""
    assert stats.variance_of_mean(2.0, 0.3, 1) == 2.0
    assert stats.variance_of_mean(2.0, 0.0, 4) == 0.5
    assert stats.variance_of_mean(2.0, 0.3, 10**9) == pytest.approx(0.6)
    tuning, seeds = np.random.default_rng(0).standard_normal((2, 40_000, 4))
    runs = np.sqrt(0.6) * tuning[:, :1] + np.sqrt(1.4) * seeds
    assert runs.mean(axis=1).var(ddof=1) == pytest.approx(stats.variance_of_mean(2.0, 0.3, 4), rel=0.03)


def test_a_summary_has_what_its_functions_give():
    """Each field is the number of the function of that name; the IQM is missing where it would be the mean."""
    x = [0.91, 0.93, 0.90, 0.97, 0.92]
    found = stats.summarize(x, 0.9)
    assert (found.n, found.mean, found.median, found.low, found.high) == (5, np.mean(x), 0.92, 0.90, 0.97)
    assert found.sd == np.std(x, ddof=1)
    assert found.interval == stats.t_interval(x, 0.9)
    assert found.sd_interval == stats.sd_interval(x, 0.9)
    assert found.prediction == stats.prediction_interval(x, 0.9)
    assert found.iqm == stats.iqm(x)
    assert found.detectable == pytest.approx(2.02 * found.sd, rel=0.005)
    assert stats.summarize(x[:3]).iqm is None
    assert stats.summarize(x[:4]).iqm is not None


def test_one_seed_picks_the_winner_by_hand():
    """The first model wins on average and in two seeds of three; a seed that ties counts one half."""
    assert stats.one_seed_picks_winner([[3, 3, 0], [1, 1, 1]]) == pytest.approx(2 / 3)
    assert stats.one_seed_picks_winner([[3, 3, 1], [1, 1, 1]]) == pytest.approx(2.5 / 3)


def scores_of(path: Path) -> list[np.ndarray]:
    """Return test scores, (models, seeds), of each data set."""
    found: dict[str, dict[str, list[float]]] = {}
    with gzip.open(path, "rt") as lines:
        for row in csv.DictReader(lines):
            found.setdefault(row["dataset"], {}).setdefault(row["model"], []).append(float(row["test"]))
    return [np.array(list(models.values())) for models in found.values()]


@pytest.mark.skipif(not TABM.exists(), reason=f"needs {TABM}, which is not part of the repository")
def test_one_seed_of_real_runs_picks_the_winner_in_about_half_of_all_cases():
    """TabM's runs: one seed picks the winner of 15 seeds among 13 models in 54%, within the sampling error."""
    scores = scores_of(TABM)
    assert (len(scores), sum(table.size for table in scores)) == (86, 16_620)
    rates = [stats.one_seed_picks_winner(table) for table in scores]
    error = np.std(rates, ddof=1) / np.sqrt(len(rates))
    assert error < 0.03
    assert np.mean(rates) == pytest.approx(0.54, abs=2 * error)

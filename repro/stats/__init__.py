"""Pure arrays in, numbers out; every random choice takes a Generator."""

from repro.stats.bootstrap import bca_interval, bootstrap_interval
from repro.stats.components import Crossed, Source, crossed, vary_alone
from repro.stats.examples import (
    ClassSpread,
    VarianceSplit,
    calibrated_variance,
    churn,
    class_spread,
    real_variance,
    split_variance,
)
from repro.stats.intervals import Interval, Running, prediction_interval, running, sd_interval, t_interval
from repro.stats.multiple import holm
from repro.stats.paired import (
    Comparison,
    clopper_pearson,
    compare_paired,
    in_words,
    permutation_p,
    probability_of_improvement,
    sign_test_p,
)
from repro.stats.power import (
    minimum_detectable_effect,
    noether_sample_size,
    seeds_needed,
    sign_test_sample_size,
    t_test_power,
    welch_power,
)
from repro.stats.prediction import Prediction, predict, worse
from repro.stats.probabilities import Selection, calibration_error, ensemble, greedy_selection, nll
from repro.stats.samples import Summary, expected_best, iqm, one_seed_picks_winner, summarize, variance_of_mean

__all__ = [
    "ClassSpread",
    "Comparison",
    "Crossed",
    "Interval",
    "Prediction",
    "Running",
    "Selection",
    "Source",
    "Summary",
    "VarianceSplit",
    "bca_interval",
    "bootstrap_interval",
    "calibrated_variance",
    "calibration_error",
    "churn",
    "class_spread",
    "clopper_pearson",
    "compare_paired",
    "crossed",
    "ensemble",
    "expected_best",
    "greedy_selection",
    "holm",
    "in_words",
    "iqm",
    "minimum_detectable_effect",
    "nll",
    "noether_sample_size",
    "one_seed_picks_winner",
    "permutation_p",
    "predict",
    "prediction_interval",
    "probability_of_improvement",
    "real_variance",
    "running",
    "sd_interval",
    "seeds_needed",
    "sign_test_p",
    "sign_test_sample_size",
    "split_variance",
    "summarize",
    "t_interval",
    "t_test_power",
    "variance_of_mean",
    "vary_alone",
    "welch_power",
    "worse",
]

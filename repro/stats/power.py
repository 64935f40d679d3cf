"""How many seeds, for which effect: power of t tests by the noncentral t, and sizes for ranks and signs."""

from __future__ import annotations

import math

from repro.stats import checks

#: Beyond this many seeds the answer is "not with seeds".
MOST = 10_000_000
#: With a noncentrality above this, T is below 0 with a probability under 1e-12.
FAR = 7.0


def t_test_power(effect: float, n: int, *, paired: bool = False, alpha: float = 0.05) -> float:
    """Return the power of a two-sided t test of equal means.

    ``P(|T| > t(1 - alpha/2))``, T noncentral t: unpaired with 2n - 2 degrees of freedom and noncentrality
    ``d sqrt(n/2)``, paired with n - 1 and ``d sqrt(n)``. Source: Cohen, Statistical Power Analysis, 1988, chapter 2.

    Args:
        effect: d, the difference in standard deviations of one arm, or paired of the differences.
        n: seeds per arm, or pairs.
        paired: which test.
        alpha: its two-sided level.

    Raises:
        ValueError: for n below 2, an alpha outside (0, 1), or an effect that is not finite.
    """
    from scipy import special

    checks.count(n, "n", 2)
    checks.inside(effect, "effect", -math.inf, math.inf)
    freedom, shift = (n - 1, abs(effect) * math.sqrt(n)) if paired else (2 * n - 2, abs(effect) * math.sqrt(n / 2))
    bar = float(special.stdtrit(freedom, 1 - checks.inside(alpha, "alpha") / 2))
    return 1 - _noncentral(freedom, shift, bar) + _noncentral(freedom, shift, -bar)


def minimum_detectable_effect(n: int, power: float = 0.8, paired: bool = False, alpha: float = 0.05) -> float:
    """Return the smallest effect that n seeds find with this power, by ``t_test_power``, in standard deviations.

    At n = 5 and 80% it is 2.02 unpaired (per arm), and 1.68 of the sd of the differences paired.

    Raises:
        ValueError: for n below 2, or a power not between alpha and 1.
    """
    from scipy import optimize

    checks.count(n, "n", 2)
    checks.inside(power, "power", checks.inside(alpha, "alpha"))
    most = 1.0
    while t_test_power(most, n, paired=paired, alpha=alpha) < power:
        most *= 2
    return float(optimize.brentq(lambda d: t_test_power(d, n, paired=paired, alpha=alpha) - power, 0, most))


def seeds_needed(effect: float, power: float = 0.8, paired: bool = False, alpha: float = 0.05) -> int:
    """Return the seeds per arm (or pairs) that find an effect with this power, by ``t_test_power``.

    Args:
        effect: the difference in standard deviations; d = 0.5, 1, 2 need 64, 17, 6 per arm.
        power: how often it is to be found.
        paired: which test.
        alpha: its two-sided level.

    Raises:
        ValueError: for an effect of 0, one so small that ten million seeds are too few, or a power not between alpha
            and 1.
    """
    checks.inside(power, "power", checks.inside(alpha, "alpha"))
    checks.inside(abs(effect), "effect", 0, math.inf)
    low, high = 1, 2
    while t_test_power(effect, high, paired=paired, alpha=alpha) < power:
        low, high = high, high * 2
        if high > MOST:
            raise ValueError(f"effect: {effect} is too small for any number of seeds")
    while high - low > 1:
        middle = (low + high) // 2
        enough = t_test_power(effect, middle, paired=paired, alpha=alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def welch_power(
    difference: float, sd_a: float, sd_b: float, n: int, *, alpha: float = 0.05, shifted: bool = False
) -> float:
    """Return the power of a one-sided Welch test with n seeds on each side.

    ``1 - F(t(1 - alpha, v))`` with ``v = (a + b)^2 / (a^2/(n-1) + b^2/(n-1))``, ``a = sd_a^2/n``, ``b = sd_b^2/n``,
    noncentrality ``difference / sqrt(a + b)``, and F the noncentral t distribution. Colas et al., How Many Random
    Seeds?, 2018, take a shifted central t for F: ``shifted=True``.

    Args:
        difference: of the true means, in the metric's unit; positive in the direction of the test.
        sd_a: true standard deviation of one side.
        sd_b: of the other.
        n: seeds on each side.
        alpha: one-sided level.
        shifted: the paper's approximation instead of the exact distribution for given v.

    Raises:
        ValueError: for n below 2, an sd of 0 or below, or an alpha outside (0, 1).
    """
    from scipy import special

    checks.count(n, "n", 2)
    checks.inside(difference, "difference", -math.inf, math.inf)
    a, b = (checks.inside(sd, name, 0, math.inf) ** 2 / n for sd, name in ((sd_a, "sd_a"), (sd_b, "sd_b")))
    freedom = (a + b) ** 2 * (n - 1) / (a * a + b * b)
    shift = difference / math.sqrt(a + b)
    bar = float(special.stdtrit(freedom, 1 - checks.inside(alpha, "alpha")))
    return 1 - (float(special.stdtr(freedom, bar - shift)) if shifted else _noncentral(freedom, shift, bar))


def noether_sample_size(gamma: float = 0.75, alpha: float = 0.05, beta: float = 0.05) -> int:
    """Return the seeds *per arm* for an unpaired rank test (Mann-Whitney) to find P(A>B) = gamma.

    ``N >= ((Phi^-1(1 - alpha) - Phi^-1(beta)) / (sqrt(6) (1/2 - gamma)))^2``: 29 at 0.75, 0.05, 0.05, a figure often
    quoted for pairs, for which ``sign_test_sample_size`` is. Source: Noether, JASA 82, 1987; Bouthillier et al.,
    MLSys 2021.

    Args:
        gamma: the P(A>B) to find, above 0.5.
        alpha: one-sided level.
        beta: how often it may be missed.

    Raises:
        ValueError: for gamma outside (0.5, 1], or alpha or beta outside (0, 0.5).
    """
    return math.ceil((_quantiles(alpha, beta) / (math.sqrt(6) * _edge(gamma))) ** 2)


def sign_test_sample_size(gamma: float = 0.75, alpha: float = 0.05, beta: float = 0.05) -> int:
    """Return the *pairs* for a sign test to find P(A>B) = gamma.

    ``(z_a + z_b)^2 / (4 (gamma - 1/2)^2)``: 44 at 0.75, 0.05, 0.05. Source: Noether, JASA 82, 1987.

    Args:
        gamma: the P(A>B) to find, above 0.5.
        alpha: one-sided level.
        beta: how often it may be missed.

    Raises:
        ValueError: for gamma outside (0.5, 1], or alpha or beta outside (0, 0.5).
    """
    return math.ceil((_quantiles(alpha, beta) / (2 * _edge(gamma))) ** 2)


def _noncentral(freedom: float, shift: float, at: float) -> float:
    """Return P(T <= at) for a noncentral T; SciPy 1.17 gives NaN for what is below 1e-12."""
    from scipy import special

    if shift < 0:
        return 1 - _noncentral(freedom, -shift, -at)
    found = float(special.nctdtr(freedom, shift, at))
    return 0.0 if math.isnan(found) and shift > FAR else found


def _quantiles(alpha: float, beta: float) -> float:
    from scipy import special

    levels = [checks.inside(level, name, 0, 0.5) for level, name in ((alpha, "alpha"), (beta, "beta"))]
    return -sum(float(special.ndtri(level)) for level in levels)


def _edge(gamma: float) -> float:
    if not 0.5 < gamma <= 1:  # noqa: PLR2004 - the formula's own half
        raise ValueError(f"gamma: a number above 0.5 and at most 1 is expected, not {gamma}")
    return gamma - 0.5

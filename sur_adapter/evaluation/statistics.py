"""What a difference is worth: intervals and p-values where the unit is the prompt.

Pictures of one prompt are not independent, so its seeds are averaged first; all functions take one value a prompt,
x of shape (N,). Bootstrap (Efron 1979): prompts are drawn again with replacement, within their category (stratified),
the same draw for every arm (paired). Everything random takes a seed. Intervals are 95 %.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import norm, spearmanr

LEVEL = 0.95
FEW = 50  # prompts: below it the bootstrap's interval is corrected (BCa)
SPREAD = 2.8016  # z(0.975) + z(0.8): what is found at the 5 % level in four cases out of five


def draws(strata: Sequence, resamples: int = 10_000, seed: int = 0) -> np.ndarray:
    """W (R, N): how much each prompt weighs in each resample. W @ x is the resampled mean of x; rows sum to 1."""
    strata, rng = np.asarray(strata), np.random.default_rng(seed)
    weights = np.empty((resamples, len(strata)))
    for stratum in np.unique(strata):
        (members,) = np.nonzero(strata == stratum)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    return weights / len(strata)


def interval(estimate: Callable, values: np.ndarray, weights: np.ndarray, strata: Sequence) -> tuple[float, float, float]:
    """(value, low, high) of `estimate`, a function of means (…, K) -> (…), on values (N, K) resampled by W (R, N).

    Percentile interval; under 50 prompts BCa (Efron 1987): the percentiles are moved by the bias z0 = Φ⁻¹(share of
    resamples below the value) and the acceleration a = Σ d³ / (6 (Σ d²)^1.5), d the jackknife's deviations.
    """
    values = np.asarray(values, float).reshape(len(values), -1)  # (N, K)
    value = float(estimate(values.mean(0)))
    resampled = estimate(weights @ values)  # (R,)
    shares = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if len(values) < FEW:
        shares = _bca(value, resampled, _jackknife(estimate, values, strata), shares)
    low, high = np.quantile(resampled, shares)
    return value, float(low), float(high)


def _jackknife(estimate: Callable, values: np.ndarray, strata: Sequence) -> np.ndarray:
    """The estimate without each prompt in turn, (N,); the shares of the categories stay. A category of one prompt cannot vary."""
    strata, mean = np.asarray(strata), values.mean(0)
    left_out = np.empty(values.shape)
    for stratum in np.unique(strata):
        members = strata == stratum
        n = members.sum()
        left_out[members] = mean - (values[members] - values[members].mean(0)) / max(n - 1, 1) * n / len(values)
    return estimate(left_out)


def _bca(value: float, resampled: np.ndarray, jackknife: np.ndarray, shares: np.ndarray) -> np.ndarray:
    deviation = jackknife.mean() - jackknife
    scale = (deviation**2).sum() ** 1.5
    below = np.clip((np.mean(resampled < value) + np.mean(resampled <= value)) / 2, 1e-4, 1 - 1e-4)  # ties count half
    bias, acceleration = norm.ppf(below), (deviation**3).sum() / (6 * scale) if scale > 0 else 0.0
    moved = bias + norm.ppf(shares)
    return norm.cdf(bias + moved / (1 - acceleration * moved))


def mean(x: np.ndarray, weights: np.ndarray, strata: Sequence) -> tuple[float, float, float]:
    """(value, low, high) of x̄; with x = a − b, of a paired difference."""
    return interval(lambda m: m[..., 0], x, weights, strata)


def gap_closed(baseline, adapter, complex, weights, strata) -> tuple[float, float, float] | None:
    """(value, low, high) of (ā − b̄) / (c̄ − b̄): 0 is the baseline, 1 is as good as keyword prompts.

    None where the interval of c̄ − b̄ holds 0 or lies below: there is no gap that could be closed.
    """
    _, low, _ = mean(np.subtract(complex, baseline), weights, strata)
    if low <= 0:
        return None
    arms = np.stack([baseline, adapter, complex], 1)  # (N, 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = interval(lambda m: (m[..., 1] - m[..., 0]) / (m[..., 2] - m[..., 0]), arms, weights, strata)
    return found if np.isfinite(found).all() else None


def sign_flip(x: np.ndarray, resamples: int = 10_000, seed: int = 0) -> float:
    """p of mean(x) = 0, two-sided, x paired differences: (1 + #{|mean(±x)| ≥ |mean(x)|}) / (1 + R), signs drawn at random."""
    x = np.asarray(x, float)
    signs = np.random.default_rng(seed).integers(0, 2, (resamples, len(x)), dtype=np.int8) * 2 - 1  # (R, N)
    flipped = np.abs(signs @ x)
    return float((1 + (flipped >= abs(x.sum()) - 1e-9).sum()) / (1 + resamples))


def holm(p: dict[str, float]) -> dict[str, float]:
    """Holm's (1979) adjusted p-values of a family: max over i ≤ k of min(1, (m − i + 1) p₍ᵢ₎)."""
    adjusted, highest = {}, 0.0
    for i, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p) - i) * value))
        adjusted[name] = highest
    return adjusted


def wilson(rate: float, n: int) -> tuple[float, float]:
    """(low, high) of a rate over n prompts (Wilson 1927), which also at 0 and 1 has a width.

    A prompt's mean over its seeds varies no more than one seed would, so for such rates it is rather too wide.
    """
    z = norm.ppf((1 + LEVEL) / 2)
    centre, half = rate + z**2 / (2 * n), z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return float(max(0.0, (centre - half) / (1 + z**2 / n))), float(min(1.0, (centre + half) / (1 + z**2 / n)))


def smallest_detectable(x: np.ndarray) -> float:
    """(z₀.₉₇₅ + z₀.₈) · s / √N: the mean difference that so many prompts would show in four cases out of five."""
    return float(SPREAD * np.std(x, ddof=1) / np.sqrt(len(x))) if len(x) > 1 else float("nan")


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """ρ, the correlation of ranks, ties at their mean rank (Spearman 1904); NaN where x or y is the same throughout."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    return float(spearmanr(x, y).statistic) if len(set(x)) > 1 < len(set(y)) else float("nan")


def win_tie_loss(x: np.ndarray) -> tuple[int, int, int]:
    """How many prompts are better, the same, worse; x paired differences."""
    x = np.asarray(x, float)
    return int((x > 1e-9).sum()), int((abs(x) <= 1e-9).sum()), int((x < -1e-9).sum())

"""Confidence intervals and p-values of paired comparisons, where the unit is the prompt or the template that several prompts share.

Images of one prompt are not independent, so seeds are averaged first: all functions take one value per prompt, x of shape (N,). The
bootstrap (Efron 1979) resamples prompts with replacement within their category (stratified), and uses the same resamples for every arm
(paired). Randomness comes from a seed. Ratios of means have Fieller's interval instead. Intervals are 95 %.

Prompts of one template are alike, too. Where templates are known, they are resampled with all their prompts (cluster bootstrap, Cameron,
Gelbach & Miller 2008), so that an interval holds for other templates of the kind. There are few, so these intervals are widened to those of
Student's t.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, norm, permutation_test, spearmanr, t

LEVEL = 0.95
SMALL_SAMPLE = 50  # prompts: below, the bootstrap interval is bias-corrected and accelerated (BCa, Efron 1987)
BATCH = 1000  # resamples per call of the statistic; bounds memory, and is part of what the seed decides
MORE_DISCORDANT = 0.5  # prompts on which two arms differ, added to those of the sample: without, arms that agree on all have no interval
DETECTABLE = 2.8016  # z(0.975) + z(0.8): detected at the 5 % level with a power of 80 %

Interval = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class Bootstrap:
    """Stratified, paired bootstrap over prompts, or over templates.

    strata (N,): the category of each prompt. A category with one prompt cannot vary and is held fixed. clusters (N,): the template of each
    prompt; None: each prompt is its own. In a category with a single template the prompts are resampled.
    """

    strata: Sequence
    resamples: int = 10_000
    seed: int = 0
    clusters: Sequence | None = None

    def subset(self, rows: np.ndarray) -> "Bootstrap":
        """Restricts the bootstrap to some of the prompts. rows (N,): a mask."""
        clusters = None if self.clusters is None else np.asarray(self.clusters)[rows]
        return Bootstrap(np.asarray(self.strata)[rows], self.resamples, self.seed, clusters)

    def units(self) -> np.ndarray:
        """Returns the number of the resampled unit of each prompt, (N,)."""
        return units(self.strata, self.clusters)

    def interval(self, estimate: Callable, values: np.ndarray) -> Interval:
        """Returns (value, low, high) of `estimate`, a function of means (..., K) -> (...), on values (N, K) or (N,).

        Percentile interval from `SMALL_SAMPLE` prompts or templates, else BCa.
        """
        values = np.asarray(values, float).reshape(len(values), -1)  # (N, K)
        value = float(estimate(values.mean(0)))
        strata, number = np.asarray(self.strata), self.units()
        sizes = np.bincount(number)  # (U,) prompts of each unit
        sums = np.stack([np.bincount(number, column) for column in values.T], -1)  # (U, K)
        samples = [np.unique(number[strata == name]) for name in np.unique(strata)]  # units of each category
        fixed = sum((sums[rows[0]] for rows in samples if len(rows) == 1), np.zeros(values.shape[1]))
        samples = [rows for rows in samples if len(rows) > 1]
        if not samples:
            return value, value, value
        prompts = [sizes[rows].sum() for rows in samples]  # of each category

        def statistic(*resampled: np.ndarray, axis: int = -1) -> np.ndarray:
            # templates have different numbers of prompts, and a jackknife sample lacks one: the share of its category stays
            totals = [
                np.take(sums, rows, 0).sum(-2) * (count / np.take(sizes, rows).sum(-1))[..., None]
                for rows, count in zip(resampled, prompts, strict=True)
            ]
            return estimate((sum(totals) + fixed) / len(values))

        low, high = self._interval(samples, statistic, "BCa" if len(sizes) < SMALL_SAMPLE else "percentile")
        if len(sizes) < len(values):
            more = _wider(sum(map(len, samples)), len(samples))
            low, high = value - (value - low) * more, value + (high - value) * more
        return value, low, high

    def _interval(self, samples: list[np.ndarray], statistic: Callable, method: str) -> tuple[float, float]:
        rng = np.random.default_rng(self.seed)
        options = {"vectorized": True, "batch": BATCH, "confidence_level": LEVEL}
        with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
            warnings.simplefilter("ignore")  # scipy warns of resamples that are all alike, for which BCa is not defined
            result = bootstrap(samples, statistic, n_resamples=self.resamples, method=method, rng=rng, **options)
            if not np.isfinite(result.confidence_interval).all():
                result = bootstrap(samples, statistic, n_resamples=0, bootstrap_result=result, method="percentile", rng=rng, **options)
        return float(result.confidence_interval.low), float(result.confidence_interval.high)

    def mean(self, x: np.ndarray) -> Interval:
        """Returns (value, low, high) of the mean of x (N,); with x = a − b, of a paired difference."""
        return self.interval(lambda means: means[..., 0], x)

    def rate_difference(self, x: np.ndarray) -> Interval:
        """Returns (value, low, high) of the mean of x (N,), differences of rates: the bootstrap's interval, widened by MORE_DISCORDANT."""
        value, low, high = self.mean(x)
        more = norm.ppf((1 + LEVEL) / 2) * np.sqrt(MORE_DISCORDANT) / len(x)
        return value, value - float(np.hypot(value - low, more)), value + float(np.hypot(high - value, more))

    def ratio(self, numerator: np.ndarray, denominator: np.ndarray) -> Interval | None:
        """Returns (value, low, high) of mean(numerator) / mean(denominator), rates or their differences, (N,) each.

        By Fieller's theorem (1954) within categories, widened by MORE_DISCORDANT. None if the denominator's own interval is not above 0.
        The bootstrap is not used: a few of its resamples have a denominator near 0, and their ratios decide the interval. A category with
        one prompt is held fixed.
        """
        pair = np.stack([numerator, denominator], 1).astype(float)  # (N, 2)
        variance, degrees = covariance_of_means(pair, self.strata, self.clusters)
        variance[0, 0] += MORE_DISCORDANT / len(pair) ** 2
        return fieller(*pair.mean(0), variance, degrees)

    def gap_closed(self, baseline: np.ndarray, adapter: np.ndarray, ceiling: np.ndarray) -> Interval | None:
        """Returns (value, low, high) of (mean adapter − mean baseline) / (mean ceiling − mean baseline): 0 is the baseline, 1 the ceiling.

        None if the interval of ceiling − baseline is not above 0: there is no gap to close.
        """
        return self.ratio(np.subtract(adapter, baseline), np.subtract(ceiling, baseline))


def units(strata: Sequence, clusters: Sequence | None) -> np.ndarray:
    """Returns the number of the unit of each prompt, (N,): its template, or itself where its category has fewer than two templates."""
    strata = np.asarray(strata)
    if clusters is None:
        return np.arange(len(strata))
    known, names = {}, list(zip(strata.tolist(), np.asarray(clusters).tolist(), strict=True))
    several = {name for name in set(strata.tolist()) if len({cluster for of, cluster in names if of == name}) > 1}
    keys = [name if name[0] in several else (name[0], row) for row, name in enumerate(names)]
    return np.array([known.setdefault(key, len(known)) for key in keys], int)


def _wider(clusters: int, strata: int) -> float:
    """Returns by how much an interval of few clusters is too narrow: Student's t and the divisor C − 1 in place of z and C."""
    degrees = max(clusters - strata, 1)
    return float(t.ppf((1 + LEVEL) / 2, degrees) / norm.ppf((1 + LEVEL) / 2) * np.sqrt(clusters / degrees))


def covariance_of_means(values: np.ndarray, strata: Sequence, clusters: Sequence | None = None) -> tuple[np.ndarray, int]:
    """Returns the covariance (K, K) of the means of values (N, K), sampled within strata (N,), and its degrees of freedom.

    clusters (N,): values of one cluster are sampled together. A stratum with one value cannot vary and is held fixed.
    """
    variance, degrees = np.zeros((values.shape[1],) * 2), 0
    strata, number = np.asarray(strata), units(strata, clusters)
    for name in np.unique(strata):
        inside = strata == name
        residuals = values[inside] - values[inside].mean(0)
        _, cluster = np.unique(number[inside], return_inverse=True)
        sums = np.stack([np.bincount(cluster, column) for column in residuals.T], -1)  # (C, K)
        if len(sums) > 1:
            variance += sums.T @ sums * len(sums) / (len(sums) - 1) / len(values) ** 2
            degrees += len(sums) - 1
    return variance, max(degrees, 1)


def effective_prompts(x: np.ndarray, clusters: Sequence | None) -> float:
    """Returns how many independent prompts give the same variance of the mean of x (N,) as these, of which some share a template; ≤ N."""
    if clusters is None or len(set(np.asarray(clusters).tolist())) < 2:
        return len(x)
    column, one = np.asarray(x, float)[:, None], np.zeros(len(x))
    alone, together = covariance_of_means(column, one)[0][0, 0], covariance_of_means(column, one, clusters)[0][0, 0]
    return float(len(x) * min(1.0, alone / together)) if together > 0 else len(x)


def fieller(above: float, below: float, variance: np.ndarray, degrees: float) -> Interval | None:
    """Returns (value, low, high) of above / below, two means with the covariance `variance` (2, 2); None if the interval of `below` is not
    above 0."""
    variance = variance * t.ppf((1 + LEVEL) / 2, degrees) ** 2
    a = below**2 - variance[1, 1]
    if below <= 0 or a <= 1e-12 * below**2:
        return None
    b, c = above * below - variance[0, 1], above**2 - variance[0, 0]
    half = np.sqrt(max(b * b - a * c, 0.0))
    return float(above / below), float((b - half) / a), float((b + half) / a)


def sign_flip(x: np.ndarray, resamples: int = 10_000, seed: int = 0) -> float:
    """Computes the two-sided p-value of mean(x) = 0 by random sign flips, x (N,) paired differences; exact where 2^N ≤ resamples."""
    x = np.asarray(x, float)
    if len(x) < 2:
        return 1.0  # both signs are as far from 0
    rng = np.random.default_rng(seed)
    options = {"permutation_type": "samples", "alternative": "greater", "vectorized": True, "batch": BATCH}
    return float(permutation_test((x,), lambda x, axis: np.abs(x.sum(axis)), n_resamples=resamples, rng=rng, **options).pvalue)


def holm(p: dict[str, float]) -> dict[str, float]:
    """Computes Holm's (1979) adjusted p-values of a family of tests: max over i ≤ k of min(1, (m − i + 1) p₍ᵢ₎)."""
    adjusted, highest = {}, 0.0
    for i, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p) - i) * value))
        adjusted[name] = highest
    return adjusted


def wilson(rate: float, n: float) -> tuple[float, float]:
    """Returns Wilson's (1927) interval (low, high) of a rate over n prompts. It has a width at rates of 0 and 1, too.

    The mean of several seeds varies at most as much as one seed, so for such rates the interval is conservative.
    """
    z = norm.ppf((1 + LEVEL) / 2)
    centre, half = rate + z**2 / (2 * n), z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return float(max(0.0, (centre - half) / (1 + z**2 / n))), float(min(1.0, (centre + half) / (1 + z**2 / n)))


def smallest_detectable(x: np.ndarray, clusters: Sequence | None = None) -> float:
    """Returns the mean difference that N prompts detect with a power of 80 %: (z₀.₉₇₅ + z₀.₈) · s / √N. NaN for one prompt.

    clusters (N,): s / √N is the standard error over templates.
    """
    variance, _ = covariance_of_means(np.asarray(x, float)[:, None], np.zeros(len(x)), clusters)
    return float(DETECTABLE * np.sqrt(variance[0, 0])) if len(x) > 1 else float("nan")


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Computes Spearman's rank correlation ρ, ties at their mean rank; NaN if x or y is constant."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    return float(spearmanr(x, y).statistic) if len(set(x)) > 1 < len(set(y)) else float("nan")


def win_tie_loss(x: np.ndarray) -> tuple[int, int, int]:
    """Counts of prompts that are better, the same, worse; x (N,) paired differences."""
    x = np.asarray(x, float)
    return int((x > 1e-9).sum()), int((abs(x) <= 1e-9).sum()), int((x < -1e-9).sum())

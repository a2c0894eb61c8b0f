"""Intervals have their nominal coverage, and no difference is found where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from sur_adapter.evaluation import statistics as st

TIFA = Path(__file__).parents[3] / "shared" / "realdata" / "tifa" / "human_annotations_with_scores.json"
RNG = np.random.default_rng(7)


def bootstrap(n: int, strata=None, resamples: int = 4000, seed: int = 0) -> st.Bootstrap:
    return st.Bootstrap(["all"] * n if strata is None else strata, resamples, seed)


def test_resamples_keep_the_number_of_prompts_of_every_category():
    strata = ["action"] * 7 + ["color"] * 20 + ["counting"] * 33
    codes = np.repeat([0.0, 5.0, 100.0], [7, 20, 33])
    assert bootstrap(60, strata).mean(codes) == pytest.approx((codes.mean(),) * 3)
    assert bootstrap(40, strata[:40]).mean(codes[:40]) == pytest.approx((codes[:40].mean(),) * 3), "BCa, with fewer than 50 prompts"


def test_a_category_of_one_prompt_is_held_fixed():
    x = np.array([*RNG.normal(size=30), 500.0])
    value, low, high = bootstrap(31, ["many"] * 30 + ["one"]).mean(x)
    assert value == pytest.approx(x.mean()) and 500 / 31 - 1 < low < value < high < 500 / 31 + 1
    assert bootstrap(2, ["a", "b"]).mean([1.0, 3.0]) == (2.0, 2.0, 2.0)


def test_a_subset_is_the_bootstrap_of_its_rows():
    strata, x = np.array(["a", "b"] * 40), RNG.normal(size=80)
    rows = strata == "a"
    assert bootstrap(80, strata).subset(rows).mean(x[rows]) == bootstrap(40).mean(x[rows])


def test_the_same_seed_gives_equal_intervals_and_another_seed_different_ones():
    x = RNG.normal(size=80)
    low = [bootstrap(80, resamples=1000, seed=seed).mean(x)[1] for seed in (1, 1, 2)]
    assert low[0] == low[1] != low[2]


def test_the_interval_of_a_mean_matches_the_normal_one():
    x = RNG.normal(3, 2, 400)
    value, low, high = bootstrap(400).mean(x)
    half = 1.96 * x.std(ddof=1) / 20
    assert value == pytest.approx(x.mean())
    assert (low, high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.02)


def test_differences_between_categories_do_not_widen_the_interval():
    strata = ["low"] * 50 + ["high"] * 50
    x = np.array([0.0] * 50 + [1.0] * 50) + RNG.normal(0, 0.01, 100)
    _, low, high = bootstrap(100, strata).mean(x)
    _, low_all, high_all = bootstrap(100).mean(x)
    assert high - low < 0.01 < 0.15 < high_all - low_all


@pytest.mark.parametrize(("n", "draw"), [(20, RNG.normal), (30, RNG.exponential), (80, RNG.exponential)])
def test_intervals_have_about_their_nominal_coverage(n, draw):
    truth = 1.0 if draw == RNG.exponential else 0.0
    hits = [low <= truth <= high for _, low, high in (bootstrap(n, resamples=1000).mean(draw(size=n)) for _ in range(300))]
    assert 0.88 <= np.mean(hits) <= 0.99


def test_below_fifty_prompts_the_interval_is_corrected_for_skew():
    """BCa of a skewed sample lies to the right of the percentile interval."""
    x = RNG.exponential(size=25)
    resampled = np.random.default_rng(1).choice(x, (20_000, 25)).mean(1)
    percentile = np.quantile(resampled, (0.025, 0.975))
    _, low, high = bootstrap(25, resamples=20_000).mean(x)
    assert low > percentile[0] + 0.01 and high > percentile[1] + 0.03 and high - low < 1.3 * np.ptp(percentile)


def test_half_the_gap_closed_gives_0_5():
    baseline = RNG.uniform(0.1, 0.3, 90)
    value, low, high = bootstrap(90).gap_closed(baseline, baseline + 0.25, baseline + 0.5)
    assert value == pytest.approx(0.5) and 0.45 < low < 0.5 < high < 0.55


def test_pairing_narrows_the_interval_of_the_gap():
    prompts = RNG.uniform(0, 1, 100)  # easy and hard prompts
    noise = RNG.normal(0, 0.02, (3, 100))
    value, low, high = bootstrap(100).gap_closed(prompts + noise[0], prompts + 0.3 + noise[1], prompts + 0.4 + noise[2])
    assert low < 0.75 < high and high - low < 0.09 and value == pytest.approx(0.75, abs=0.03)


def test_without_a_significant_gap_the_share_closed_is_none():
    baseline = RNG.uniform(0, 1, 60)
    assert bootstrap(60).gap_closed(baseline, baseline + 0.1, baseline + RNG.normal(0, 0.3, 60) * 0.1) is None
    assert bootstrap(60).gap_closed(np.ones(60), np.ones(60), np.ones(60)) is None
    assert bootstrap(60).gap_closed(baseline, baseline - 0.1, baseline - 0.3) is None


def test_the_interval_of_a_ratio_is_fiellers():
    """The two ends r solve (mean(a) − r mean(b))² = t² Var(mean(a − r b)): the interval of a − r b has its edge at 0."""
    below, noise = RNG.normal(1, 0.8, 40), RNG.normal(0, 0.5, 40)
    above = 0.6 * below + noise
    value, low, high = bootstrap(40).ratio(above, below)
    assert value == pytest.approx(above.mean() / below.mean()) and low < value < high
    for r in (low, high):
        rest = above - r * below
        assert abs(rest.mean()) == pytest.approx(student.ppf(0.975, 39) * np.sqrt(rest.var(ddof=1) / 40 + 0.5 / 40**2))


@pytest.mark.parametrize("n", [30, 60, 180])
def test_the_interval_of_the_gap_has_about_its_nominal_coverage(n):
    """Prompts are right or wrong in each arm; the adapter closes 0.8 of a gap of 0.4."""
    hits = []
    for _ in range(400):
        easy = RNG.uniform(size=n)
        baseline, adapter, best = ((easy + RNG.normal(0, 0.05, n) < share).astype(float) for share in (0.5, 0.82, 0.9))
        gap = bootstrap(n).gap_closed(baseline, adapter, best)
        hits.append(gap is not None and gap[1] <= 0.8 <= gap[2])
    assert 0.92 <= np.mean(hits) <= 0.99


@pytest.mark.parametrize("n", [10, 180])
def test_arms_that_agree_on_every_prompt_have_an_interval(n):
    """Its width is near that of "3 / n": so many prompts may differ that no prompt of n does, 5 % of the time."""
    value, low, high = bootstrap(n).rate_difference(np.zeros(n))
    assert value == 0 and low == -high and 1 / n < high < 3 / n
    right = np.ones(n)
    value, low, high = bootstrap(n).gap_closed(np.zeros(n), right, right)
    assert value == 1 and 1 - 3 / n < low < 1 < high < 1 + 3 / n


def test_a_ratio_whose_denominator_can_be_0_is_left_out():
    below = np.array([1.0, 1.0, *[0.0] * 28])
    assert bootstrap(30).ratio(np.ones(30), below) is None
    assert bootstrap(30).ratio(np.ones(30), -np.ones(30)) is None, "below 0"
    assert bootstrap(30).ratio(np.ones(30), np.full(30, 0.5))[0] == 2.0


def test_an_adapter_without_effect_closes_0_of_the_gap():
    baseline, best = RNG.integers(0, 2, 100).astype(float), np.ones(100)
    value, low, high = bootstrap(100).gap_closed(baseline, baseline, best)
    assert value == 0 and -0.06 < low < 0 < high < 0.06


def test_sign_flips_detect_a_difference_and_nothing_else():
    assert st.sign_flip(np.full(40, 0.2)) == pytest.approx(1 / 10_001)
    assert st.sign_flip(np.zeros(40)) == 1.0
    assert st.sign_flip(np.array([1.0, -1.0, 1.0, -1.0])) == 1.0


def test_sign_flips_of_few_prompts_are_exact():
    assert st.sign_flip(np.ones(5), 40_000) == pytest.approx(2 / 2**5)
    assert st.sign_flip(np.array([0.7])) == 1.0


def test_p_values_of_no_difference_are_uniform():
    p = np.array([st.sign_flip(RNG.normal(size=30), 500, seed) for seed in range(300)])
    assert 0.01 <= (p < 0.05).mean() <= 0.1 and 0.4 <= p.mean() <= 0.6


def test_holm_is_stricter_than_each_p_and_milder_than_bonferroni():
    assert st.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert st.holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_wilsons_interval_matches_known_values_and_is_never_empty():
    assert st.wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert st.wilson(1.0, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert st.wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_wins_ties_and_losses_add_up():
    assert st.win_tie_loss(np.array([0.5, 0.1, 0, -1, 1e-15])) == (2, 2, 1)


def test_the_smallest_detectable_difference_has_eighty_percent_power():
    n, sd = 50, 1.0
    effect = st.smallest_detectable(np.tile([-1.0, 1.0], n // 2) * sd)
    detected = [abs(x.mean()) > 1.96 * x.std(ddof=1) / n**0.5 for x in RNG.normal(effect, sd, (1000, n))]
    assert np.mean(detected) == pytest.approx(0.8, abs=0.05)


@pytest.mark.filterwarnings("error")
def test_spearman_ignores_scale_and_is_nan_for_a_constant():
    x = RNG.normal(size=50)
    assert st.spearman(x, np.exp(5 * x)) == pytest.approx(1) and st.spearman(x, -(x**3)) == pytest.approx(-1)
    assert np.isnan(st.spearman(x, np.ones(50)))


@pytest.mark.skipif(not TIFA.exists(), reason="the human ratings of TIFA (shared/realdata/tifa) are not next to this checkout")
@pytest.mark.parametrize(
    ("measure", "golden"),
    [("clipscore_vitb32", (1.104, 0.60, 1.62)), ("tifa_mplug-large", (0.062, 0.037, 0.088)), ("human_avg", (0.200, 0.066, 0.338))],
)
def test_real_ratings_give_the_known_differences_between_two_models(measure, golden):
    rows = json.loads(TIFA.read_text(encoding="utf-8"))
    models = [{r["text_id"]: r[measure] for k, r in rows.items() if k.endswith(m)} for m in ("diffusion_v1_5", "diffusion_v2_1")]
    paired = np.array([models[1][k] - models[0][k] for k in sorted(models[0]) if k in models[1]])
    value, low, high = bootstrap(len(paired), resamples=10_000).mean(paired)
    assert len(paired) == 160
    assert value == pytest.approx(golden[0], abs=0.001)
    assert (low, high) == pytest.approx(golden[1:], abs=0.04 * (golden[2] - golden[1]) + 0.005)


@pytest.mark.skipif(not TIFA.exists(), reason="the human ratings of TIFA (shared/realdata/tifa) are not next to this checkout")
@pytest.mark.parametrize(
    ("measure", "golden"),
    [
        ("clipscore_vitb32", 0.320),
        ("tifa_vilt", 0.500),
        ("tifa_git-large", 0.545),
        ("tifa_blip2-flant5xl", 0.558),
        ("tifa_mplug-large", 0.592),
    ],
)
def test_real_metrics_agree_with_people_as_published(measure, golden):
    rows = json.loads(TIFA.read_text(encoding="utf-8")).values()
    assert len(rows) == 800
    assert st.spearman([r[measure] for r in rows], [r["human_avg"] for r in rows]) == pytest.approx(golden, abs=0.0006)


def of_templates(rng: np.random.Generator, templates: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong on prompts whose template decides half of the chance, and their templates."""
    chance = rng.uniform(0.2, 0.8, templates).repeat(each)
    return (rng.random(templates * each) < chance).astype(float), np.arange(templates).repeat(each)


@pytest.mark.parametrize("templates", [12, 36])
def test_intervals_over_templates_hold_for_other_templates_and_those_over_prompts_do_not(templates):
    rng, hits = np.random.default_rng(0), {"templates": 0, "prompts": 0, "fieller": 0, "wilson": 0}
    for _ in range(400):
        x, clusters = of_templates(rng, templates, 10)
        one = np.zeros(len(x))
        for name, of in (("templates", clusters), ("prompts", None)):
            _, low, high = st.Bootstrap(one, 400, 0, of).mean(x)
            hits[name] += low <= 0.5 <= high
        _, low, high = st.Bootstrap(one, 400, 0, clusters).ratio(x, np.ones(len(x)))
        hits["fieller"] += low <= 0.5 <= high
        low, high = st.wilson(x.mean(), st.effective_prompts(x, clusters))
        hits["wilson"] += low <= 0.5 <= high
    rates = {name: count / 400 for name, count in hits.items()}
    assert 0.92 <= rates["templates"] <= 0.98 and 0.92 <= rates["fieller"] <= 0.98 and rates["wilson"] >= 0.9
    assert rates["prompts"] < 0.87


def test_templates_of_one_prompt_each_change_nothing_and_a_category_with_one_template_resamples_prompts():
    x = np.random.default_rng(1).random((60, 2))
    strata = ["a"] * 30 + ["b"] * 30
    plain = st.Bootstrap(strata, 500)
    assert st.Bootstrap(strata, 500, 0, [f"t{i}" for i in range(60)]).mean(x[:, 0]) == plain.mean(x[:, 0])
    assert st.Bootstrap(strata, 500, 0, ["same"] * 60).mean(x[:, 0]) == plain.mean(x[:, 0])
    alone, together = st.covariance_of_means(x, strata)[0], st.covariance_of_means(x, strata, np.arange(60) // 2)[0]
    assert np.allclose(alone, sum(np.cov(x[rows].T) * 30 for rows in (slice(30), slice(30, 60))) / 60**2)
    assert not np.allclose(alone, together)
    assert st.effective_prompts(x[:, 0], None) == 60 and st.effective_prompts(np.repeat([0.0, 1.0] * 5, 6), np.arange(60) // 6) < 12

"""Intervals over several trainings cover another training on other prompts."""

import numpy as np
import pandas as pd
import pytest

from sur_adapter.evaluation.trainings import mean_over_trainings, ratio_over_trainings, summarize_trainings

RNG = np.random.default_rng(3)


@pytest.mark.parametrize(("of_trainings", "of_prompts"), [(0.1, 0.3), (0.0, 0.3), (0.1, 0.0)])
def test_the_interval_covers_the_mean_of_other_trainings_and_prompts(of_trainings, of_prompts):
    hits = []
    for _ in range(400):
        x = 0.6 + RNG.normal(0, of_trainings, (5, 1)) + RNG.normal(0, of_prompts, (1, 60)) + RNG.normal(0, 0.2, (5, 60))
        _, low, high = mean_over_trainings(x, ["all"] * 60)
        hits.append(low <= 0.6 <= high)
    assert 0.92 <= np.mean(hits) <= 0.995


def test_more_trainings_and_more_prompts_each_make_it_narrower():
    def width(trainings: int, prompts: int) -> float:
        widths = []
        for _ in range(30):
            x = RNG.normal(0, 0.1, (trainings, 1)) + RNG.normal(0, 0.4, (1, prompts))
            _, low, high = mean_over_trainings(x, ["all"] * prompts)
            widths.append(high - low)
        return float(np.mean(widths))

    assert width(20, 50) < width(3, 50) and width(20, 800) < width(20, 50)


def test_one_training_has_the_interval_of_its_prompts():
    x = RNG.uniform(size=(1, 80))
    value, low, high = mean_over_trainings(x, ["all"] * 80)
    half = 1.99 * np.sqrt(x.var(ddof=1) / 80 + 0.5 / 80**2)
    assert (value, low, high) == pytest.approx((x.mean(), x.mean() - half, x.mean() + half), rel=1e-3)


def test_the_ratio_covers_its_truth_and_is_left_out_without_a_denominator():
    hits = []
    for _ in range(400):
        gap = 0.4 + RNG.normal(0, 0.3, (1, 90))
        closed = (0.8 + RNG.normal(0, 0.05, (4, 1))) * 0.4 + RNG.normal(0, 0.2, (4, 90))
        _, low, high = ratio_over_trainings(closed, np.repeat(gap, 4, 0), ["all"] * 90)
        hits.append(low <= 0.8 <= high)
    assert 0.92 <= np.mean(hits) <= 0.995
    assert ratio_over_trainings(np.ones((3, 9)), np.zeros((3, 9)), ["all"] * 9) is None


def judged(shares: dict[str, float], prompts: int = 20, name: str = "main") -> pd.DataFrame:
    rows = [
        {"set": name, "id": f"{category}-{i}", "category": category, "arm": arm, "seed": seed, "shown": float(i < share * prompts)}
        for category in ("action", "color")
        for arm, share in shares.items()
        for i in range(prompts)
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_trainings_are_summarized_by_set_arm_and_category():
    arms = {"baseline": 0.5, "complex": 0.9, "rewrite": 0.8}
    tables = [pd.concat([judged(arms | {"adapter": share}), judged(arms | {"adapter": 0.2}, name="other")]) for share in (0.7, 0.8, 0.9)]
    summary = summarize_trainings(tables)
    assert list(summary) == ["main", "other"] and summary["main"]["prompts"] == 40 and summary["main"]["seeds"] == 2
    main = summary["main"]
    assert main["accuracy"]["adapter"]["overall"]["value"] == main["accuracy"]["adapter"]["color"]["value"] == pytest.approx(0.8)
    assert main["gap_closed"]["value"] == pytest.approx(0.75) and main["ratio_to_rewrite"]["value"] == pytest.approx(1.0)
    assert main["difference"]["value"] == pytest.approx(0.3) and main["against_rewrite"]["value"] == 0 and "on_complex" not in main
    widths = {arm: shares["overall"]["high"] - shares["overall"]["low"] for arm, shares in main["accuracy"].items()}
    assert widths["adapter"] > widths["rewrite"], "only the adapter differs between trainings"
    tables[1] = tables[1].replace({"id": {"action-0": "action-x"}})
    with pytest.raises(ValueError, match="measured on different prompts of the set main"):
        summarize_trainings(tables)


def test_an_arm_without_the_adapter_may_be_drawn_once_for_all_trainings():
    arms = {"baseline": 0.5, "adapter": 0.8, "complex": 0.9}
    tables = [judged(arms | {"rewrite": 0.9, "complex_adapter": 0.8}), judged(arms), judged(arms)]
    accuracy = summarize_trainings(tables)["main"]["accuracy"]
    assert list(accuracy) == ["baseline", "adapter", "complex", "rewrite"], "the arm with the adapter needs all trainings"
    assert accuracy["rewrite"]["overall"]["value"] == pytest.approx(0.9)

"""The benchmark of `attach`: what it counts, and its stored results."""

import json
from pathlib import Path

import pytest
from helpers.tiny_pipelines import LENGTH, make_adapter, pipeline

from experiments.benchmarks.attach import STEPS, measure

RESULTS = sorted((Path(__file__).parents[2] / "experiments/benchmarks").glob("attach-*.json"))


def test_the_benchmark_compares_one_adapter_call_with_all_steps_of_an_image():
    pipe = pipeline()
    adapter = make_adapter(pipe)
    result = measure(pipe.unet, adapter, LENGTH, 8, repeats=2)
    products = sum(p.numel() for name, p in adapter.named_parameters() if p.ndim == 2 and "pooled" not in name)
    assert result["adapter"]["gigaflop"] == pytest.approx(2 * LENGTH * products / 1e9, rel=0.1)  # the rest is attention
    assert result["step"]["gigaflop"] > result["adapter"]["gigaflop"]
    assert result["share_of_gigaflop"] == pytest.approx(result["adapter"]["gigaflop"] / result["step"]["gigaflop"] / STEPS, abs=1e-6)
    assert result["adapter"]["million_weights"] == round(sum(p.numel() for p in adapter.parameters()) / 1e6, 2)
    assert result["step"]["seconds"] > 0


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_for_stable_diffusion_1_5_the_adapter_takes_at_most_2_percent_of_20_steps(file):
    result = json.loads(file.read_text())
    assert result["steps"] == 20 and result["step"]["million_weights"] > 850
    assert max(result["share_of_seconds"], result["share_of_gigaflop"]) <= 0.02

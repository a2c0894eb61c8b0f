"""The cost of an adapter: what the benchmark counts, and its results."""

import json
from pathlib import Path

import pytest
from helpers.tiny_pipelines import LENGTH, make_adapter, pipeline

from experiments.benchmarks.attach import STEPS, measured

FOUND = sorted((Path(__file__).parents[2] / "experiments/benchmarks").glob("attach-*.json"))


def test_the_benchmark_sets_one_call_of_the_adapter_against_all_steps_of_a_picture():
    pipe = pipeline()
    adapter = make_adapter(pipe)
    found = measured(pipe.unet, adapter, LENGTH, 8, repeats=2)
    products = sum(p.numel() for name, p in adapter.named_parameters() if p.ndim == 2 and "pooled" not in name)
    assert found["adapter"]["gigaflop"] == pytest.approx(2 * LENGTH * products / 1e9, rel=0.1)  # and a little for attention
    assert found["step"]["gigaflop"] > found["adapter"]["gigaflop"]
    assert found["share_of_gigaflop"] == pytest.approx(found["adapter"]["gigaflop"] / found["step"]["gigaflop"] / STEPS, abs=1e-6)
    assert found["adapter"]["million_weights"] == round(sum(p.numel() for p in adapter.parameters()) / 1e6, 2)
    assert found["step"]["seconds"] > 0


@pytest.mark.parametrize("file", FOUND, ids=lambda file: file.stem)
def test_at_stable_diffusion_1_5s_size_the_adapter_costs_at_most_a_fiftieth_of_twenty_steps(file):
    found = json.loads(file.read_text())
    assert found["steps"] == 20 and found["step"]["million_weights"] > 850
    assert max(found["share_of_seconds"], found["share_of_gigaflop"]) <= 0.02

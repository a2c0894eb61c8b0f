"""The planner: its bytes are those of real folders, its operations are torch's, its hours are near the measured ones."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers.repository import ROOT, merge
from helpers.stages import cache
from helpers.tiny_models import home, models
from helpers.written_docs import blocks
from ruamel.yaml import YAML
from torch.profiler import ProfilerActivity, profile

from stages.__main__ import main
from sur_adapter.config import Params, from_dict
from sur_adapter.data.sources import folder, urls
from sur_adapter.features.extractors import clip, llm, queries, vae
from sur_adapter.generation.prompts import read_prompts
from sur_adapter.io.shards import read_tar
from sur_adapter.models.config import ModelsConfig
from sur_adapter.tools.planner import model_specs, stage_costs
from sur_adapter.tools.planner.estimate import Plan, StageEstimate, candidates, make_plan, surviving_rows
from sur_adapter.tools.planner.flops import measure_cost, meta_tensor, num_weights
from sur_adapter.tools.planner.measured_rates import MeasuredRates, mean_image_bytes
from sur_adapter.tools.planner.planner import format_plan
from sur_adapter.tools.planner.settings import PlanSettings

BENCHMARKS = ROOT / "experiments/benchmarks"
MINIATURE = "models/miniature/stable-diffusion"
DIFFUSIONDB = {"diffusiondb": {"limit": 14_000_000, "large": True}}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def settings(preset: str, sources: dict | None = None, **changes) -> PlanSettings:
    params = merge(YAML(typ="safe").load(ROOT / f"presets/{preset}.yaml"), changes)
    return PlanSettings.read(Params({**params, "sources": sources or params["sources"]}))


def categories(plan_settings: PlanSettings) -> Counter:
    return Counter(row["category"] for row in read_prompts(plan_settings.generate.prompts))


def by_stage(plan: Plan) -> dict[str, StageEstimate]:
    return {estimate.stage: estimate for estimate in plan.stages}


def folder_size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_the_bytes_of_features_are_those_of_their_folders_within_a_tenth(tmp_path, own_work):
    made = models(tmp_path / "models")
    params = YAML(typ="safe").load(home(tmp_path, made, 300) / "params.yaml")
    models_config = from_dict(ModelsConfig, {"resolution": 64} | params.get("models", made), "models")
    estimates = (stage_costs.cache_clip, stage_costs.cache_llm, stage_costs.cache_vae, stage_costs.cache_queries)
    for estimate, extractor in zip(estimates, (clip, llm, vae, queries), strict=True):
        name = extractor.__name__.rpartition(".")[2]
        out = tmp_path / "features" / name
        cache(tmp_path / "pairs.parquet", tmp_path / "raw", out, cache=params["cache"], models={"resolution": 64} | made)
        config = from_dict(extractor.Config, params["cache"][name], f"cache.{name}")
        cost = estimate(300, models_config, config, *([8] if name == "llm" else []))
        assert cost.disk_bytes == pytest.approx(folder_size(out), rel=0.1), name


def test_the_bytes_of_a_crawl_are_those_of_its_folder_within_a_tenth(raw):
    kept = sum(1 for _ in read_tar(raw / "miniature"))
    cost = stage_costs.crawl(150, kept, mean_image_bytes(raw / "miniature"))
    assert cost.disk_bytes == pytest.approx(folder_size(raw / "miniature"), rel=0.1)
    assert mean_image_bytes(raw / "nowhere") is None


def test_models_that_are_known_by_name_have_their_published_number_of_weights():
    millions = [[round(num_weights(m) / 1e6, 1) for m in model_specs.diffusion_model(name).values()] for name in model_specs.DIFFUSION]
    assert millions == [[859.5, 83.7, 123.1], [865.9, 83.7, 340.4], [2567.5, 83.7, 123.1, 694.7]]  # unet, vae, text encoders
    complete = model_specs.language_model("huggyllama/llama-7b", "all")
    assert round((num_weights(complete) + 32_000 * 4096) / 1e6) == 6738, "with the language-model head, which is not loaded"
    truncated = model_specs.language_model("huggyllama/llama-7b", (31,))
    assert round(num_weights(truncated) / 1e6) == 6405, "layers above the chosen one are not loaded"


def test_operations_are_those_that_the_benchmarks_counted():
    large = settings("sd15-llama13b")
    step = json.loads((BENCHMARKS / "attach-cpu.json").read_text())["step"]
    assert stage_costs.unet_cost(large.models, 2).flops / 1e9 == pytest.approx(step["gigaflop"])
    forms = json.loads((BENCHMARKS / "train-cpu.json").read_text())["forms"]
    for form, w_diffusion in (("words alone", 0.0), ("all terms", 1.0)):
        cost = stage_costs.train(0, settings("miniature", loss={"w_diffusion": w_diffusion}))
        flops, _ = cost.operations["training"]
        assert flops / cost.rows / 1e12 == pytest.approx(forms[form]["teraflop_per_sample"], rel=0.04), form


def test_peak_memory_is_that_of_a_real_call():
    unet = UNet2DConditionModel.from_pretrained(MINIATURE, subfolder="unet").eval()
    inputs = torch.randn(20, 4, 8, 8), torch.zeros(20), torch.randn(20, 40, 128)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        unet(*inputs)
    events = sorted((e.start_ns(), e.nbytes()) for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]")
    peak = max(sum(bytes_ for _, bytes_ in events[: i + 1]) for i in range(len(events)))
    empty = model_specs.diffusion_model(MINIATURE)["unet"]
    cost = measure_cost(lambda: empty(*(meta_tensor(*x.shape) for x in inputs)))
    assert cost.peak_bytes == pytest.approx(peak + sum(x.nbytes for x in inputs), rel=0.1)


def test_the_hours_of_the_miniature_are_those_of_the_docs_within_a_factor_of_two():
    miniature = settings("miniature")
    funnel = json.loads(Path("reports/funnel.json").read_text())
    estimates = by_stage(make_plan(miniature, MeasuredRates.read(BENCHMARKS), funnel, categories(miniature)))
    rows = dict(re.findall(r"^\| `(\w+)[@`].*\| ([\d +]+) \|$", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.M))
    timed = {stage: [int(n) for n in seconds.split(" + ")] for stage, seconds in rows.items()}
    expected = {"crawl": timed["crawl"][0], "caption": timed["caption"][0], "score@clip": timed["score"][0], "train": timed["train"][0]}
    expected |= dict(zip(("cache@clip", "cache@llm", "cache@vae", "cache@queries"), timed["cache"], strict=True))
    for stage, seconds in expected.items():
        cpu = estimates[stage].cpu_seconds + 5  # five seconds: a stage's start
        assert seconds / 2 < cpu < 2 * seconds, (stage, cpu)
    assert {estimates[stage].source for stage in ("caption", "cache@llm", "train", "generate")} == {"m"}
    assert estimates["cache@vae"].source == "s"


def test_the_table_of_fourteen_million_pairs_in_the_docs_is_what_the_command_prints():
    large = settings("sd15-llama13b", sources=DIFFUSIONDB)
    text = format_plan(make_plan(large, MeasuredRates.read(BENCHMARKS), None, categories(large)))
    printed = [code for tag, code, _ in blocks(ROOT / "docs/scale.md") if tag == "text" and code.startswith("stage ")]
    assert printed == [text.split("\n\n")[0] + "\n"]


def test_rows_follow_what_the_last_run_of_the_same_sources_kept():
    sources = {"a": urls.Config(path="x", limit=30), "b": urls.Config(path="x", limit=10)}
    unlimited = {"a": folder.Config(path="x")}
    assert candidates(sources, None) == {"a": 30, "b": 10} and candidates(sources, 400) == {"a": 300, "b": 100}
    assert candidates(unlimited, None) == {"a": None} and candidates(unlimited, 7) == {"a": 7}
    plan_settings = settings("miniature")
    funnel = {"in": 100, "kept": 50, "dropped": {"truncated": 20, "nsfw": 20, "clip_simple": 10}, "by_source": {"miniature": {}}}
    assert surviving_rows(400, plan_settings, funnel)[:2] == (320, 200)
    other = funnel | {"by_source": {"c": {}}}
    assert surviving_rows(400, plan_settings, other)[:2] == surviving_rows(400, plan_settings, None)[:2] == (400, 400)


def test_unknown_models_and_rows_are_named_and_the_rest_is_planned():
    rates = MeasuredRates.read(BENCHMARKS)
    unknown = settings("miniature", models={"llm": "owner/unknown-llm"}, evaluate={"clip": "owner/unknown-clip"})
    estimates = by_stage(make_plan(unknown, rates))
    assert "the size of owner/unknown-llm is unknown" in estimates["cache@llm"].note and estimates["cache@llm"].disk_bytes is None
    assert estimates["cache@clip"].disk_bytes > 0 and estimates["generate"].rows is None and estimates["train"].rows is None
    plan = make_plan(settings("folder"), rates)
    assert {estimate.rows for estimate in plan.stages if estimate.stage.startswith(("crawl", "cache"))} == {None}
    assert plan.notes[0] == "the number of images in the sources is not known: give --rows"


def test_the_command_prints_the_plan_and_marks_estimates(capsys, monkeypatch):
    monkeypatch.setenv("SUR_PARAMS", str(ROOT / "params.yaml"))
    main(["plan", "--rows", "1000", "--mfu", "0.5"])
    text = capsys.readouterr().out
    assert re.search(r"^crawl +1,000 ", text, re.M) and "of which 50% are reached (mfu): assumed" in text
    gpu_hours = [re.split("  +", line)[-2] for line in text.split("\n\n")[0].splitlines()[1:]]
    assert {cell[-2:] for cell in gpu_hours} == {" e", "-"}, "each GPU hour has its mark"


@pytest.mark.parametrize("words", [["--rows", "many"], ["--rows"], ["--mfu", "-1"]], ids=" ".join)
def test_the_command_refuses_what_is_no_positive_number(capsys, monkeypatch, words):
    monkeypatch.setenv("SUR_PARAMS", str(ROOT / "params.yaml"))
    with pytest.raises(SystemExit):
        main(["plan", *words])
    assert f"argument {words[0]}" in capsys.readouterr().err


def test_a_missing_benchmark_is_named_with_the_command_that_runs_it(tmp_path):
    error = "caption-cpu.json is missing, and plan needs it: run `python -m experiments.benchmarks.caption`"
    with pytest.raises(FileNotFoundError, match=error):
        MeasuredRates.read(tmp_path)

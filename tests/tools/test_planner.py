"""The planner: its bytes are those of real folders, its operations are torch's, its hours are near the measured ones."""

import json
import re
import subprocess
from collections import Counter
from dataclasses import replace
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
from torch.utils.flop_counter import FlopCounterMode

from stages.__main__ import main
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.config import Params, from_dict
from sur_adapter.data.sentences import captions, file, miniature
from sur_adapter.data.sources import folder, urls
from sur_adapter.features.extractors import clip, llm, queries, vae
from sur_adapter.features.query_bank import CrossAttention
from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.prompts import read_prompt_sets
from sur_adapter.io.shards import read_tar
from sur_adapter.models.config import ModelsConfig
from sur_adapter.models.rewrite_prompt import RewriterConfig
from sur_adapter.models.stable_diffusion import cross_attention_layers
from sur_adapter.tools.planner import model_specs, sentence_costs, stage_costs, training_costs
from sur_adapter.tools.planner.estimate import Plan, StageEstimate, candidates, make_plan, surviving_rows
from sur_adapter.tools.planner.flops import measure_cost, meta_tensor, num_weights
from sur_adapter.tools.planner.measured_rates import MeasuredRates, mean_image_bytes
from sur_adapter.tools.planner.planner import format_plan
from sur_adapter.tools.planner.settings import PlanSettings
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.config import LossConfig
from sur_adapter.training.objective import Objective

BENCHMARKS = ROOT / "experiments/benchmarks"
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
MINIATURE = "models/miniature/stable-diffusion"
DIFFUSIONDB = {"diffusiondb": {"limit": 14_000_000, "large": True}}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def settings(preset: str, sources: dict | None = None, **changes) -> PlanSettings:
    params = merge(YAML(typ="safe").load(ROOT / f"presets/{preset}.yaml"), changes)
    return PlanSettings.read(Params({**params, "sources": sources or params["sources"]}))


def prompts(plan_settings: PlanSettings) -> dict[str, Counter]:
    sets = read_prompt_sets(Path(plan_settings.generate.prompts))
    return {name: Counter(row["category"] for row in rows) for name, rows in sets.items()}


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


def training_flops(num_text: int, tokens: float = 20, **loss) -> float:
    """The operations of a step of 64 pairs of the miniature."""
    loss = {"sentences": num_text or 64, "w_llm": float(num_text > 0)} | loss
    cost = training_costs.train(0, settings("miniature", loss=loss, train={"batch_size": 64}), 0, tokens)
    return 64 * cost.operations["training"][0] / cost.rows


def test_a_training_step_costs_what_the_real_step_costs():
    torch.manual_seed(0)
    width, lengths = 128, {"simple_length": torch.full((64,), 20), "complex_length": torch.full((64,), 20)}
    batch = TrainingBatch(*(torch.randn(64, 40, width) for _ in range(2)), None, **lengths)
    layers = cross_attention_layers(UNet2DConditionModel.from_pretrained(MINIATURE, subfolder="unet")).values()
    layers = [CrossAttention.of_layer(layer, torch.randn(200, layer.to_q.out_features)) for layer in layers]
    adapter = SURAdapter(AdapterConfig(width, 0, heads=4)).train()
    for num_text in (0, 64):
        loss = LossConfig(0.0, 1.0, float(num_text > 0))
        objective = Objective(loss, layers=layers, padding_tokens=PARAMS["train"]["padding_tokens"])
        with FlopCounterMode(display=False) as counter:
            objective(adapter, batch, text=batch if num_text else None)[0].backward()
        assert training_flops(num_text) == pytest.approx(counter.get_total_flops(), rel=0.03), num_text


def test_text_rows_and_padding_cost_what_their_tokens_cost():
    alone = training_flops(0)
    assert training_flops(32) == pytest.approx(1.5 * alone, rel=0.05) and training_flops(64) == pytest.approx(2 * alone, rel=0.05)
    assert training_flops(0, tokens=40) > 1.3 * alone
    assert training_flops(0, tokens=40) == training_flops(0, tokens=99), "never more than the tokens of a prompt"
    assert training_flops(0, w_diffusion=1.0) > 2 * alone


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


def test_the_seconds_of_the_miniature_are_those_of_the_committed_run_within_a_factor_of_two():
    """CPU seconds of the stages with one worker for each core; seconds of the training, which has two threads."""
    defaults = settings("miniature")
    funnel = json.loads(Path("reports/funnel.json").read_text())
    estimates = by_stage(make_plan(defaults, MeasuredRates.read(BENCHMARKS), funnel, prompts(defaults)))
    committed = subprocess.run(["git", "show", "HEAD:./reports/timing.json"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    timings = json.loads(committed)  # the file itself may be of a run on this machine
    stages = ["crawl", "caption", "score", *(name for name in timings if name.startswith("cache@")), "train"]
    assert len(stages) == 9
    for stage in stages:
        timing = timings.get(stage) or timings[f"{stage}@miniature"]
        seconds = timing["seconds" if stage == "train" else "cpu_seconds"]
        cpu = estimates[stage].cpu_seconds + 8  # importing torch and diffusers: measured 10
        assert seconds / 2 < cpu < 2 * seconds if estimates[stage].rows else seconds <= 1, (stage, cpu)
    assert {estimates[stage].source for stage in ("caption", "train")} == {"m"} and estimates["cache@sentences"].source == "s"


def test_features_that_no_loss_reads_cost_nothing_and_the_plan_says_why():
    rates, chosen = MeasuredRates.read(BENCHMARKS), settings("miniature")
    for changes, nothing in (
        ({}, {"vae", "llm"}),
        ({"w_diffusion": 1.0}, {"llm"}),
        ({"llm": "kl"}, {"vae"}),
        ({"llm": "decoded"}, {"vae", "llm"}),
    ):
        plan = make_plan(replace(chosen, loss=replace(chosen.loss, **changes)), rates)
        estimates = {stage: estimate for stage, estimate in by_stage(plan).items() if stage in ("cache@vae", "cache@llm")}
        empty = {stage: estimate for stage, estimate in estimates.items() if not estimate.rows}
        assert empty.keys() == {f"cache@{name}" for name in nothing}, changes
        assert all(
            (e.disk_bytes, e.cpu_seconds, e.memory_bytes) == (0, 0, 0) and "nothing is computed: loss." in e.note for e in empty.values()
        )
        assert all(e.disk_bytes and e.cpu_seconds and not e.note for stage, e in estimates.items() if stage not in empty)


def test_states_of_answers_cost_their_bytes_only_if_the_loss_reads_them():
    words = settings("miniature")
    decoded = replace(words, loss=replace(words.loss, llm="decoded"))
    plain, stored = (sentence_costs.cache_sentences(1000, 0, chosen, 20) for chosen in (words, decoded))
    assert stored.disk_bytes - plain.disk_bytes == 1000 * stage_costs.llm_row_bytes(words.models, words.cache_llm, 16) > 0
    assert stored.operations == plain.operations


def test_the_table_of_fourteen_million_pairs_in_the_docs_is_what_the_command_prints():
    large = settings("sd15-llama13b", sources=DIFFUSIONDB)
    text = format_plan(make_plan(large, MeasuredRates.read(BENCHMARKS), None, prompts(large)))
    printed = [code for tag, code, _ in blocks(ROOT / "docs/scale.md") if tag == "text" and code.startswith("stage ")]
    assert printed == [text.split("\n\n")[0] + "\n"]


def test_rows_follow_what_the_last_run_of_the_same_sources_kept():
    sources = {"a": urls.Config(path="x", limit=30), "b": urls.Config(path="x", limit=10)}
    unlimited = {"a": folder.Config(path="x")}
    assert candidates(sources, None) == {"a": 30, "b": 10} and candidates(sources, 400) == {"a": 300, "b": 100}
    assert candidates(unlimited, None) == {"a": None} and candidates(unlimited, 7) == {"a": 7}
    plan_settings = settings("miniature", caption={"sentences": 1})
    funnel = {"in": 100, "kept": 50, "dropped": {"truncated": 20, "nsfw": 20, "clip_simple": 10}, "by_source": {"miniature": {}}}
    assert surviving_rows(400, plan_settings, funnel)[:2] == (320, 200)
    three = replace(plan_settings, caption=replace(plan_settings.caption, sentences=3, top_p=0.9))
    rows = {"in": 260, "kept": 150, "dropped": {"truncated": 20, "nsfw": 60, "clip_simple": 30}, "by_source": {"miniature": {}}}
    assert surviving_rows(400, three, rows)[:2] == (320, 600), "of 100 candidates 80 images with 3 captions each, of which 150 are kept"
    assert "the crawl keeps 80.0% of the rows and the filter 50.0%" in surviving_rows(400, three, rows)[2]
    other = funnel | {"by_source": {"c": {}}}
    assert surviving_rows(400, plan_settings, other)[:2] == surviving_rows(400, plan_settings, None)[:2] == (400, 400)


def test_the_keyword_prompt_of_several_captions_is_encoded_and_stored_once():
    models, config = settings("miniature").models, settings("miniature").cache_clip
    one, three = (stage_costs.cache_clip(600, models, config, sentences) for sentences in (1, 3))
    assert one.disk_bytes - three.disk_bytes == 400 * stage_costs.prompt_bytes(models)
    assert three.operations["encoding"][0] == pytest.approx(one.operations["encoding"][0] * 800 / 1200)


def test_the_sweep_generates_the_scales_that_no_arm_has():
    plan_settings = settings("miniature")
    models, config, chosen = plan_settings.models, plan_settings.generate, plan_settings.sweep
    scales, per_scale = len(chosen.strengths), stage_costs.image_cost(models, config)[0] * 60
    for strength, changes, generated in ((1.0, {}, 5), (0.1, {}, 6), (1.0, {"per_category": 61}, 7), (1.0, {"seeds": 3}, 7)):
        cost = stage_costs.sweep(models, config, replace(chosen, **changes), strength, 60)
        images = changes.get("seeds", 1) * 60
        assert cost.rows == scales * images
        assert cost.operations["generation"][0] == pytest.approx(generated * per_scale * images / 60)
    assert stage_costs.sweep(models, config, replace(chosen, strengths=()), 1.0, 60).operations["generation"][0] == 0


def test_sentences_are_those_of_their_sources_and_of_the_last_run(tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text('{"sentence": "one"}\n{"sentence": "two", "answer": "2"}\n')
    given = {"miniature": miniature.Config(count=30), "captions": captions.Config(limit=7), "file": file.Config(path=str(own))}
    assert sentence_costs.num_sentences(given, 5) == (37, 1) and sentence_costs.num_sentences(given, 100) == (39, 1)
    assert sentence_costs.num_sentences(given, None) == sentence_costs.num_sentences({"file": file.Config(path="x.txt")}, 5) == (None, 0)
    report = {"in": 40, "kept": 30, "by_source": dict.fromkeys(given)}
    assert sentence_costs.kept_share(given, report) == 0.75 and sentence_costs.kept_share({}, report) == 1


def test_an_answer_costs_the_weights_for_each_of_its_tokens():
    model, config = PARAMS["models"]["llm"], RewriterConfig(instruction="{sentence} =>", max_new_tokens=16, precision="fp32")
    flops, memory = sentence_costs.answer_cost(model, config, 20)
    weights = num_weights(model_specs.language_model(model, "all").layers)
    vocabulary = model_specs.language_model(model, "all").config.vocab_size * model_specs.language_model(model, "all").config.hidden_size
    assert flops == pytest.approx(2 * (weights * (20 + 1 + 16) + vocabulary * 17), rel=0.1), "and little for attention"
    longer, more = sentence_costs.answer_cost(model, replace(config, max_new_tokens=32), 20)
    assert 1.3 * flops < longer < 2 * flops and memory < more
    assert sentence_costs.answer_cost(model, replace(config, batch_size=512), 20)[0] == flops


def test_ready_answers_without_states_need_no_language_model():
    chosen = settings("miniature")
    assert "answers" not in sentence_costs.cache_sentences(100, 100, chosen, 20).operations
    half, whole = (sentence_costs.cache_sentences(100, ready, chosen, 20).operations["answers"][0] for ready in (50, 0))
    assert whole == pytest.approx(2 * half)


def test_every_arm_draws_the_main_set_and_some_the_others():
    config = replace(settings("miniature").generate, seeds=2, set_seeds=1)
    everywhere = sum(not arm.main_only for arm in ARMS.values())
    assert stage_costs.num_images(config, {"main": 10, "reasoning": 7}) == len(ARMS) * 20 + everywhere * 7
    assert stage_costs.num_images(replace(config, set_seeds=None), {"main": 10, "reasoning": 7}) == len(ARMS) * 20 + everywhere * 14


def test_unknown_models_and_rows_are_named_and_the_rest_is_planned():
    rates = MeasuredRates.read(BENCHMARKS)
    unknown = settings("miniature", models={"llm": "owner/unknown-llm"}, evaluate={"clip": "owner/unknown-clip"})
    estimates = by_stage(make_plan(unknown, rates))
    assert (
        "the size of owner/unknown-llm is unknown" in estimates["cache@sentences"].note and estimates["cache@sentences"].disk_bytes is None
    )
    assert estimates["cache@clip"].disk_bytes > 0 and estimates["generate"].rows is None and estimates["train"].rows > 0
    drawn = by_stage(make_plan(unknown, rates, prompts=prompts(unknown)))["generate"]
    assert drawn.rows > 0 and "the answers of the arm rewrite are not counted: the size of owner/unknown-llm" in drawn.note
    plan = make_plan(settings("folder"), rates)
    assert {estimate.rows for estimate in plan.stages if estimate.stage.startswith(("crawl", "caption"))} == {None}
    assert plan.notes[0] == "the number of images in the sources is not known: give --rows"


def test_the_command_prints_the_plan_and_marks_estimates(capsys, monkeypatch):
    monkeypatch.setenv("SUR_PARAMS", str(ROOT / "params.yaml"))
    main(["plan", "--rows", "1000", "--mfu", "0.5"])
    text = capsys.readouterr().out
    assert re.search(r"^crawl +1,000 ", text, re.M) and "of which 50% are reached (mfu): assumed" in text
    head, *lines = [re.split("  +", line.strip()) for line in text.split("\n\n")[0].splitlines()]
    gpu_hours = [cells[head.index("GPU hours") - len(head)] for cells in lines]  # the total has fewer cells on the left
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

"""A plan says before a run what it takes: its bytes are those of real folders, its operations torch's, its hours those that were timed."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers.repository import ROOT, merge
from helpers.tiny_models import home, models
from helpers.written_docs import blocks
from ruamel.yaml import YAML
from torch.profiler import ProfilerActivity, profile

import sur_adapter.tools.planner.model_specs as known
import sur_adapter.tools.planner.stage_costs as works
from stages.__main__ import main
from stages.cache import cache
from sur_adapter.generation.prompts import read_prompts
from sur_adapter.io.shards import read_tar
from sur_adapter.tools.planner.flops import cost, meta, weight
from sur_adapter.tools.planner.measured_rates import Rates, mean_size
from sur_adapter.tools.planner.planner import candidates, plan, survivors
from sur_adapter.tools.planner.table import table

BENCHMARKS = ROOT / "experiments/benchmarks"
MINIATURE = "models/miniature/stable-diffusion"
DIFFUSIONDB = {"diffusiondb": {"limit": 14_000_000, "large": True}}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.chdir(ROOT)


def params(preset: str, **changes) -> dict:
    return merge(YAML(typ="safe").load(ROOT / f"presets/{preset}.yaml"), changes)


def drawn(p: dict) -> Counter:
    return Counter(row["category"] for row in read_prompts(Path(p["generate"]["prompts"])))


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_the_bytes_of_every_lane_are_those_of_its_folder_within_a_tenth(tmp_path, own_work):
    made = models(tmp_path / "models")
    p = {"models": made} | YAML(typ="safe").load(home(tmp_path, made, 300) / "params.yaml")
    for lane, task in (("clip", works.cache_clip), ("llm", works.cache_llm), ("vae", works.cache_vae), ("queries", works.cache_queries)):
        folder = tmp_path / "features" / lane
        cache(tmp_path / "pairs.parquet", tmp_path / "raw", folder, cache=p["cache"], models=p["models"])
        reckoned = task(300, p, 8) if lane == "llm" else task(300, p)
        assert reckoned.disk == pytest.approx(size(folder), rel=0.1), lane


def test_the_bytes_of_a_crawl_are_those_of_its_folder_within_a_tenth(raw):
    kept = sum(1 for _ in read_tar(raw / "miniature"))
    assert works.crawl(150, kept, mean_size(raw / "miniature")).disk == pytest.approx(size(raw / "miniature"), rel=0.1)
    assert mean_size(raw / "nowhere") is None


def test_the_models_that_are_known_by_name_have_as_many_weights_as_were_published():
    parts = {name: known.diffusion(name) for name in known.DIFFUSION}
    found = [[round(weight(m, each=1) / 1e6, 1) for m in some.values()] for some in parts.values()]
    assert found == [[859.5, 83.7, 123.1], [865.9, 83.7, 340.4], [2567.5, 83.7, 123.1, 694.7]]  # unet, vae, text encoders
    atomic_write = known.llm("huggyllama/llama-7b", "all")
    assert round((weight(atomic_write, each=1) + 32_000 * 4096) / 1e6) == 6738, "with the head, which no teacher needs"
    assert round(weight(known.llm("huggyllama/llama-7b", [31]), each=1) / 1e6) == 6405, "what lies above the layer is not loaded"


def test_operations_are_those_that_the_benchmarks_counted():
    large, small = params("sd15-llama13b"), params("miniature")
    assert works.step(large, 2).operations / 1e9 == pytest.approx(
        json.loads((BENCHMARKS / "attach-cpu.json").read_text())["step"]["gigaflop"]
    )
    forms = json.loads((BENCHMARKS / "train-cpu.json").read_text())["forms"]
    for form, w_diffusion in (("words alone", 0.0), ("all terms", 1.0)):
        small["loss"]["w_diffusion"] = w_diffusion
        task = works.train(0, small)
        assert task.work["training"][0] / task.rows / 1e12 == pytest.approx(forms[form]["teraflop_per_sample"], rel=0.04), form


def test_memory_that_is_held_on_the_way_is_what_a_real_pass_asks_for():
    unet = UNet2DConditionModel.from_pretrained(MINIATURE, subfolder="unet").eval()
    inputs = torch.randn(20, 4, 8, 8), torch.zeros(20), torch.randn(20, 40, 128)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        unet(*inputs)
    events = sorted((e.start_ns(), e.nbytes()) for e in seen.profiler.kineto_results.events() if e.name() == "[memory]")
    most = max(sum(bytes_ for _, bytes_ in events[: i + 1]) for i in range(len(events)))
    empty = known.diffusion(MINIATURE)["unet"]
    found = cost(lambda: empty(*(meta(*x.shape) for x in inputs)))
    assert found.held == pytest.approx(most + sum(x.nbytes for x in inputs), rel=0.1)


def test_the_hours_of_the_miniature_are_those_that_the_readme_tells_within_a_factor_of_two():
    p = params("miniature")
    found = {
        line.stage: line for line in plan(p, Rates.read(BENCHMARKS), json.loads(Path("reports/funnel.json").read_text()), drawn(p)).lines
    }
    rows = dict(re.findall(r"^\| `(\w+)[@`].*\| ([\d +]+) \|$", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.M))
    timed = {stage: [int(n) for n in seconds.split(" + ")] for stage, seconds in rows.items()}
    told = {"crawl": timed["crawl"][0], "caption": timed["caption"][0], "score@clip": timed["score"][0], "train": timed["train"][0]}
    told |= dict(zip(("cache@clip", "cache@llm", "cache@vae", "cache@queries"), timed["cache"], strict=True))
    for stage, seconds in told.items():
        assert seconds / 2 < found[stage].cpu + 5 < 2 * seconds, (stage, found[stage].cpu)  # five seconds: a stage's start
    assert {found[stage].mark for stage in ("caption", "cache@llm", "train", "generate")} == {"m"} and found["cache@vae"].mark == "s"


def test_the_table_of_fourteen_million_pairs_in_the_docs_is_what_the_command_prints():
    p = params("sd15-llama13b") | {"sources": DIFFUSIONDB}
    found = plan(p, Rates.read(BENCHMARKS), None, drawn(p))
    printed = [code for tag, code, _ in blocks(ROOT / "docs/scale.md") if tag == "text" and code.startswith("stage ")]
    assert printed == [table(found, 0.3, 312.0, 19.5).split("\n\n")[0] + "\n"]


def test_rows_go_by_what_the_last_run_of_the_same_sources_kept():
    p = {"sources": {"a": {"limit": 30}, "b": {"count": 10}}, "filter": {"clip_simple": 0.7}}
    assert candidates(p["sources"], None) == {"a": 30, "b": 10} and candidates(p["sources"], 400) == {"a": 300, "b": 100}
    assert candidates({"a": {"path": "x"}}, None) == {"a": None} and candidates({"a": {"path": "x"}}, 7) == {"a": 7}
    funnel = {"in": 100, "kept": 50, "dropped": {"truncated": 20, "nsfw": 20, "clip_simple": 10}, "by_source": {"a": {}, "b": {}}}
    assert survivors(400, p, funnel)[:2] == (320, 200)
    assert survivors(400, p, funnel | {"by_source": {"c": {}}})[:2] == survivors(400, p, None)[:2] == (400, 400)


def test_what_is_not_known_is_said_and_the_rest_is_planned_all_the_same():
    p = params("miniature", models={"llm": "nobody/knows"}, evaluate={"clip": "nobody/either"})
    lines = {line.stage: line for line in plan(p, Rates.read(BENCHMARKS), None, None).lines}
    assert "the sizes of nobody/knows are not known" in lines["cache@llm"].why and lines["cache@llm"].disk is None
    assert lines["cache@clip"].disk > 0 and lines["generate"].rows is None and lines["train"].rows is None
    lines = plan(params("folder"), Rates.read(BENCHMARKS), None, None)
    assert {line.rows for line in lines.lines if line.stage.startswith(("crawl", "cache"))} == {None}
    assert lines.notes[0] == "how many pictures the sources hold is not known: give rows=…"


def test_the_command_prints_the_plan_marks_what_is_reckoned_and_refuses_other_words(capsys, monkeypatch):
    monkeypatch.setenv("SUR_PARAMS", str(ROOT / "params.yaml"))
    main(["plan", "rows=1000", "mfu=0.5"])
    said = capsys.readouterr().out
    assert (
        re.search(r"^crawl +1,000 ", said, re.M)
        and "of which 50% are reached (mfu): stated" in said
        and "r: reckoned, not measured" in said
    )
    reckoned = [re.split("  +", line)[-2] for line in said.split("\n\n")[0].splitlines()[1:]]
    assert {cell[-2:] for cell in reckoned} == {" r", "-"}, "no hour of a GPU stands without its mark"
    for word, sentence in (
        ("row=5", r"did you mean 'rows'"),
        ("rows=many", "give a number above 0"),
        ("rows", "rows=…"),
        ("mfu=-1", "mfu=-1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            main(["plan", word])


def test_a_plan_asks_for_the_benchmarks_that_it_goes_by(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="caption-cpu.json is missing: a plan goes by it; run `python -m experiments.benchmarks.caption`"
    ):
        Rates.read(tmp_path)

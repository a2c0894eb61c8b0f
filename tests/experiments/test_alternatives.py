"""What could be used in place of the adapter: a LoRA that is not trained changes nothing, parts are made once, the page has the figures."""

import json
import os
import shutil
from copy import deepcopy
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import tiny_models
from helpers.repository import ROOT
from helpers.stages import generate
from helpers.training_setup import cached, cached_sentences
from ruamel.yaml import YAML

from experiments.ablations.rows import Row
from experiments.ablations.runs import Run, Workspace
from experiments.alternatives import runs
from experiments.alternatives.__main__ import compare, main
from experiments.alternatives.arms import ARMS, OURS
from experiments.alternatives.command import main as command
from experiments.alternatives.lora import LoRA, fit, load_pairs, validate
from experiments.alternatives.runs import Comparison
from experiments.alternatives.table import NOT_RUN, count_prompts, format_page, summarize
from sur_adapter.config import from_dict
from sur_adapter.generation.prompts import read_prompts
from sur_adapter.io.shards import read_tar, write_table
from sur_adapter.models.config import ModelsConfig
from sur_adapter.training.config import LossConfig, TrainConfig
from sur_adapter.training.setup import build_objective, load_data

MINIATURE = "models/miniature/stable-diffusion"
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
DRAW = {"per_category": 1, "seeds": 1, "num_inference_steps": 1, "guidance_scale": 3.0}


def write_prompts(folder: Path, count: int = 2) -> Path:
    """The first miniature prompts: a main set of two categories, and a set beside it."""
    for name in ("color.jsonl", "action.jsonl", "reasoning/reasoning_colour.jsonl"):
        lines = (ROOT / "prompts/miniature" / name).read_text(encoding="utf-8").splitlines(keepends=True)[:count]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(lines), encoding="utf-8")
    return folder


def images(folder: Path, prompts: Path, model: str) -> list:
    generate(prompts, folder, "baseline", models={"diffusion": model, "resolution": 64}, generate=DRAW)
    return list(read_tar(folder / "baseline"))


def test_a_lora_of_zero_steps_draws_exactly_what_the_base_model_draws(tmp_path, own_work):
    prompts, base = write_prompts(tmp_path / "prompts"), str(ROOT / MINIATURE)
    lora = LoRA(base, 0, "cpu")
    assert sum(weights.numel() for weights in lora.parameters()) == 3 * 4 * 2 * 8 * 128, "layers, projections, matrices, rank, width"
    lora.save(tmp_path)
    drawn = images(tmp_path / "base", prompts, base)
    assert len(drawn) == 3 and images(tmp_path / "lora", prompts, str(tmp_path / "model")) == drawn

    trained = LoRA(base, 0, "cpu")
    with torch.no_grad():
        for name, weights in trained.encoder.named_parameters():
            if "lora_B" in name:
                weights.fill_(0.1)
    trained.save(tmp_path / "trained")
    assert images(tmp_path / "changed", prompts, str(tmp_path / "trained/model")) != drawn


@pytest.mark.parametrize("weights", [{"w_diffusion": 1.0, "w_prompt": 0.0}, {"w_diffusion": 0.0, "w_prompt": 1.0}])
def test_training_lowers_the_loss_and_gives_the_same_weights_again(tmp_path, weights):
    model = tiny_models.diffusion(tmp_path / "sd1", "sd1")
    rows, pictures = tiny_models.pairs(16)
    models = {"diffusion": model, "resolution": 64}
    for name, options in {"clip": {}, "vae": {}, "queries": {"count": 20}}.items():
        tiny_models.extract(name, rows, tmp_path / name, models, None if name == "clip" else pictures, **options)
    frozen, config = from_dict(ModelsConfig, models, "models"), TrainConfig(steps=12, batch_size=8, lr=0.01, eval_steps=12)
    loss = LossConfig(**weights, w_llm=0.0, complex_prompt_prob=0.2, empty_prompt_prob=0.1)
    data = load_data(tmp_path / "clip", tmp_path / "clip", tmp_path / "vae", None, loss, frozen)
    prompts = {row.id: (row.simple_prompt, row.complex_prompt) for row in rows.itertuples()}
    pairs = dict.fromkeys(("train", "validation"), load_pairs(data.splits["train"], prompts))
    objective = build_objective(loss, frozen, tmp_path / "queries", config, "cpu")
    trained = []
    for _ in range(2):
        lora = LoRA(model, 0, "cpu")
        history = fit(lora, pairs, objective, config)
        trained.append(torch.cat([weights.detach().flatten() for weights in lora.parameters()]))
        assert history[-1]["validation_loss"] < history[0]["validation_loss"] and history[-1]["step"] == 12
        again = validate(lora, pairs["validation"], objective, config)["validation_loss"]
        assert again == pytest.approx(history[-1]["validation_loss"], rel=1e-5)
    assert torch.equal(*trained)
    with pytest.raises(ValueError, match="the table of pairs lacks 12 of 12 cached pairs"):
        load_pairs(data.splits["train"], {})


def test_a_model_with_two_text_encoders_is_refused(tmp_path):
    with pytest.raises(ValueError, match="several text encoders: the LoRA is for models with one"):
        LoRA(tiny_models.diffusion(tmp_path / "sdxl", "sdxl"), 0, "cpu")


@pytest.fixture
def workspace(tmp_path, monkeypatch, own_work) -> Path:
    """A folder with the pairs and features of a finished run, and its params."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/miniature").symlink_to(ROOT / "models/miniature")
    (tmp_path / "prompts").symlink_to(ROOT / "prompts")
    cached(Path("data/features"), train=16)
    cached_sentences(Path("data/features/sentences"), [-0.1] * 12 + [-9.0] * 4)
    ids = [f"{split}{k}" for split, n in (("train", 16), ("validation", 8)) for k in range(n)]
    texts = {"simple_prompt": "a red circle", "complex_prompt": "1 circle, red, 8k", "clean_prompt": None, "dropped": None}
    write_table(Path("data/pairs.parquet"), pd.DataFrame([{"id": key} | texts for key in [*ids, "train0"]]).assign(split="train"))
    values = deepcopy(PARAMS)
    values["models"]["llm"] = "none"
    values["adapter"] |= {"depth": 1, "heads": 2}
    values["loss"] |= {"w_diffusion": 1.0, "sentences": 4}  # so that the latents of `cached` are those that a LoRA needs
    values["train"] |= {"steps": 2, "batch_size": 4, "eval_steps": 2}
    values["generate"] |= {"num_inference_steps": 1, "per_category": 2, "batch_size": 2}
    values["prompt_sets"] |= {"test": str(write_prompts(tmp_path / "few"))}
    YAML(typ="safe").dump(values, Path("params.yaml"))
    monkeypatch.setattr(runs, "DEVELOPMENT_PROMPTS", 1)
    return tmp_path


class InThisProcess:
    """Runs the commands here, and keeps their first words."""

    def __init__(self):
        self.commands: list[str] = []

    def __call__(self, words: list[str], params: Path, log: Path) -> None:
        self.commands.append(words[0])
        os.environ["SUR_PARAMS"] = str(params)
        try:
            command(words)
        finally:
            del os.environ["SUR_PARAMS"]


def test_arms_are_trained_drawn_and_judged_once_and_the_page_has_their_figures(workspace):
    execute, file = InThisProcess(), workspace / "out/alternatives.json"
    arguments = (["base", OURS, "lora"], 1, None, None)
    summary = compare(*arguments, execute, file)
    rates = ARMS["lora"].training.rates
    assert execute.commands == ["generate", "train", "generate", *(["lora", "generate"] * len(rates)), "generate"], (
        "at this length the training that a rate was chosen by is that of the comparison"
    )
    assert list(summary["arms"]) == ["base", OURS, "lora"] and list(summary["sets"]) == ["main", "reasoning"]
    assert summary["sets"]["main"] == {"prompts": 4, "images": 2, "categories": {"action": 2, "color": 2}}
    ours, lora = summary["arms"][OURS], summary["arms"]["lora"]
    assert (lora["parameters"], lora["sentences_seen"], lora["pairs_seen"], lora["pairs"]) == (24576, 0, 8, 16)
    assert (ours["sentences_seen"], ours["sentences"], ours["pairs_seen"]) == (8, 12, 8) and ours["parameters"] > 24576
    assert lora["lr"] in rates and list(lora["rates"]) == [str(rate) for rate in rates] and ours["rates"] == {}
    assert all(arm["seconds"][0] > 0 and arm["peak_memory_mb"] > 0 for arm in (ours, lora))
    assert all(arm["seconds_per_image"] > 0 for arm in summary["arms"].values())
    assert json.loads(file.read_text()) == summary
    page = file.with_suffix(".md").read_text(encoding="utf-8")
    assert page == format_page(json.loads(file.read_text())) and "8 of 16 | none" in page and "reasoning (n = 2 × 1)" in page
    assert all(ARMS[name].label in page for name in summary["arms"]) and ARMS["paper"].label not in page

    again = InThisProcess()
    assert compare(*arguments, again, file) == summary and again.commands == []
    compare(["lora"], 1, write_prompts(workspace / "other", 1), None, again, file)
    assert again.commands == ["generate"], "other prompts are drawn; the trainings and the development prompts are the same"
    shutil.rmtree(runs.FOLDER / "images")
    compare(["base"], 1, None, None, again, file)
    assert again.commands == ["generate"] * 2


def test_development_prompts_are_plain_and_none_of_them_is_compared(workspace, monkeypatch):
    monkeypatch.setattr(runs, "DEVELOPMENT_PROMPTS", 3)
    first = read_prompts(Comparison(Workspace(), InThisProcess(), Path("few")).development_prompts())
    assert len(first) == 9 and not {row["prompt"] for row in first} & {row["prompt"] for row in read_prompts(Path("few"))}
    Path("one.jsonl").write_text(json.dumps(first[0]) + "\n", encoding="utf-8")
    others = read_prompts(Comparison(Workspace(), InThisProcess(), Path("one.jsonl")).development_prompts())
    assert others == first[1:]


def test_a_folder_without_a_finished_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^data/pairs.parquet is missing: run `dvc repro` first; the alternatives are trained on"):
        main([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lara"], r"there is no arm 'lara' \(did you mean 'lora'\?\)"),
        (["--seeds", "0"], "--seeds is 0 and --steps None: give at least 1"),
        (["--steps", "0"], "--seeds is 1 and --steps 0: give at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        main(arguments)


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.training])
def test_an_arm_changes_keys_that_params_yaml_has(name):
    changes = ARMS[name].training.changes
    params = Run(name, Row("", changes, shared={}), 0, Workspace(PARAMS, "data")).params
    assert params["train"]["steps"] == PARAMS["train"]["steps"] and params["train"]["batch_size"] == PARAMS["train"]["batch_size"]
    from_dict(LossConfig, params["loss"], "loss"), from_dict(TrainConfig, params["train"], "train")


def judged(share: float, prompts: int = 10) -> pd.DataFrame:
    rows = [
        {"set": kind, "id": f"{category}-{i}", "category": category, "seed": 0, "shown": float(i < prompts * share)}
        for kind, categories in (("main", ("action", "color")), ("other", ("wild",)))
        for category in categories
        for i in range(prompts)
    ]
    return pd.DataFrame(rows)


def test_accuracies_are_means_over_trainings_and_differences_are_from_our_adapter():
    tables = {"base": [judged(0.4)], OURS: [judged(0.7), judged(0.9)]}
    figures = summarize(tables)
    assert figures[OURS]["accuracy"]["main"]["overall"]["value"] == pytest.approx(0.8)
    assert figures["base"]["accuracy"]["other"]["wild"]["value"] == pytest.approx(0.4)
    difference = figures["base"]["difference"]["main"]
    assert difference["value"] == pytest.approx(-0.4) and difference["low"] < -0.4 < difference["high"] < 0
    assert figures[OURS]["difference"] == {}
    assert count_prompts(tables)["main"] == {"prompts": 20, "images": 1, "categories": {"action": 10, "color": 10}}
    with pytest.raises(ValueError, match="images of different prompts: remove data/alternatives/images"):
        summarize(tables | {"lora": [judged(0.5, prompts=9)]})


def test_the_committed_page_is_that_of_the_committed_figures():
    summary = json.loads((ROOT / "experiments/alternatives.json").read_text(encoding="utf-8"))
    page = (ROOT / "experiments/alternatives.md").read_text(encoding="utf-8")
    assert page == format_page(summary) and (summary["arms"] or page == NOT_RUN)

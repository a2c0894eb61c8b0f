"""Other shares of plain sentences in CLIP's pretraining: each part is made once, the LLM's answers are reused, the page has the figures."""

import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from helpers import tiny_models
from helpers.repository import ROOT, merge
from ruamel.yaml import YAML
from transformers import CLIPTextModel

from experiments import plain_text_share as experiment
from experiments.ablations.runs import CommandError, Processes
from experiments.plain_text_share_page import format_chart, format_page
from miniature.pretrain.__main__ import main as pretrain
from stages.__main__ import main as stage
from sur_adapter.data.sentence_selection.selection import SENTENCES_SCHEMA
from sur_adapter.evaluation.summary import JUDGEMENTS
from sur_adapter.evaluation.trainings import summarize_trainings
from sur_adapter.features.extractors.sentences import ANSWERS_SCHEMA
from sur_adapter.features.store import FeatureStore
from sur_adapter.io.shards import read_table, write_table, write_tar

ARGS = {"shares": [0.02, 0.5], "jobs": 1, "clip_steps": 2, "diffusion_steps": 1, "train_steps": 2}
TINY = {
    "sources": {"miniature": {"count": 40}},
    "cache": {"queries": {"count": 20}},
    "adapter": {"depth": 1, "heads": 2},
    "loss": {"sentences": 4},
    "train": {"batch_size": 8, "eval_steps": 2},
    "generate": {"per_category": 2, "seeds": 1, "num_inference_steps": 1, "prompts": "another/list"},
    "evaluate": {"bootstrap_resamples": 100},
}
TINY_RECIPE = {
    "scattered": {"count": 600},
    "arranged": {"count": 200},
    "clip": {"batch": 8, "text_layers": 1, "vision_layers": 1, "pieces": 1500},
    "diffusion": {"batch": 4},
}
SENTENCES = 12  # one is a duplicate, and the LLM has no usable answer to another


class InThisProcess:
    """Runs commands here, and keeps them. variable: the environment variable of the params file."""

    def __init__(self, main, variable: str):
        self.main, self.variable = main, variable
        self.commands: list[list[str]] = []

    def __call__(self, words: list[str], params: Path, log: Path) -> None:
        self.commands.append(words)
        os.environ[self.variable] = str(params)
        try:
            self.main(words)
        finally:
            del os.environ[self.variable]

    def names(self) -> list[str]:
        return [words[0] for words in self.commands]


def commands() -> tuple[InThisProcess, InThisProcess]:
    return InThisProcess(stage, "SUR_PARAMS"), InThisProcess(pretrain, "MINIATURE_PARAMS")


def sentences() -> pd.DataFrame:
    rows = [{"id": f"s{k}", "sentence": f"{k} red stars, please", "split": "train" if k < 8 else "validation"} for k in range(SENTENCES)]
    table = pd.DataFrame(rows).assign(kind="plain", source="miniature", keep=True, expected=None, answer=None, reason=None)
    table = table.assign(mean_logprob=np.nan, min_logprob=np.nan)[SENTENCES_SCHEMA.names].astype({"reason": object})
    table.loc[SENTENCES - 1, ["id", "keep", "reason"]] = ["s0", False, "duplicate"]
    return table


def answers() -> pd.DataFrame:
    table = sentences()[: SENTENCES - 1].assign(mean_logprob=-0.1, min_logprob=-0.2, reason=None)
    table["answer"] = [f"{k} stars, red" for k in range(len(table))]
    table.loc[3, "reason"] = "unparsable"
    return table


@pytest.fixture
def project(tmp_path, monkeypatch, own_work) -> Path:
    """A folder with a small finished run."""
    monkeypatch.chdir(tmp_path)
    for name in ("models", "prompts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "reports").mkdir()
    shutil.copy(ROOT / "reports/funnel.json", "reports/funnel.json")
    rows, images = tiny_models.pairs(40)
    write_table(experiment.PAIRS, rows)
    write_tar(experiment.RAW / "here/images-000000.tar", ((key, "png", data) for key, data in images.items()))
    write_table(experiment.SENTENCES, sentences(), SENTENCES_SCHEMA)
    write_table(experiment.ANSWERS, answers()[ANSWERS_SCHEMA.names], ANSWERS_SCHEMA)
    (tmp_path / "miniature").mkdir()
    for file, changes in (("params.yaml", TINY), ("miniature/params.yaml", TINY_RECIPE)):
        YAML(typ="safe").dump(merge(YAML(typ="safe").load(ROOT / file), changes), Path(file))
    return tmp_path


def read_study(stages, pretraining, **changes) -> experiment.Study:
    return experiment.Study.read(Namespace(**ARGS | changes), stages, pretraining)


def folder(name: str) -> Path:
    """The only folder of a part."""
    (found,) = (path for path in experiment.FOLDER.glob(f"{name}-*") if path.is_dir())
    return found


def test_each_share_has_its_own_models_and_features_and_every_part_is_made_once(project, capsys):
    stages, pretraining = commands()
    figures = experiment.measure(read_study(stages, pretraining), ARGS["shares"], 1)
    assert pretraining.names() == ["world", "clip", "world", "diffusion", "clip", "diffusion"]
    assert stages.names() == [*["cache"] * 5, "train", "generate", "generate", "evaluate"] * 2
    prompts = [words[words.index("--prompts") + 1] for words in stages.commands if words[0] == "generate"]
    assert set(prompts) == {"prompts/development"}
    assert "2 % plain sentences: finished" in capsys.readouterr().out and not list(experiment.FOLDER.glob("*.pt"))

    for share, keywords in ((0.02, 0.95), (0.5, 0.47)):
        made = YAML(typ="safe").load(folder(f"clip-{share}") / "params.yaml")["clip"]
        assert made["shares"] == {"complex": keywords, "simple": share, "broad": 0.03} and made["steps"] == 2 and made["seed"] == 2
        pipe = StableDiffusionPipeline.from_pretrained(folder(f"diffusion-{share}") / "stable-diffusion", safety_checker=None)
        assert pipe("a red circle", num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)
        text_encoder = CLIPTextModel.from_pretrained(folder(f"clip-{share}") / "clip").state_dict()
        assert all(torch.equal(text_encoder[name], value) for name, value in pipe.text_encoder.state_dict().items())
        start = UNet2DConditionModel.from_pretrained(experiment.START, subfolder="unet").conv_in.weight
        assert torch.allclose(pipe.unet.conv_in.weight, start, atol=0.01), "it goes on from the committed U-Net"
        config = json.loads((folder(f"adapter-{share}") / "adapter/config.json").read_text())
        assert config["about"]["base_model"] == str(folder(f"diffusion-{share}") / "stable-diffusion")
    weights = [CLIPTextModel.from_pretrained(folder(f"clip-{share}") / "clip").state_dict() for share in ARGS["shares"]]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0]), "they have read other texts"

    features = folder("features-sentences-0.5") / "sentences"
    store, own = FeatureStore(features), read_table(features / "answers.parquet")
    assert "llm" not in store.about and len(store) == SENTENCES - 2, "no LLM is loaded"
    expected = answers()[lambda table: table.reason.isna()].set_index("id")
    assert own.set_index("id").answer.to_dict() == expected.answer.to_dict() and np.allclose(own.min_logprob, -0.2)

    assert [of["share"] for of in figures["shares"]] == ARGS["shares"]
    assert all(of["clip"]["steps"] == 2 and of["unet"]["steps"] == 1 for of in figures["shares"])
    assert set(figures["shares"][0]["sets"]) == {"main", "hand_written", "reasoning"}
    page = format_page(figures)
    assert "| 2 % | " in page and "| 50 % | " in page and "## main (n = 6 × 1" in page and "2 steps, seed 2" in page

    again = commands()
    assert experiment.measure(read_study(*again), ARGS["shares"], 2) == figures and not again[0].commands and not again[1].commands
    longer = read_study(*again, train_steps=3)
    assert experiment.measure(longer, [0.5], 1)["settings"]["adapter"] == {"steps": 3, "seed": 0}
    assert again[0].names() == ["train", "generate", "generate", "evaluate"] and not again[1].commands


def judgements(right: dict[str, int]) -> pd.DataFrame:
    """right: arm -> right images of each category of 20."""
    rows = [
        {"set": name, "id": f"{name}-{category}-{i}", "category": f"{name}-{category}", "arm": arm, "seed": 0, "shown": float(i < count)}
        for name in ("main", "hand_written")
        for category in ("a", "b")
        for arm, count in right.items()
        for i in range(20)
        if name == "main" or arm != "complex_adapter"
    ]
    return pd.DataFrame(rows).reindex(columns=JUDGEMENTS.names)


@pytest.fixture
def figures() -> dict:
    """Figures with a gap of 0.5 for 2 % and none for 50 %."""
    shares = []
    for share, baseline in ((0.02, 8), (0.5, 18)):
        table = judgements({"baseline": baseline, "adapter": 17, "complex": 18, "complex_adapter": 18})
        sets = summarize_trainings([table])
        for name, block in sets.items():
            block["gap"] = experiment.gap(table[table["set"] == name])
        shares.append({"share": share, "clip": {}, "unet": {}, "sets": sets})
    steps = {"clip": {"steps": 1000, "seed": 2}, "unet": {"steps": 2000, "seed": 4}, "adapter": {"steps": 3000, "seed": 0}}
    return {"settings": steps | {"broad": 0.03, "default": 0.02, "prompts": "prompts/development"}, "shares": shares}


def test_the_page_and_the_chart_are_made_of_the_figures(figures, tmp_path):
    experiment.write_results(figures, tmp_path)
    written = json.loads((tmp_path / "plain_text_share.json").read_text(encoding="utf-8"))
    page, chart = ((tmp_path / f"plain_text_share.{suffix}").read_text(encoding="utf-8") for suffix in ("md", "svg"))
    assert page == format_page(written) and chart == format_chart(written)
    assert "1,000 steps, seed 2" in page and "2,000 steps, seed 4" in page and "3,000 steps, seed 0" in page
    lines = [line for line in page.splitlines() if line.startswith(("| 2 %", "| 50 %"))]
    assert len(lines) == 4 and page.count("(n = 40 × 1)") == 2
    assert "| +0.500 [" in lines[0] and "| 0.90 [" in lines[0] and "| no gap |" in lines[1]
    assert [line.endswith("| not drawn |") for line in lines] == [False, False, True, True], "of the main set only"
    assert chart.startswith("<svg xmlns") and chart.count("<circle") == 6 and ">50 %<" in chart


@pytest.mark.skipif(not (ROOT / "experiments/plain_text_share.json").exists(), reason="there are no figures yet")
def test_the_committed_page_and_chart_are_those_of_the_committed_figures():
    figures = json.loads((ROOT / "experiments/plain_text_share.json").read_text(encoding="utf-8"))
    for suffix, text in (("md", format_page(figures)), ("svg", format_chart(figures))):
        assert (ROOT / f"experiments/plain_text_share.{suffix}").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("path", [experiment.PAIRS, experiment.RAW, experiment.SENTENCES, experiment.ANSWERS])
def test_a_missing_part_of_the_finished_run_gives_one_sentence(project, path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=f"^{path} is missing: run `dvc repro` first; the shares start from its pairs"):
        experiment.main([])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shares", "0.98"], r"--shares has 0.98: give shares from 0 to 0.97"),
        (["--jobs", "0"], "--jobs is 0 and the steps are 1000, 2000, 3000: give at least 1"),
        (["--clip-steps", "0"], "the steps are 0, 2000, 3000: give at least 1"),
    ],
)
def test_bad_arguments_give_one_sentence(project, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        experiment.main(arguments)


def test_answers_to_other_sentences_are_refused():
    with pytest.raises(ValueError, match="answers.parquet has no answers to some sentences of data/sentences.parquet: run `dvc repro`"):
        experiment.with_answers(sentences(), answers()[1:])


def test_a_failed_share_is_named_and_the_others_go_on(project, capsys):
    started = []

    def fail(words: list[str], params: Path, log: Path) -> None:
        started.append(params.parent.name.rpartition("-")[0])
        if words[0] == "clip":
            raise CommandError("`miniature.pretrain clip` ended with 1")

    assert experiment.measure(read_study(fail, fail), ARGS["shares"], 1) is None
    assert started == ["scattered", "clip-0.02", "clip-0.5"]
    output = capsys.readouterr().out
    assert "2 % plain sentences: failed: `miniature.pretrain clip` ended with 1" in output and "50 % plain sentences: failed" in output


def test_the_commands_of_the_pretraining_run_as_processes_with_their_own_params(project, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Path("two.yaml").write_text("arranged: {count: 2, seed: 0, scattered: false, mix: {action: 1.0}}\n")
    Processes(1, "miniature.pretrain")(["world", "arranged", "drawn"], Path("two.yaml"), Path("log.txt"))
    assert np.load("drawn/images.npy").shape == (2, 64, 64, 3)
    with pytest.raises(CommandError, match="`miniature.pretrain clip` ended with 1"):
        Processes(1, "miniature.pretrain")(["clip", "clip", "drawn", "c.pt", "out"], Path("two.yaml"), Path("log.txt"))

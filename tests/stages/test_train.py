"""The stage: one process or many, killed or not, and what it does not load."""

import json
import os
import signal
import subprocess
import sys
import time
from inspect import signature
from pathlib import Path

import pytest
import torch
from helpers.small_models import digest
from helpers.training_setup import cached
from ruamel.yaml import YAML
from safetensors.torch import load_file

from stages.train import options_of_training, train
from sur_adapter.io.work_cache import work_dir
from sur_adapter.training.optim import optimizers_of
from sur_adapter.training.trainer import fit
from sur_adapter.training.training_step import Training

ROOT = Path(__file__).parents[2]
ALL = {"w_diffusion": 1.0, "w_prompt": 1.0, "w_llm": 0.1}
WORDS = {"w_diffusion": 0.0, "w_prompt": 1.0, "w_llm": 0.1}
HOW = {"steps": 6, "batch": 8, "lr": 0.001, "every": 3, "device": "cpu"}


def params(loss: dict, how: dict) -> dict:
    models = {"diffusion": "models/miniature/stable-diffusion", "llm": "none", "resolution": 64}
    return {"models": models, "adapter": {"heads": 4}, "loss": loss, "train": HOW | how}


def run(folder: Path, paths: list[Path], loss: dict, **how) -> subprocess.Popen:
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(params(loss, how), file)
    environment = os.environ | {"SUR_PARAMS": str(folder / "params.yaml"), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    words = [sys.executable, "-m", "stages", "train", *map(str, paths)]
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trained(folder: Path, loss: dict, **how) -> Path:
    paths = cached(folder)
    train(*paths, **params(loss, how))
    return paths[4]


def test_two_processes_give_the_adapter_that_one_gives(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    alone = trained(tmp_path / "alone", ALL, every=1)
    paths = cached(tmp_path / "two")
    done = run(tmp_path / "two", paths, ALL, every=1, processes=2)
    said = done.communicate()[0]
    assert done.returncode == 0, said
    assert said.count("48 pairs") == 1, "only the first process speaks"
    first, second = (json.loads((folder / "log/history.json").read_text()) for folder in (alone.parent, tmp_path / "two"))
    for one, two in zip(first, second, strict=True):
        assert two == pytest.approx(one, rel=1e-3)
    untrained = trained(tmp_path / "none", ALL, lr=1e-12)
    one, two, none = (torch.cat([p.flatten() for p in load_file(f / "model.safetensors").values()]) for f in (alone, paths[4], untrained))
    assert (one - two).norm() < 0.05 * (one - none).norm(), "Muon's own products are bf16"


def test_a_stage_killed_again_and_again_ends_in_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("SUR_WORK", str(tmp_path / "work"))
    how = {"steps": 150, "checkpoint": 10, "every": 40}
    paths = cached(tmp_path)
    peace = run(tmp_path, paths, WORDS, **how)
    assert peace.wait() == 0, peace.stdout.read()
    wanted = digest(paths[4]) | digest(paths[5])
    for file in (*paths[4].iterdir(), *paths[5].iterdir()):
        file.unlink()
    known = []
    for _ in range(2):
        killed = run(tmp_path, paths, WORDS, **how)
        while (states := [(f.stat().st_ino, f.stat().st_mtime_ns) for f in work_dir().glob("train-*/state.pt")]) in ([], known):
            assert killed.poll() is None, killed.stdout.read()
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        known = states
        assert not list(paths[4].iterdir()) and list(work_dir().glob("train-*/state.pt"))
    resumed = run(tmp_path, paths, WORDS, **how)
    assert resumed.wait() == 0, resumed.stdout.read()
    assert digest(paths[4]) | digest(paths[5]) == wanted
    assert not list(work_dir().glob("train-*/state.pt"))


def test_work_of_other_settings_or_other_features_is_not_taken_up(tmp_path, monkeypatch):
    monkeypatch.setenv("SUR_WORK", str(tmp_path / "work"))
    monkeypatch.chdir(ROOT)
    paths = cached(tmp_path)

    def started(loss=WORDS, **how) -> str:
        (tmp_path / "adapter").mkdir(exist_ok=True)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("sur_adapter.adapter.adapter.SURAdapter.save_pretrained", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            train(*paths, **params(loss, {"checkpoint": 2} | how))
        return str(sorted(f.name for f in work_dir().iterdir() if f.is_dir()))

    first = started()
    assert started() == first
    other = started(lr=0.002)
    assert other != first
    paths[:4] = cached(tmp_path / "more", train=40)[:4]
    assert started() not in (first, other)


def test_nothing_frozen_is_run_in_a_step_but_the_unet_and_without_its_weight_not_even_that(tmp_path):
    code = """
import sys
from pathlib import Path
from test_train import cached, params, train
from sur_adapter.training.objective import Objective
import torch
ran = set()
torch.nn.modules.module.register_module_forward_hook(lambda module, *_: ran.add(type(module).__name__))
train(*cached(Path(sys.argv[1])), **params({"w_diffusion": float(sys.argv[2]), "w_prompt": 1.0, "w_llm": 0.1}, {}))
frozen = {"AutoencoderKL", "CLIPTextModel", "LlamaModel", "UNet2DConditionModel"}
print("ran", sorted(ran & frozen), "unet" if "diffusers.models.unets.unet_2d_condition" in sys.modules else "no unet")
"""
    said = {}
    for weight in ("0", "1"):
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        words = [sys.executable, "-c", code, str(tmp_path / weight), weight]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        said[weight] = done.stdout.strip().splitlines()[-1]
    assert said["1"].startswith("ran ['UNet2DConditionModel']") and said["0"].startswith("ran []")


def test_the_projection_of_the_teacher_is_seeded_trained_and_saved_and_is_not_there_without_its_term(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    first, again, other = (
        load_file(trained(tmp_path / name, WORDS, seed=seed) / "model.safetensors")["projection.weight"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    untrained = load_file(trained(tmp_path / "d", WORDS, lr=1e-12) / "model.safetensors")["projection.weight"]
    assert (first - untrained).abs().max() > 1e-4
    without = load_file(trained(tmp_path / "e", WORDS | {"w_llm": 0.0}) / "model.safetensors")
    assert not any(name.startswith("projection") for name in without), "a parameter that nothing trains would be dead"


def test_the_choices_go_together(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    loss = {"target": "complex", "t_min": 400, "snr_gamma": 5.0, "offset_noise": 0.1, "drop_condition": 0.3}
    more = {"prompt": "kl", "kl": "student_teacher", "temperature": 2.0, "tokens": "sum"}
    how = {"precision": "bf16", "ema": 0.9, "keep": "best", "patience": 2, "accumulation": 2, "schedule": "linear", "warmup": 0.3}
    unet = {"gradient_checkpointing": True, "channels_last": True}
    plain, chosen = (trained(tmp_path / name, ALL | a, **b) for name, a, b in (("a", {}, {}), ("b", loss | more, how | unet)))
    rows = json.loads((chosen.parent / "log/history.json").read_text())
    assert [row["step"] for row in rows] == [3, 6] and {"diffusion", "prompt", "llm", "validation_loss"} < rows[0].keys()
    assert json.loads((chosen / "config.json").read_text())["about"]["loss"] == ALL | loss | more
    assert digest(plain).keys() == digest(chosen).keys() and digest(plain) != digest(chosen)


@pytest.mark.parametrize("projection", ["trained", "frozen"])
def test_the_teachers_projection_stays_as_it_was_drawn_where_it_is_frozen(projection, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    once, more = (load_file(trained(tmp_path / str(n), WORDS | {"projection": projection}, steps=n) / "model.safetensors") for n in (1, 6))
    moved = {name for name in once if not torch.equal(once[name], more[name])}
    assert ("projection.weight" in moved, "projection.bias" in moved) == ((projection == "trained",) * 2)
    assert len(moved) > 10


def test_what_stands_for_an_option_that_is_not_given_is_told_alike_everywhere():
    told = {}
    for function in (options_of_training, fit, Training.__init__, optimizers_of):
        for p in signature(function).parameters.values():
            if p.default is not p.empty and p.name not in ("device", "work", "tell"):
                told.setdefault(p.name, set()).add(str(p.default))
    assert {name for name, defaults in told.items() if len(defaults) > 1} == set()
    assert {"accumulation", "checkpoint", "clip", "ema", "weight_decay", "warmup"} <= told.keys()


def test_the_empty_prompt_is_the_text_encoders_own(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    from diffusers import StableDiffusionPipeline

    from sur_adapter.models.stable_diffusion import encode_empty_prompt

    model = "models/miniature/stable-diffusion"
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    assert torch.allclose(encode_empty_prompt(model)[None], pipe.encode_prompt("", "cpu", 1, False)[0], atol=1e-5)


def test_dvclive_tells_what_the_history_tells_and_the_same_bytes_each_time(tmp_path, monkeypatch):
    pytest.importorskip("dvclive")
    monkeypatch.chdir(ROOT)
    logs = [trained(tmp_path / name, WORDS, live=True).parent / "log" for name in ("a", "b")]
    assert digest(logs[0]) == digest(logs[1])
    last = json.loads((logs[0] / "history.json").read_text())[-1]
    assert json.loads((logs[0] / "live/metrics.json").read_text()) == pytest.approx(last)
    assert len((logs[0] / "live/plots/metrics/loss.tsv").read_text().splitlines()) == 1 + 2


@pytest.mark.parametrize(
    "loss, how, sentence",
    [
        ({"kl": "reverse"}, {}, "loss.kl is 'reverse': choose teacher_student or student_teacher"),
        ({"target": "complx"}, {}, r"loss.target is 'complx' \(did you mean 'complex'\?\): choose noise or complex"),
        ({"snr_gama": 5}, {}, r"loss.snr_gama is unknown \(did you mean 'snr_gamma'\?\)"),
        ({}, {"optimizer": "sgd"}, "train.optimizer is 'sgd': choose muon or adamw"),
        ({}, {"schedule": "cosin"}, r"train.schedule is 'cosin' \(did you mean 'cosine'\?\)"),
        ({}, {"keep": "first"}, "train.keep is 'first': choose last or best"),
        ({"mask": True, "prompt": "kl"}, {}, "loss.mask asks for the lengths"),
        ({"w_diffusion": 1.0, "zero_snr": True}, {}, "loss.zero_snr asks for a U-Net that predicts the velocity"),
        ({"w_diffusion": 1.0, "t_max": 2000}, {}, "loss.t_max 2000: choose 0 <= t_min < t_max <= 1000"),
    ],
)
def test_a_choice_that_is_none_is_refused_in_a_sentence(loss, how, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=sentence):
        trained(tmp_path, WORDS | loss, **how)


def test_the_best_is_not_looked_for_where_there_is_nothing_to_look_at(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    paths = cached(tmp_path, validation=0)
    with pytest.raises(ValueError, match="go by the validation split, which holds no pair"):
        train(*paths, **params(WORDS, {"keep": "best"}))

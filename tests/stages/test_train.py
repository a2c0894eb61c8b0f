"""The stage train: one process or several, killed or not, its settings, and what it does not load."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.repository import ROOT
from helpers.small_models import digest
from helpers.stages import train
from helpers.training_setup import ALL, TEXT_ONLY, cached, stage_command, stage_params
from ruamel.yaml import YAML
from safetensors.torch import load_file

from sur_adapter.io.work_cache import work_dir


def run(folder: Path, paths: list[Path], loss: dict, **config) -> subprocess.Popen:
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(stage_params(loss, config), file)
    environment = os.environ | {"SUR_PARAMS": str(folder / "params.yaml"), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    return subprocess.Popen(stage_command(paths), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trained(folder: Path, loss: dict, **config) -> Path:
    paths = cached(folder)
    train(*paths, **stage_params(loss, config))
    return paths[4]


def test_two_processes_train_the_adapter_that_one_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    alone = trained(tmp_path / "alone", ALL, eval_steps=1)
    paths = cached(tmp_path / "two")
    done = run(tmp_path / "two", paths, ALL, eval_steps=1, processes=2)
    output = done.communicate()[0]
    assert done.returncode == 0, output
    assert output.count("48 pairs") == 1, "only the first process prints"
    first, second = (json.loads((folder / "log/history.json").read_text()) for folder in (alone.parent, tmp_path / "two"))
    for one, two in zip(first, second, strict=True):
        assert two == pytest.approx(one, rel=1e-3)
    untrained = trained(tmp_path / "none", ALL, lr=1e-12)
    one, two, none = (torch.cat([p.flatten() for p in load_file(f / "model.safetensors").values()]) for f in (alone, paths[4], untrained))
    assert (one - two).norm() < 0.05 * (one - none).norm(), "Muon multiplies in bf16, so the sums differ"


def test_a_stage_killed_twice_ends_in_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("SUR_WORK", str(tmp_path / "work"))
    config = {"steps": 150, "checkpointing_steps": 10, "eval_steps": 40}
    paths = cached(tmp_path)
    uninterrupted = run(tmp_path, paths, TEXT_ONLY, **config)
    assert uninterrupted.wait() == 0, uninterrupted.stdout.read()
    expected = digest(paths[4]) | digest(paths[5])
    for file in (*paths[4].iterdir(), *paths[5].iterdir()):
        file.unlink()
    known = []
    for _ in range(2):
        killed = run(tmp_path, paths, TEXT_ONLY, **config)
        while (states := [(f.stat().st_ino, f.stat().st_mtime_ns) for f in work_dir().glob("train-*/state.pt")]) in ([], known):
            assert killed.poll() is None, killed.stdout.read()
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        known = states
        assert not list(paths[4].iterdir()) and list(work_dir().glob("train-*/state.pt"))
    resumed = run(tmp_path, paths, TEXT_ONLY, **config)
    assert resumed.wait() == 0, resumed.stdout.read()
    assert digest(paths[4]) | digest(paths[5]) == expected
    assert not list(work_dir().glob("train-*/state.pt"))


def test_a_checkpoint_of_other_settings_or_other_features_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("SUR_WORK", str(tmp_path / "work"))
    monkeypatch.chdir(ROOT)
    paths = cached(tmp_path)

    def started(loss=TEXT_ONLY, **config) -> str:
        (tmp_path / "adapter").mkdir(exist_ok=True)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("sur_adapter.adapter.adapter.SURAdapter.save_pretrained", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            train(*paths, **stage_params(loss, {"checkpointing_steps": 2} | config))
        return str(sorted(f.name for f in work_dir().iterdir() if f.is_dir()))

    first = started()
    assert started() == first
    other = started(lr=0.002)
    assert other != first
    paths[:4] = cached(tmp_path / "more", train=40)[:4]
    assert started() not in (first, other)


def test_a_step_runs_no_frozen_model_except_the_unet_and_that_only_for_the_diffusion_loss(tmp_path):
    code = """
import sys
from pathlib import Path
import torch
from helpers.stages import train
from helpers.training_setup import cached, stage_params
ran = set()
torch.nn.modules.module.register_module_forward_hook(lambda module, *_: ran.add(type(module).__name__))
train(*cached(Path(sys.argv[1])), **stage_params({"w_diffusion": float(sys.argv[2]), "w_prompt": 1.0, "w_llm": 0.1, "llm": "kl"}, {}))
frozen = {"AutoencoderKL", "CLIPTextModel", "LlamaModel", "UNet2DConditionModel"}
print("ran", sorted(ran & frozen), "unet" if "diffusers.models.unets.unet_2d_condition" in sys.modules else "no unet")
"""
    output = {}
    for weight in ("0", "1"):
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        command = [sys.executable, "-c", code, str(tmp_path / weight), weight]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        output[weight] = done.stdout.strip().splitlines()[-1]
    assert output["1"].startswith("ran ['UNet2DConditionModel']") and output["0"].startswith("ran []")


def test_the_projection_is_seeded_trained_and_saved_and_absent_without_the_llm_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    first, again, other = (
        load_file(trained(tmp_path / name, TEXT_ONLY, seed=seed) / "model.safetensors")["projection.weight"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    untrained = load_file(trained(tmp_path / "d", TEXT_ONLY, lr=1e-12) / "model.safetensors")["projection.weight"]
    assert (first - untrained).abs().max() > 1e-4
    without = load_file(trained(tmp_path / "e", TEXT_ONLY | {"w_llm": 0.0}) / "model.safetensors")
    assert not any(name.startswith("projection") for name in without), "no loss would train it"


def test_the_settings_can_be_combined(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    loss = {"target": "complex", "t_min": 400, "snr_gamma": 5.0, "noise_offset": 0.1, "empty_prompt_prob": 0.3}
    more = {"prompt": "kl", "kl_direction": "student_teacher", "temperature": 2.0, "token_reduction": "sum"}
    config = {"precision": "bf16", "ema_decay": 0.9, "save_best": True, "patience": 2, "gradient_accumulation_steps": 2}
    config |= {"lr_scheduler": "linear", "warmup_ratio": 0.3}
    unet = {"gradient_checkpointing": True, "channels_last": True}
    plain, chosen = (trained(tmp_path / name, ALL | a, **b) for name, a, b in (("a", {}, {}), ("b", loss | more, config | unet)))
    rows = json.loads((chosen.parent / "log/history.json").read_text())
    assert [row["step"] for row in rows] == [3, 6] and {"diffusion", "prompt", "llm", "validation_loss"} < rows[0].keys()
    recorded = json.loads((chosen / "config.json").read_text())["about"]["loss"]
    assert recorded.items() >= (ALL | loss | more).items()
    assert digest(plain).keys() == digest(chosen).keys() and digest(plain) != digest(chosen)


@pytest.mark.parametrize("projection", ["trained", "frozen"])
def test_a_frozen_projection_keeps_its_initial_weights(projection, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    once, more = (
        load_file(trained(tmp_path / str(n), TEXT_ONLY | {"projection": projection}, steps=n) / "model.safetensors") for n in (1, 6)
    )
    moved = {name for name in once if not torch.equal(once[name], more[name])}
    assert ("projection.weight" in moved, "projection.bias" in moved) == ((projection == "trained",) * 2)
    assert len(moved) > 10


def test_the_empty_prompt_is_encoded_as_the_pipeline_encodes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    from diffusers import StableDiffusionPipeline

    from sur_adapter.models.stable_diffusion import encode_empty_prompt

    model = "models/miniature/stable-diffusion"
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    assert torch.allclose(encode_empty_prompt(model)[None], pipe.encode_prompt("", "cpu", 1, False)[0], atol=1e-5)


def test_dvclive_gets_the_history_and_writes_the_same_bytes_each_time(tmp_path, monkeypatch):
    pytest.importorskip("dvclive")
    monkeypatch.chdir(ROOT)
    logs = [trained(tmp_path / name, TEXT_ONLY, report_to="dvclive").parent / "log" for name in ("a", "b")]
    assert digest(logs[0]) == digest(logs[1])
    last = json.loads((logs[0] / "history.json").read_text())[-1]
    assert json.loads((logs[0] / "dvclive/metrics.json").read_text()) == pytest.approx(last)
    assert len((logs[0] / "dvclive/plots/metrics/loss.tsv").read_text().splitlines()) == 1 + 2


def test_tensorboard_gets_the_history(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(ROOT)
    log = trained(tmp_path, TEXT_ONLY, report_to="tensorboard").parent / "log"
    events = accumulator.EventAccumulator(str(log / "sur-adapter"))
    events.Reload()
    history = json.loads((log / "history.json").read_text())
    assert [event.step for event in events.Scalars("loss")] == [row["step"] for row in history] == [3, 6]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([row["loss"] for row in history])


def test_a_tracker_that_is_not_installed_is_reported_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sur_adapter.training.setup.get_available_trackers", list)
    with pytest.raises(ValueError, match="train.report_to is 'wandb', which is not installed: `pip install wandb`, or set it to null"):
        trained(tmp_path, TEXT_ONLY, report_to="wandb")


@pytest.mark.parametrize(
    "loss, config, sentence",
    [
        ({"kl_direction": "reverse"}, {}, "loss.kl_direction is 'reverse': choose teacher_student or student_teacher"),
        ({"target": "complx"}, {}, r"loss.target is 'complx' \(did you mean 'complex'\?\): choose noise or complex"),
        ({"snr_gama": 5}, {}, r"loss.snr_gama is unknown \(did you mean 'snr_gamma'\?\)"),
        ({}, {"optimizer": "sgd"}, "train.optimizer is 'sgd': choose muon or adamw"),
        ({}, {"lr_scheduler": "cosin"}, r"train.lr_scheduler is 'cosin' \(did you mean 'cosine'\?\)"),
        ({}, {"save_best": "last"}, "train.save_best is 'last': give true or false"),
        ({}, {"steps": "many"}, "train.steps is 'many': give a whole number"),
        ({}, {"steps": 0}, "train.steps is 0: give at least 1"),
        ({}, {"lr": -1.0}, "train.lr is -1.0: give a number above 0"),
        ({}, {"betas": [0.9]}, "train.betas is .0.9.: give a list of 2"),
        ({}, {"batch": 8}, r"train.batch is unknown \(did you mean 'batch_size'\?\)"),
        ({}, {"launch": ["torchrun"]}, "train.launch is .'torchrun'.: give a text or null"),
        ({"empty_prompt_prob": 3.0}, {}, "loss.empty_prompt_prob is 3.0: give a probability, 0 to 1"),
        ({"w_prompt": 0.0, "w_llm": 0.0}, {}, "loss.w_diffusion, w_prompt and w_llm are all 0: give at least one of them a weight"),
        ({"mask_padding": True, "prompt": "kl"}, {}, "loss.mask_padding needs the lengths"),
        ({"w_diffusion": 1.0, "rescale_betas_zero_snr": True}, {}, "loss.rescale_betas_zero_snr needs a U-Net that predicts velocity"),
        ({"w_diffusion": 1.0, "t_max": 2000}, {}, "loss.t_max 2000: choose 0 <= t_min < t_max <= 1000"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(loss, config, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=sentence):
        trained(tmp_path, TEXT_ONLY | loss, **config)


def test_save_best_needs_a_validation_split(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    paths = cached(tmp_path, validation=0)
    with pytest.raises(ValueError, match="need the validation split, which holds no pair"):
        train(*paths, **stage_params(TEXT_ONLY, {"save_best": True}))

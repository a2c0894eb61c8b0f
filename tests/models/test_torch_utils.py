"""The dtype of matrix products on a device, and an optimizer without bf16."""

import re

import pytest
import torch
from helpers.repository import ROOT
from torch import nn

from miniature.pretrain import loop
from sur_adapter.features.latents import load_vae
from sur_adapter.models import torch_utils
from sur_adapter.models.captioner import CaptionConfig, Captioner
from sur_adapter.models.clip import CLIPEncoder
from sur_adapter.models.llm import LanguageModel, LLMConfig
from sur_adapter.models.rewriter import Rewriter, RewriterConfig
from sur_adapter.training.optim import Fp32Muon, build_optimizers


def product_dtype(precision: str) -> torch.dtype:
    with torch_utils.autocast("cpu", precision):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.mark.parametrize("supported, dtype", [(True, torch.bfloat16), (False, torch.float32)])
def test_bf16_products_are_fp32_on_a_cpu_that_would_emulate_them(supported, dtype, monkeypatch):
    monkeypatch.setattr(torch_utils, "has_bf16", lambda device: supported)
    assert product_dtype("bf16") is dtype is torch_utils.compute_dtype("cpu", "bf16")
    assert product_dtype("fp32") is torch.float32


@pytest.mark.parametrize(
    "names, expected",
    [
        (["architecture", "avx2", "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl"], False),
        (["avx512_f", "avx512_bf16"], True),
        (["amx_bf16"], True),
        (["neon", "bf16"], True),
        (["neon"], False),
    ],
)
def test_avx512_alone_is_no_bf16(names, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))
    assert torch_utils.has_bf16("cpu") is loop.has_bf16() is expected, "the miniature imports nothing of sur_adapter"


MODELS = ROOT / "models/miniature"
LOADERS = {  # of frozen models, in bf16
    "captioner": lambda: Captioner(CaptionConfig(str(MODELS / "blip"), precision="bf16"), "cpu").model,
    "CLIP": lambda: CLIPEncoder(str(MODELS / "clip"), "scores.clip.model", "bf16").model,
    "LLM": lambda: LanguageModel(str(MODELS / "llama"), LLMConfig(layers=(1,), precision="bf16")).model,
    "rewriter": lambda: Rewriter(RewriterConfig(precision="bf16"), str(MODELS / "llama")).model,
    "VAE": lambda: load_vae(str(MODELS / "stable-diffusion"), "bf16"),
}


@pytest.mark.parametrize("supported, dtype", [(True, torch.bfloat16), (False, torch.float32)])
@pytest.mark.parametrize("name", LOADERS)
def test_a_frozen_model_is_fp32_on_a_cpu_that_would_emulate_bf16(name, supported, dtype, monkeypatch):
    monkeypatch.setattr(torch_utils, "has_bf16", lambda device: supported)
    assert LOADERS[name]().dtype is dtype


def test_no_other_module_takes_the_dtype_of_a_precision_without_asking_the_device():
    files = [file for folder in ("sur_adapter", "stages") for file in (ROOT / folder).rglob("*.py")]
    callers = {file.name for file in files if re.search(r"\btorch_dtype\(", file.read_text(encoding="utf-8"))}
    assert callers == {"torch_utils.py"}


def test_every_gpu_keeps_the_precision_of_the_params():
    assert torch_utils.compute_dtype("cuda", "bf16") is torch.bfloat16
    assert torch_utils.compute_dtype("cuda", "fp16") is torch.float16


def test_muon_in_fp32_makes_the_updates_of_torchs_muon_up_to_bf16_and_goes_on_from_its_state():
    torch.manual_seed(0)
    start, gradients = [torch.randn(32, 64), torch.randn(48, 16)], [[torch.randn(32, 64), torch.randn(48, 16)] for _ in range(4)]
    ends = {}
    for first, second in ((torch.optim.Muon, torch.optim.Muon), (Fp32Muon, Fp32Muon), (torch.optim.Muon, Fp32Muon)):
        parameters = [nn.Parameter(matrix.clone()) for matrix in start]
        settings = {"lr": 0.1, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
        optimizer = first(parameters, **settings)
        for step, each in enumerate(gradients):
            if step == 2:
                state = optimizer.state_dict()
                optimizer = second(parameters, **settings)
                optimizer.load_state_dict(state)
            for parameter, gradient in zip(parameters, each, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
        ends[first, second] = [p.detach() for p in parameters]
    torchs, *ours = ends.values()
    for theirs, *own, before in zip(torchs, *ours, start, strict=True):
        for end in own:
            assert (end - theirs).norm() < 0.02 * (theirs - before).norm()
    assert not torch.equal(torchs[0], ours[0][0]), "one of the two computes in bf16"


@pytest.mark.parametrize("supported, expected", [(True, torch.optim.Muon), (False, Fp32Muon)])
def test_muon_is_torchs_where_the_device_has_bf16(supported, expected, monkeypatch):
    monkeypatch.setattr("sur_adapter.training.optim.has_bf16", lambda device: supported)
    assert type(build_optimizers(nn.Linear(4, 4), 1e-3)[0]) is expected

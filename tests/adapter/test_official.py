"""The published network: its forward pass, its checkpoints, and conversion both ways."""

import pickle
import subprocess
import sys
from math import prod, sqrt

import numpy as np
import pytest
import torch
from helpers.repository import ROOT
from helpers.small_models import digest
from safetensors.torch import load_file, save_file
from torch import Tensor

from sur_adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.adapter.conversion import checkpoint_shapes, read_checkpoint, write_checkpoint
from sur_adapter.cli.main import main
from sur_adapter.features.store import write_features
from sur_adapter.io.code_version import code_version

D = 32  # a small width; heads, depth and feed-forward are the published ones
X = torch.randn(1, 11, D, generator=torch.Generator().manual_seed(1))


def shapes(d: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the 48 tensors in a published checkpoint."""
    layer = {
        "self_attn.in_proj_weight": (3 * d, d),
        "self_attn.in_proj_bias": (3 * d,),
        "self_attn.out_proj.weight": (d, d),
        "self_attn.out_proj.bias": (d,),
        "linear1.weight": (2048, d),
        "linear1.bias": (2048,),
        "linear2.weight": (d, 2048),
        "linear2.bias": (d,),
    } | {f"norm{i}.{part}": (d,) for i in (1, 2) for part in ("weight", "bias")}
    stacks = ("encoder_layer", "transformer_encoder.layers.0", "transformer_encoder.layers.1")
    linears = [f"attention.{name}" for name in ("query_layer", "key_layer", "value_layer", "output_layer.0", "output_layer.2")] + ["fc"]
    return {f"{stack}.{name}": shape for stack in stacks for name, shape in layer.items()} | {
        f"{name}.{part}": shape for name in linears for part, shape in (("weight", (d, d)), ("bias", (d,)))
    }


def weights(d: int = D, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) / sqrt(shape[-1]) for name, shape in shapes(d).items()}


def forward(w: dict[str, Tensor], x: Tensor, eta: float, over: str) -> Tensor:
    """The published forward pass, written out. over: the axis of x (B, L, d) that the encoder attends over."""

    def linear(name, y):
        return y @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, y):
        spread = (y - y.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
        return (y - y.mean(-1, keepdim=True)) / (spread + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def heads(name, y):  # y (S, N, d): S is attended over
        mixed = y @ w[f"{name}.in_proj_weight"].T + w[f"{name}.in_proj_bias"]
        q, k, v = (part.unflatten(-1, (8, -1)) for part in mixed.chunk(3, -1))  # (S, N, 8, e)
        share = (torch.einsum("snhe,tnhe->nhst", q, k) / sqrt(q.shape[-1])).softmax(-1)
        return linear(f"{name}.out_proj", torch.einsum("nhst,tnhe->snhe", share, v).flatten(-2))

    h = x if over == "prompts" else x.transpose(0, 1)
    for layer in ("transformer_encoder.layers.0", "transformer_encoder.layers.1"):
        h = norm(f"{layer}.norm1", h + heads(f"{layer}.self_attn", h))
        h = norm(f"{layer}.norm2", h + linear(f"{layer}.linear2", linear(f"{layer}.linear1", h).relu()))
    h = h if over == "prompts" else h.transpose(0, 1)
    scores = linear("attention.query_layer", h) @ linear("attention.key_layer", x).transpose(-1, -2) / sqrt(x.shape[-1])
    u = scores.softmax(-1) @ x + x
    r = u + linear("attention.output_layer.2", linear("attention.output_layer.0", u).relu())
    return eta * linear("fc", r) + (1 - eta) * x


@pytest.fixture
def official_pt(tmp_path):
    made = tmp_path / "adapter_checkpoint5000.pt"
    torch.save(weights(), made)
    return made


@pytest.mark.parametrize(("d", "elements"), [(768, 20_085_504), (1024, 31_497_216)])
def test_a_checkpoint_has_48_tensors_and_as_many_elements_as_the_published_ones(d, elements):
    expected = {name: tuple(shape) for name, shape in checkpoint_shapes(d).items()}
    assert expected == shapes(d) and len(expected) == 48 and sum(map(prod, expected.values())) == elements


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_one_prompt_is_adapted_as_the_published_code_adapts_it(tmp_path, kind):
    file = tmp_path / f"adapter.{kind}"
    (torch.save if kind == "pt" else save_file)(weights(), file)
    adapter = read_checkpoint(file)
    assert torch.allclose(adapter(X), forward(weights(), X, 0.1, "prompts"), atol=1e-5)
    assert torch.allclose(adapter(X, 0.7), forward(weights(), X, 0.7, "prompts"), atol=1e-5)
    assert not adapter.training and adapter.config.strength == 0.1


def test_in_a_batch_every_prompt_is_adapted_as_the_published_code_adapts_it_alone(official_pt):
    batch = torch.cat([X, 2 * X.flip(1), -X])
    alone = torch.cat([forward(weights(), x[None], 0.1, "prompts") for x in batch])
    assert torch.allclose(read_checkpoint(official_pt)(batch), alone, atol=1e-5)
    assert not torch.allclose(forward(weights(), batch, 0.1, "prompts"), alone, atol=1e-3)  # it attends over prompts


def test_with_token_attention_the_encoder_attends_over_the_tokens(official_pt):
    batch = torch.cat([X, 2 * X.flip(1)])
    adapted = read_checkpoint(official_pt, published_attention=False)(batch)
    assert torch.allclose(adapted, forward(weights(), batch, 0.1, "tokens"), atol=1e-5)
    assert not torch.allclose(adapted, read_checkpoint(official_pt)(batch), atol=1e-3)


def test_dropout_is_on_in_training_mode_and_off_in_evaluation_mode(official_pt):
    adapter = read_checkpoint(official_pt)
    assert torch.equal(adapter(X), adapter(X)) and not torch.equal(adapter.train()(X), adapter(X))


def test_a_new_official_adapter_attends_over_tokens_and_has_no_unused_parameters():
    torch.manual_seed(0)
    adapter = SURAdapter(AdapterConfig(768, variant="official"))
    assert not adapter.config.published_attention
    assert sum(p.numel() for p in adapter.parameters()) == 20_085_504 - 5_513_984 - 768 * 769  # the template, value_layer


def test_a_checkpoint_in_half_precision_keeps_its_values(tmp_path):
    torch.save({k: v.half() for k, v in weights().items()}, tmp_path / "half.pt")
    assert torch.equal(read_checkpoint(tmp_path / "half.pt").block.fc.weight, weights()["fc.weight"].half().float())


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_converting_there_and_back_loses_nothing_and_unused_tensors_become_zeros(official_pt, tmp_path, kind):
    out = tmp_path / f"out.{kind}"
    convert(official_pt, tmp_path / "adapter", "--base-model", "a/model")
    convert(tmp_path / "adapter", out)
    back = torch.load(out, weights_only=True) if kind == "pt" else load_file(out)
    assert {name: tuple(t.shape) for name, t in back.items()} == shapes(D) and {t.dtype for t in back.values()} == {torch.float32}
    for name, tensor in weights().items():
        unused = name.startswith(("encoder_layer", "attention.value_layer"))
        assert torch.equal(back[name], torch.zeros_like(tensor) if unused else tensor), name
    convert(out, tmp_path / "again")
    assert digest(tmp_path / "again")["model.safetensors"] == digest(tmp_path / "adapter")["model.safetensors"]


def test_the_folder_records_its_origin_and_the_options(official_pt, tmp_path):
    mark = "0123456789abcdef." * 2 + "fedcba9876543210"
    output = convert(official_pt, tmp_path / "adapter", "--base-model", "a/model", "--text-encoder-hash", mark, "--strength", "0.3")
    adapter = SURAdapter.from_pretrained(tmp_path / "adapter")
    assert adapter.config.published_attention and adapter.config.strength == 0.3 and "features 32, scale 0.3" in output
    assert adapter.config.about.items() >= {"base_model": "a/model", "text_encoder": mark}.items()
    assert len(adapter.config.about["checkpoint"]) == 16
    convert(official_pt, tmp_path / "tokens", "--token-attention")
    assert not SURAdapter.from_pretrained(tmp_path / "tokens").config.published_attention
    assert "the published code differs" in convert(tmp_path / "tokens", tmp_path / "tokens.pt")


def convert(*args) -> str:
    """Runs the command `convert` and returns its output."""
    return main(["convert", *map(str, args)])


class Payload:
    """Creates a file when it is unpickled."""

    def __reduce__(self):
        return (open, ("payload", "w"))


CORRUPT = {
    "an object": (weights() | {"fc.bias": Payload()}, "cannot be read as a file of tensors only"),
    "a list": ([1, 2], "holds a list without tensors"),
    "nothing": ({}, "holds a dict without tensors"),
    "a number": (weights() | {"fc.bias": 3}, "'fc.bias' is of type int, not a tensor"),
    "wrapped": ({"state_dict": weights()}, "'state_dict' is of type dict, not a tensor"),
    "whole numbers": (weights() | {"fc.bias": torch.arange(D)}, "'fc.bias' is a tensor of torch.int64 without plain values"),
    "meta": (weights() | {"fc.bias": torch.empty(D, device="meta")}, "'fc.bias' is a tensor of torch.float32 without plain values"),
    "no fc": ({k: v for k, v in weights().items() if "fc" not in k}, "no square `fc.weight`"),
    "odd width": (weights(12), "no square `fc.weight` whose width is divisible by 8"),
    "missing": ({k: v for k, v in weights().items() if "norm1" not in k}, "lacks 4 tensors, e.g. 'transformer_encoder.layers.0.norm1"),
    "unknown": (weights() | {"lora.weight": torch.ones(2)}, "has unknown 1 tensors, e.g. 'lora.weight'"),
    "shape": (weights() | {"attention.key_layer.weight": torch.ones(D, D + 1)}, r"'attention.key_layer.weight' is \[32, 33\], but must be"),
    "not finite": (weights() | {"fc.bias": torch.full((D,), torch.nan)}, "'fc.bias' holds values that are not finite"),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_anything_else_in_a_checkpoint_is_refused_in_one_sentence_and_no_code_is_run(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    content, message = CORRUPT[case]
    torch.save(content, "corrupt.pt")
    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint("corrupt.pt")
    assert "\n" not in str(error.value) and not (tmp_path / "payload").exists()


@pytest.mark.parametrize("kind", ["zip", "old", "bare"])
def test_a_hostile_pickle_runs_no_code_in_any_format(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    with open("planted.pt", "wb") as file:
        planted = weights() | {"fc.bias": Payload()}
        pickle.dump(planted, file, 2) if kind == "bare" else torch.save(planted, file, _use_new_zipfile_serialization=kind == "zip")
    before = digest(tmp_path)
    with pytest.raises(ValueError, match="planted.pt cannot be read as a file of tensors only .*: download it again"):
        convert("planted.pt", "out")
    assert digest(tmp_path) == before
    if kind == "bare":
        pickle.loads((tmp_path / "planted.pt").read_bytes())["fc.bias"].close()
        assert (tmp_path / "payload").exists()  # the payload works when it is unpickled


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("kept", [0, 7, 5000])
def test_a_truncated_checkpoint_is_refused(tmp_path, kind, kept):
    file = tmp_path / f"cut.{kind}"
    (torch.save if kind == "pt" else save_file)(weights(), file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match="cut.* cannot be read as a file of tensors only .*: download it again") as error:
        read_checkpoint(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"variant": "sur"}, "of the variant sur: the published code runs only `official`"),
        ({"depth": 3}, "depth 3 and 8 heads, the published code 2 and 8"),
        ({"heads": 4}, "depth 2 and 4 heads, the published code 2 and 8"),
        ({"pooled_width": 16}, "changes SDXL's pooled vector"),
    ],
)
def test_an_adapter_of_another_network_makes_no_checkpoint(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        write_checkpoint(SURAdapter(AdapterConfig(**{"width": D, "variant": "official"} | changed)), tmp_path / "out.pt")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_of_the_command_are_reported_in_one_sentence_and_change_no_file(official_pt, tmp_path):
    folder, other = tmp_path / "adapter", tmp_path / "sur"
    convert(official_pt, folder)
    SURAdapter(AdapterConfig(D)).save_pretrained(other)
    before = digest(tmp_path)
    for arguments, message in (
        ((official_pt, folder), "adapter exists already: name another place, or remove it first"),
        ((tmp_path / "no.pt", tmp_path / "new"), "no.pt does not exist: name a checkpoint or an adapter's folder"),
        ((official_pt, tmp_path / "new.pt"), "is a checkpoint, so .*new.pt must be a folder"),
        ((folder, tmp_path / "new"), "is a folder, so .*new must be a checkpoint: let its name end in .pt or .safetensors"),
        ((folder, tmp_path / "new.pt", "--strength", "0"), "--scale cannot be stored in a checkpoint"),
        ((official_pt, tmp_path / "new", "--text-encoder-hash", "abc"), "--text-encoder-hash is 'abc': give the output of"),
        ((official_pt, tmp_path / "new", "--strength", "nan"), "strength is nan: give a number"),
        ((tmp_path, tmp_path / "new.pt"), "holds no config.json"),
        ((other, tmp_path / "new.pt"), "of the variant sur"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            convert(*arguments)
        assert "\n" not in str(error.value)
    assert digest(tmp_path) == before


def test_the_exit_code_is_0_for_success_1_for_bad_input_and_2_for_wrong_usage(official_pt, tmp_path):
    for arguments, code, message in (
        ((official_pt, tmp_path / "new"), 0, f"{tmp_path}/new: width of the text features 32, scale 0.1\n"),
        ((official_pt, tmp_path / "new"), 1, f"error: {tmp_path}/new exists already: name another place, or remove it first\n"),
        ((official_pt,), 2, "usage: python -m sur_adapter convert"),
    ):
        command = [sys.executable, "-m", "sur_adapter", "convert", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, (done.stdout + done.stderr)[: len(message)]) == (code, message)


def test_the_help_has_an_example_and_does_not_import_torch():
    code = "import sys\nfrom sur_adapter.cli.main import build_parser\nprint(build_parser().format_help(), 'torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "sur-adapter convert adapter_checkpoint5000.pt" in output and output.rstrip().endswith("False")


def test_converting_imports_neither_diffusers_nor_dvc(official_pt, tmp_path):
    code = f"""
import sys
from sur_adapter.cli.main import main
main(["convert", {str(official_pt)!r}, {str(tmp_path / "adapter")!r}])
main(["convert", {str(tmp_path / "adapter")!r}, {str(tmp_path / "out.pt")!r}])
print(sorted({{"diffusers", "transformers", "dvc", "pandas", "pyarrow"}} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_variant_can_be_trained_and_the_same_seed_gives_the_same_bytes(tmp_path):
    from helpers.stages import train

    rng = np.random.default_rng(0)
    for name, rows in (("train", 24), ("test", 4), ("validation", 8)):
        ids = [f"{name}{i}" for i in range(rows)]
        embeds = {part: rng.normal(size=(rows, 9, D)).astype(np.float16) for part in ("simple", "complex")}
        write_features(tmp_path / f"clip/{name}-000000.parquet", ids, embeds, {"base_model": "a/model"})
        write_features(tmp_path / f"llm/{name}-000000.parquet", ids, {"layer_3": rng.normal(size=(rows, 20)).astype(np.float16)})

    def trained(name: str, seed: int) -> dict[str, str]:
        train(
            *(tmp_path / part for part in ("clip", "llm", "vae", "queries", name, f"{name}-log")),
            models={"diffusion": "a/model"},
            adapter={"variant": "official"},
            loss={"prompt": "kl", "w_diffusion": 0.0, "w_prompt": 1.0, "llm": "kl", "sentences": 0, "w_llm": 1.0},
            train={"steps": 4, "batch_size": 8, "lr": 1e-3, "seed": seed, "device": "cpu"},
        )
        return digest(tmp_path / name)

    assert trained("one", 0) == trained("again", 0) and trained("one", 0)["model.safetensors"] != trained("other", 1)["model.safetensors"]
    adapter = SURAdapter.from_pretrained(tmp_path / "one")
    config, about = adapter.config, adapter.config.about
    assert (config.variant, config.strength, config.published_attention, config.teacher_width) == ("official", 0.1, False, 20)
    assert about["code"] == code_version(ROOT / "stages/train.py") and about["base_model"] == "a/model"
    convert(tmp_path / "one", tmp_path / "one.pt")
    again = read_checkpoint(tmp_path / "one.pt", published_attention=False)
    assert torch.equal(again(X), adapter(X))

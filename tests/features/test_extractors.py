"""The feature extractors: what they store, and that training on it equals training with the frozen models inline."""

import json
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from helpers import tiny_models as tiny
from helpers.repository import ROOT
from helpers.stages import cache, generate, train
from helpers.training_setup import fit, objective
from PIL import Image, ImageOps
from ruamel.yaml import YAML

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.features.latents import images_to_tensor, load_vae, resize_and_crop
from sur_adapter.features.query_bank import load_query_bank
from sur_adapter.features.store import FeatureSplit, FeatureStore
from sur_adapter.io import schema
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.io.shards import read_tar
from sur_adapter.models.llm import LanguageModel, LLMConfig
from sur_adapter.models.stable_diffusion import TextEncoders, cross_attention_layers
from sur_adapter.models.torch_utils import compute_dtype
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.dataset import FeatureDataset

pytestmark = pytest.mark.usefixtures("own_work")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict:
    return tiny.models(tmp_path_factory.mktemp("models"))


def assert_close(features, expected) -> None:
    """Equal up to the rounding of fp16."""
    np.testing.assert_allclose(torch.as_tensor(features).float(), torch.as_tensor(expected).float(), rtol=2**-9, atol=1e-4)


def test_equal_prompts_are_embedded_once_even_if_they_are_in_different_shards(tmp_path, models, monkeypatch):
    rows, _ = tiny.pairs(24)
    monkeypatch.setattr(schema, "ROWS_PER_SHARD", 5)
    encoded, encode = [], LanguageModel.encode
    monkeypatch.setattr(LanguageModel, "encode", lambda self, prompts: encode(self, encoded.extend(prompts) or prompts))
    tiny.extract("llm", rows, tmp_path / "llm", models, layers=[2, 4], max_tokens_per_batch=32)
    assert sorted(encoded) == sorted(set(rows["simple_prompt"]))
    store = FeatureStore(tmp_path / "llm")
    assert len(store.shards) == 6 and store.names == ["layer_2", "layer_4"]
    prompts = rows.set_index("id").loc[store.ids, "simple_prompt"].tolist()
    expected, features = LanguageModel(models["llm"], LLMConfig(layers=(2, 4)))(prompts), store.rows(range(24))
    for name in store.names:
        assert_close(features[name], expected[name])


def test_pooling_tokens_stores_each_prompts_own_number_of_tokens(tmp_path, models):
    rows, _ = tiny.pairs()
    tiny.extract("llm", rows, tmp_path / "llm", models, layers=[3], pooling="tokens")
    store = FeatureStore(tmp_path / "llm")
    features, prompts = store.rows(range(8)), rows.set_index("id").loc[store.ids, "simple_prompt"].tolist()
    llm = LanguageModel(models["llm"], LLMConfig(layers=(3,), pooling="tokens"))
    assert features["layer_3.length"].tolist() == [len(i) for i in llm.encode(prompts)]
    for states, length, prompt in zip(features["layer_3"], features["layer_3.length"], prompts, strict=True):
        assert_close(states[:length], llm([prompt])["layer_3"][0])


def test_states_that_overflow_fp16_are_refused_with_a_fix_and_stored_in_fp32(tmp_path, models, monkeypatch):
    rows, _ = tiny.pairs()
    call = LanguageModel.__call__
    monkeypatch.setattr(LanguageModel, "__call__", lambda self, prompts: {k: v * 1e6 for k, v in call(self, prompts).items()})
    with pytest.raises(ValueError, match="a feature of size .* does not fit in fp16: set cache.llm.storage_dtype to fp32"):
        tiny.extract("llm", rows, tmp_path / "llm", models, layers=[3])
    tiny.extract("llm", rows, tmp_path / "llm", models, layers=[3], storage_dtype="fp32")
    assert FeatureStore(tmp_path / "llm").rows([0])["layer_3"].abs().max() > 65504


def test_each_image_goes_to_the_bucket_nearest_in_aspect_ratio_and_its_frame_holds_the_crop(tmp_path, models):
    rows, images = tiny.pairs()
    tiny.extract("vae", rows, tmp_path / "vae", models, images, buckets=[[64, 64], [96, 48], [48, 96]], batch_size=3)
    store = FeatureStore(tmp_path / "vae")
    sizes = {key: Image.open(BytesIO(data)).size for key, data in images.items()}
    aspects = {(64, 64): 1, (90, 60): 2, (50, 70): 1, (80, 40): 2, (33, 99): 0.5, (64, 32): 2}
    shape = {1: [2, 4, 8, 8], 2: [2, 4, 6, 12], 0.5: [2, 4, 12, 6]}
    assert store.shapes("latents").tolist() == [shape[aspects[sizes[key]]] for key in store.ids]
    model = AutoencoderKL.from_pretrained(models["diffusion"], subfolder="vae").eval()
    for i, key in enumerate(store.ids):
        row = store.rows([i])
        height, width, top, left, target_height, target_width = row["frame"][0].tolist()
        assert (width, height) == sizes[key] and [2, 4, target_height // 8, target_width // 8] == shape[aspects[sizes[key]]]
        scaled = (round(max(target_width / width, target_height / height) * side) for side in (width, height))
        assert (left, top) == tuple(round((s - t) / 2) for s, t in zip(scaled, (target_width, target_height), strict=True))
        image = ImageOps.fit(Image.open(BytesIO(images[key])).convert("RGB"), (target_width, target_height), Image.Resampling.LANCZOS)
        with torch.no_grad():
            posterior = model.encode(images_to_tensor([image])).latent_dist
        assert_close(row["latents"][0, 0], posterior.mean[0])
        assert_close(row["latents"][0, 1], posterior.logvar[0])


def test_latents_of_the_mirrored_image_are_stored_only_with_flips(tmp_path, models):
    rows, images = tiny.pairs()
    rng = np.random.default_rng(0)
    for key in images:
        buffer = BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "png")
        images[key] = buffer.getvalue()
    tiny.extract("vae", rows, tmp_path / "vae", models, images, flips=True)
    tiny.extract("vae", rows, tmp_path / "plain/vae", models, images)
    flipped, plain = FeatureStore(tmp_path / "vae").rows(range(8)), FeatureStore(tmp_path / "plain/vae").rows(range(8))
    assert "latents_flipped" not in plain and torch.equal(plain["latents"], flipped["latents"])
    mirrored = [ImageOps.mirror(Image.open(BytesIO(images[key]))) for key in FeatureStore(tmp_path / "vae").ids]
    with torch.no_grad():
        expected = load_vae(models["diffusion"], "fp32").encode(images_to_tensor(mirrored)).latent_dist.mean
    assert_close(flipped["latents_flipped"][:, 0], expected)
    assert (flipped["latents_flipped"].float() - flipped["latents"].float()).abs().max() > 0.01


def test_a_vae_that_overflows_in_fp16_runs_in_fp32_and_any_other_in_the_chosen_precision(models, tmp_path):
    assert load_vae(models["diffusion"], "fp16").dtype == torch.float32  # force_upcast
    assert load_vae(models["diffusion"], "bf16").dtype == compute_dtype("cpu", "bf16")
    small = AutoencoderKL.from_pretrained(models["diffusion"], subfolder="vae")
    small.register_to_config(force_upcast=False)
    small.save_pretrained(tmp_path / "vae")
    assert load_vae(str(tmp_path), "fp16").dtype == torch.float16


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ([60, 64], r"cache.vae.buckets or models.resolution has \[60, 64\]: name \[width, height\] in pixels, multiples of 8"),
        ([64, 0], r"cache.vae.buckets or models.resolution has \[64, 0\]: name \[width, height\] in pixels"),
        ([64], r"params.yaml: cache.vae.buckets\[0\] is \[64\]: give a list of 2: a whole number, a whole number"),
        (64, r"params.yaml: cache.vae.buckets\[0\] is 64: give a list of 2"),
        ([64.0, 64], r"params.yaml: cache.vae.buckets\[0\]\[0\] is 64.0: give a whole number"),
    ],
)
def test_a_bucket_that_the_vae_cannot_encode_is_refused(tmp_path, models, size, sentence):
    rows, images = tiny.pairs()
    with pytest.raises(ValueError, match=sentence):
        tiny.extract("vae", rows, tmp_path / "vae", models, images, buckets=[size])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_query_bank_of_every_family_has_the_layers_of_its_unet(tmp_path, family):

    model = {"diffusion": tiny.diffusion(tmp_path / "model", family), "resolution": 64}
    rows, images = tiny.pairs()
    tiny.extract("queries", rows, tmp_path / "queries", model, images, count=20)
    unet = UNet2DConditionModel.from_pretrained(model["diffusion"], subfolder="unet")
    layers = load_query_bank(tmp_path / "queries")
    assert len(layers) == len(cross_attention_layers(unet)) > 2
    for layer, module in zip(layers, (m for _, m in sorted(cross_attention_layers(unet).items())), strict=True):
        prompt_embeds = torch.randn(2, 5, unet.config.cross_attention_dim)
        assert layer.q.shape == (20, module.to_q.out_features) and layer.q.std() > 0
        with torch.no_grad():
            assert torch.allclose(layer.to_v @ prompt_embeds[0].T, module.to_v(prompt_embeds[0]).T, atol=0.005)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_goes_from_pairs_to_features_an_adapter_and_images(tmp_path, models, family):
    folder = tiny.home(tmp_path, models | {"diffusion": tiny.diffusion(tmp_path / "model", family)})
    params = YAML(typ="safe").load(folder / "params.yaml")
    features = [folder / "features" / name for name in ("clip", "llm", "vae", "queries")]
    for out in features:
        cache(folder / "pairs.parquet", folder / "raw", out, **params)
    settings = {
        "adapter": {"heads": 4},
        "loss": {"prompt": "attention", "w_diffusion": 0.01, "w_prompt": 1.0, "mask_padding": True}
        | {"llm": "kl", "sentences": 0, "w_llm": 0.01},
        "train": {"steps": 4, "batch_size": 8, "lr": 0.01, "eval_steps": 1},
    }
    train(*features, tmp_path / "adapter", tmp_path / "log", models=params["models"], **settings)
    adapter, history = SURAdapter.from_pretrained(tmp_path / "adapter"), json.loads((tmp_path / "log/history.json").read_text())
    assert adapter.config.width == {"sd1": 32, "sd2": 48, "sdxl": 80}[family] and adapter.config.teacher_width == 2 * 32
    assert adapter.config.pooled_width == (24 if family == "sdxl" else 0)
    assert history[-1]["prompt"] < history[0]["prompt"]
    sampling = {"per_category": 1, "seeds": 1, "num_inference_steps": 2, "guidance_scale": 3.0}
    for arm, weights in (("baseline", None), ("adapter", tmp_path / "adapter")):
        generate(ROOT / "prompts/plain", tmp_path, arm, adapter=weights, models=params["models"], generate=sampling)
    plain, adapted = ({key: data for key, _, data in read_tar(tmp_path / arm)} for arm in ("baseline", "adapter"))
    assert plain.keys() == adapted.keys() and len(plain) == 3 and all(plain[key] != adapted[key] for key in plain)
    with pytest.raises(
        ValueError, match="features/clip was made with base_model .*, but this run needs 'another': it is stale; run `dvc repro`"
    ):
        train(*features, tmp_path / "adapter", tmp_path / "log", models=params["models"] | {"diffusion": "another"}, **settings)


def test_an_image_index_reads_from_disk_and_names_a_missing_image(tmp_path, models):
    folder = tiny.home(tmp_path, models, 8)
    rows, images = tiny.pairs(8)
    index = ImageIndex(folder / "raw", set(images))
    assert dict(index) == images
    with pytest.raises(ValueError, match="raw lacks 1 of 9 images of kept pairs \\(nowhere, …\\): run `dvc repro` again"):
        ImageIndex(folder / "raw", {*images, "nowhere"})
    tar = folder / "raw/here/images-000000.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(ValueError, match="images-000000.tar is cut short or broken .*: remove it and run `dvc repro` again"):
        cache(folder / "pairs.parquet", folder / "raw", tmp_path / "vae", cache={"vae": {}}, models=models)


@dataclass
class Inline:
    """A dataset that runs the frozen models for each batch."""

    pairs: pd.DataFrame
    images: dict
    encoders: TextEncoders
    llm: LanguageModel
    vae: AutoencoderKL

    same_bucket = TrainingBatch.same_bucket

    def __len__(self) -> int:
        return len(self.pairs)

    @torch.no_grad()
    def rows(self, index: torch.Tensor, device: str) -> TrainingBatch:
        batch = self.pairs.iloc[index.tolist()]
        simple, complex_embeds = (self.encoders(batch[f"{kind}_prompt"].tolist())[0] for kind in ("simple", "complex"))
        crops = [resize_and_crop(self.images[key], (64, 64))[0] for key in batch["id"]]
        posterior = self.vae.encode(images_to_tensor(crops)).latent_dist
        teacher = self.llm(batch["simple_prompt"].tolist())["layer_3"]
        latents = torch.stack([posterior.mean, posterior.logvar], 1).contiguous()  # randn_like depends on strides
        return TrainingBatch(simple, complex_embeds, teacher, latents)


def test_training_on_cached_features_equals_training_with_the_frozen_models_inline(tmp_path, models):
    rows, images = tiny.pairs(24)
    tiny.extract("clip", rows, tmp_path / "clip", models)
    tiny.extract("llm", rows, tmp_path / "llm", models, layers=[3])
    tiny.extract("vae", rows, tmp_path / "vae", models, images)
    stores = [FeatureStore(tmp_path / name) for name in ("clip", "llm", "vae")]
    scheduler = DDPMScheduler.from_pretrained(models["diffusion"], subfolder="scheduler")
    unet = UNet2DConditionModel.from_pretrained(models["diffusion"], subfolder="unet").eval().requires_grad_(False)
    frozen = (
        TextEncoders(models["diffusion"]),
        LanguageModel(models["llm"], LLMConfig(layers=(3,))),
        load_vae(models["diffusion"], "fp32"),
    )

    def history(dataset) -> list[dict]:
        torch.manual_seed(0)
        adapter = SURAdapter(AdapterConfig(32, 32, heads=4))
        goal = objective(1.0, 1.0, 0.1, unet=unet, scheduler=scheduler)
        return fit(adapter, goal, dataset("train"), dataset("validation"), steps=12, batch_size=6, lr=1e-3, eval_steps=1)

    def cached(split: str) -> FeatureDataset:
        return FeatureDataset(FeatureSplit(stores, split), ["layer_3"])

    def inline(split: str) -> Inline:
        return Inline(rows[rows["split"] == split], images, *frozen)

    pairs_of_steps = list(zip(history(cached), history(inline), strict=True))
    for one, other in pairs_of_steps:
        for term in ("loss", "prompt", "llm", "diffusion", "validation_loss"):
            assert one[term] == pytest.approx(other[term], rel=1e-3), (one["step"], term)
    assert abs(pairs_of_steps[0][0]["loss"] - pairs_of_steps[-1][0]["loss"]) > 0.05  # the loss changes

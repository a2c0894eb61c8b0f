"""The lanes of the cache: what they hold, and that training cannot tell them from the models themselves."""

import json
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from helpers import tiny_models as tiny
from helpers.repository import ROOT
from helpers.stages import cache, generate
from PIL import Image, ImageOps
from ruamel.yaml import YAML

from stages.train import train
from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.features.latents import images_to_tensor, load_vae, resize_and_crop
from sur_adapter.features.query_bank import load_query_bank
from sur_adapter.features.store import FeatureSplit, FeatureStore
from sur_adapter.io import schema as records
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.io.shards import read_tar
from sur_adapter.models.llm import LanguageModel, LLMConfig
from sur_adapter.models.stable_diffusion import TextEncoders, cross_attention_layers
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.dataset import FeatureDataset
from sur_adapter.training.objective import Objective
from sur_adapter.training.trainer import fit

pytestmark = pytest.mark.usefixtures("own_work")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict:
    return tiny.models(tmp_path_factory.mktemp("models"))


def close(found, wanted) -> None:
    np.testing.assert_allclose(torch.as_tensor(found).float(), torch.as_tensor(wanted).float(), rtol=2**-9, atol=1e-4)


def test_prompts_of_the_same_words_are_embedded_once_though_they_lie_in_different_shards(tmp_path, models, monkeypatch):
    rows, _ = tiny.pairs(24)
    monkeypatch.setattr(records, "ROWS_PER_SHARD", 5)
    asked, own = [], LanguageModel.encode
    monkeypatch.setattr(LanguageModel, "encode", lambda self, prompts: own(self, asked.extend(prompts) or prompts))
    tiny.extract("llm", rows, tmp_path / "llm", models, layers=[2, 4], max_tokens_per_batch=32)
    assert sorted(asked) == sorted(set(rows["simple_prompt"]))
    store = FeatureStore(tmp_path / "llm")
    assert len(store.shards) == 6 and store.names == ["layer_2", "layer_4"]
    prompts = rows.set_index("id").loc[store.ids, "simple_prompt"].tolist()
    wanted, found = LanguageModel(models["llm"], LLMConfig(layers=(2, 4)))(prompts), store.rows(range(24))
    for name in store.names:
        close(found[name], wanted[name])


def test_all_tokens_of_a_prompt_are_kept_as_many_as_it_has(tmp_path, models):
    rows, _ = tiny.pairs()
    tiny.extract("llm", rows, tmp_path / "llm", models, layers=[3], pooling="tokens")
    store = FeatureStore(tmp_path / "llm")
    found, prompts = store.rows(range(8)), rows.set_index("id").loc[store.ids, "simple_prompt"].tolist()
    teacher = LanguageModel(models["llm"], LLMConfig(layers=(3,), pooling="tokens"))
    assert found["layer_3.length"].tolist() == [len(i) for i in teacher.encode(prompts)]
    for values, length, prompt in zip(found["layer_3"], found["layer_3.length"], prompts, strict=True):
        close(values[:length], teacher([prompt])["layer_3"][0])


def test_states_that_fp16_cannot_hold_are_refused_with_the_cure_and_kept_in_fp32(tmp_path, models, monkeypatch):
    rows, _ = tiny.pairs()
    call = LanguageModel.__call__
    monkeypatch.setattr(LanguageModel, "__call__", lambda self, prompts: {k: v * 1e6 for k, v in call(self, prompts).items()})
    with pytest.raises(ValueError, match="a feature of size .* does not fit in fp16: set cache.llm.storage_dtype to fp32"):
        tiny.extract("llm", rows, tmp_path / "llm", models, layers=[3])
    tiny.extract("llm", rows, tmp_path / "llm", models, layers=[3], storage_dtype="fp32")
    assert FeatureStore(tmp_path / "llm").rows([0])["layer_3"].abs().max() > 65504


def test_each_picture_goes_to_the_bucket_nearest_in_aspect_and_its_frame_says_how_it_was_cut(tmp_path, models):
    rows, pictures = tiny.pairs()
    tiny.extract("vae", rows, tmp_path / "vae", models, pictures, buckets=[[64, 64], [96, 48], [48, 96]], batch_size=3)
    store = FeatureStore(tmp_path / "vae")
    sizes = {key: Image.open(BytesIO(data)).size for key, data in pictures.items()}
    aspects = {(64, 64): 1, (90, 60): 2, (50, 70): 1, (80, 40): 2, (33, 99): 0.5, (64, 32): 2}
    shape = {1: [2, 4, 8, 8], 2: [2, 4, 6, 12], 0.5: [2, 4, 12, 6]}
    assert store.shapes("latents").tolist() == [shape[aspects[sizes[key]]] for key in store.ids]
    model = AutoencoderKL.from_pretrained(models["diffusion"], subfolder="vae").eval()
    for i, key in enumerate(store.ids):
        found = store.rows([i])
        height, width, top, left, target_height, target_width = found["frame"][0].tolist()
        assert (width, height) == sizes[key] and [2, 4, target_height // 8, target_width // 8] == shape[aspects[sizes[key]]]
        scaled = (round(max(target_width / width, target_height / height) * side) for side in (width, height))
        assert (left, top) == tuple(round((s - t) / 2) for s, t in zip(scaled, (target_width, target_height), strict=True))
        picture = ImageOps.fit(Image.open(BytesIO(pictures[key])).convert("RGB"), (target_width, target_height), Image.Resampling.LANCZOS)
        with torch.no_grad():
            posterior = model.encode(images_to_tensor([picture])).latent_dist
        close(found["latents"][0, 0], posterior.mean[0])
        close(found["latents"][0, 1], posterior.logvar[0])


def test_the_mirrored_picture_is_cached_only_if_asked_for(tmp_path, models):
    rows, pictures = tiny.pairs()
    rng = np.random.default_rng(0)
    for key in pictures:
        buffer = BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "png")
        pictures[key] = buffer.getvalue()
    tiny.extract("vae", rows, tmp_path / "vae", models, pictures, flips=True)
    tiny.extract("vae", rows, tmp_path / "plain/vae", models, pictures)
    found, plain = FeatureStore(tmp_path / "vae").rows(range(8)), FeatureStore(tmp_path / "plain/vae").rows(range(8))
    assert "latents_flipped" not in plain and torch.equal(plain["latents"], found["latents"])
    mirrored = [ImageOps.mirror(Image.open(BytesIO(pictures[key]))) for key in FeatureStore(tmp_path / "vae").ids]
    with torch.no_grad():
        wanted = load_vae(models["diffusion"], "fp32").encode(images_to_tensor(mirrored)).latent_dist.mean
    close(found["latents_flipped"][:, 0], wanted)
    assert (found["latents_flipped"].float() - found["latents"].float()).abs().max() > 0.01


def test_a_vae_that_overflows_in_fp16_is_run_in_fp32_and_any_other_as_told(models, tmp_path):
    assert load_vae(models["diffusion"], "fp16").dtype == torch.float32  # force_upcast
    assert load_vae(models["diffusion"], "bf16").dtype == torch.bfloat16
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
    rows, pictures = tiny.pairs()
    with pytest.raises(ValueError, match=sentence):
        tiny.extract("vae", rows, tmp_path / "vae", models, pictures, buckets=[size])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_has_its_queries_recorded_as_its_unet_asks_them(tmp_path, family):

    model = {"diffusion": tiny.diffusion(tmp_path / "model", family), "resolution": 64}
    rows, pictures = tiny.pairs()
    tiny.extract("queries", rows, tmp_path / "queries", model, pictures, count=20)
    unet = UNet2DConditionModel.from_pretrained(model["diffusion"], subfolder="unet")
    layers = load_query_bank(tmp_path / "queries")
    assert len(layers) == len(cross_attention_layers(unet)) > 2
    for layer, module in zip(layers, (m for _, m in sorted(cross_attention_layers(unet).items())), strict=True):
        words = torch.randn(2, 5, unet.config.cross_attention_dim)
        assert layer.q.shape == (20, module.to_q.out_features) and layer.q.std() > 0
        with torch.no_grad():
            assert torch.allclose(layer.to_v @ words[0].T, module.to_v(words[0]).T, atol=0.005)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_goes_from_pairs_through_all_lanes_to_an_adapter_of_its_width_and_its_pictures(tmp_path, models, family):
    folder = tiny.home(tmp_path, models | {"diffusion": tiny.diffusion(tmp_path / "model", family)})
    params = YAML(typ="safe").load(folder / "params.yaml")
    lanes = [folder / "features" / lane for lane in ("clip", "llm", "vae", "queries")]
    for lane in lanes:
        cache(folder / "pairs.parquet", folder / "raw", lane, **params)
    rules = {
        "adapter": {"heads": 4},
        "loss": {"prompt": "attention", "w_diffusion": 0.01, "w_prompt": 1.0, "w_llm": 0.01, "mask": True},
        "train": {"steps": 4, "batch": 8, "lr": 0.01, "every": 1},
    }
    train(*lanes, tmp_path / "adapter", tmp_path / "log", models=params["models"], **rules)
    adapter, losses = SURAdapter.from_pretrained(tmp_path / "adapter"), json.loads((tmp_path / "log/history.json").read_text())
    assert adapter.config.width == {"sd1": 32, "sd2": 48, "sdxl": 80}[family] and adapter.config.teacher_width == 2 * 32
    assert adapter.config.pooled_width == (24 if family == "sdxl" else 0)
    assert losses[-1]["prompt"] < losses[0]["prompt"]
    drawn = {"per_category": 1, "seeds": 1, "num_inference_steps": 2, "guidance_scale": 3.0}
    for arm, by in (("baseline", None), ("adapter", tmp_path / "adapter")):
        generate(ROOT / "prompts/plain", tmp_path / arm, by, models=params["models"], generate=drawn)
    plain, adapted = ({key: data for key, _, data in read_tar(tmp_path / arm)} for arm in ("baseline", "adapter"))
    assert plain.keys() == adapted.keys() and len(plain) == 3 and all(plain[key] != adapted[key] for key in plain)
    with pytest.raises(
        ValueError, match="features/clip was made with base_model .*, but 'another' is asked for: it is stale; run `dvc repro`"
    ):
        train(*lanes, tmp_path / "adapter", tmp_path / "log", models=params["models"] | {"diffusion": "another"}, **rules)


def test_pictures_stay_on_disk_until_asked_for_and_a_missing_one_is_named(tmp_path, models):
    folder = tiny.home(tmp_path, models, 8)
    rows, pictures = tiny.pairs(8)
    album = ImageIndex(folder / "raw", set(pictures))
    assert dict(album) == pictures
    with pytest.raises(ValueError, match="raw holds no image for 1 of 9 kept pairs \\(nowhere, …\\): run `dvc repro` again"):
        ImageIndex(folder / "raw", {*pictures, "nowhere"})
    tar = folder / "raw/here/images-000000.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(ValueError, match="images-000000.tar is cut short or broken .*: remove it and run `dvc repro` again"):
        cache(folder / "pairs.parquet", folder / "raw", tmp_path / "vae", cache={"vae": {}}, models=models)


@dataclass
class Inline:
    """Features made by the frozen models themselves whenever a batch asks: what the cache is there to spare."""

    rows_: object
    pictures: dict
    encoders: TextEncoders
    teacher: LanguageModel
    vae: AutoencoderKL

    together = TrainingBatch.together

    def __len__(self) -> int:
        return len(self.rows_)

    @torch.no_grad()
    def rows(self, index: torch.Tensor, device: str) -> TrainingBatch:
        some = self.rows_.iloc[index.tolist()]
        simple, complex_ = (self.encoders(some[f"{kind}_prompt"].tolist())[0] for kind in ("simple", "complex"))
        images = [resize_and_crop(self.pictures[key], (64, 64))[0] for key in some["id"]]
        posterior = self.vae.encode(images_to_tensor(images)).latent_dist
        teacher = self.teacher(some["simple_prompt"].tolist())["layer_3"]
        latents = torch.stack([posterior.mean, posterior.logvar], 1).contiguous()  # else noise "like" it fills it in another order
        return TrainingBatch(simple, complex_, teacher, latents)


def test_training_from_the_cache_is_training_with_the_models_inline(tmp_path, models):
    rows, pictures = tiny.pairs(24)
    tiny.extract("clip", rows, tmp_path / "clip", models)
    tiny.extract("llm", rows, tmp_path / "llm", models, layers=[3])
    tiny.extract("vae", rows, tmp_path / "vae", models, pictures)
    stores = [FeatureStore(tmp_path / name) for name in ("clip", "llm", "vae")]
    scheduler = DDPMScheduler.from_pretrained(models["diffusion"], subfolder="scheduler")
    unet = UNet2DConditionModel.from_pretrained(models["diffusion"], subfolder="unet").eval().requires_grad_(False)
    frozen = (
        TextEncoders(models["diffusion"]),
        LanguageModel(models["llm"], LLMConfig(layers=(3,))),
        load_vae(models["diffusion"], "fp32"),
    )

    def history(of) -> list[dict]:
        torch.manual_seed(0)
        adapter = SURAdapter(AdapterConfig(32, 32, heads=4))
        objective = Objective(1.0, 1.0, 0.1, unet=unet, scheduler=scheduler)
        return fit(adapter, objective, of("train"), of("validation"), steps=12, batch=6, lr=1e-3, every=1)[0]

    def cached(split: str) -> FeatureDataset:
        return FeatureDataset(FeatureSplit(stores, split), ["layer_3"])

    def inline(split: str) -> Inline:
        return Inline(rows[rows["split"] == split], pictures, *frozen)

    pairs_of_steps = list(zip(history(cached), history(inline), strict=True))
    for one, other in pairs_of_steps:
        for term in ("loss", "prompt", "llm", "diffusion", "validation_loss"):
            assert one[term] == pytest.approx(other[term], rel=1e-3), (one["step"], term)
    assert abs(pairs_of_steps[0][0]["loss"] - pairs_of_steps[-1][0]["loss"]) > 0.05  # it trains

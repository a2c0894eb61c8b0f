"""Real images pass through the same stages with other params; runs only if they are beside the project."""

import json
from io import BytesIO

import pytest
from helpers.repository import ROOT, copy, ran, run
from PIL import Image

from sur_adapter.features.store import FeatureStore
from sur_adapter.io.shards import read_table, read_tar

REAL = ROOT.parent / "shared" / "realdata"
SMALL = {
    "sources": {"folder": {"path": str(REAL)}},
    "cache": {"queries": {"count": 100}},
    "loss": {"w_diffusion": 0.01},  # the only loss that reads the images' latents
    "train": {"steps": 2, "batch_size": 2},
    "generate": {"num_inference_steps": 1, "per_category": 1, "seeds": 1},
    "sweep": {"strengths": [0, 1], "per_category": 1},
    "evaluate": {"bootstrap_resamples": 200},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    if not REAL.is_dir():
        pytest.skip("the folder of real images is not beside this checkout")
    folder = copy(tmp_path_factory.mktemp("real"), "folder", SMALL)
    return folder, run(folder, "dvc", "repro")


def test_every_stage_runs_to_an_adapter_and_a_report(home):
    folder, output = home
    assert ran(output) == set(run(folder, "dvc", "stage", "list", "--name-only").split())
    assert (folder / "models/adapter/model.safetensors").exists()
    assert "<svg" in (folder / "reports/index.html").read_text()


def test_published_pairs_and_embedded_prompts_are_kept_and_every_other_row_has_a_reason(home):
    folder, _ = home
    rows = read_table(folder / "data/pairs.parquet")
    kept = rows[rows.dropped.isna()]
    funnel = json.loads((folder / "reports/funnel.json").read_text())
    assert funnel["kept"] == len(kept) > 5 and funnel["in"] == len(rows) == len(kept) + sum(funnel["dropped"].values())
    prompts = read_table(folder / "data/raw/folder").set_index("id").complex_prompt
    published = [json.loads(line) for line in (REAL / "sur-adapter-samples/metadata.jsonl").read_text().splitlines()]
    kept_prompts = {prompts[i] for i in kept.id}
    assert {row["prompt"].strip() for row in published} <= kept_prompts


def test_features_and_generated_images_have_512_pixels(home):
    folder, _ = home
    _, _, data = next(read_tar(folder / "data/images/adapter"))
    image = Image.open(BytesIO(data))
    assert image.size == (512, 512) and (FeatureStore(folder / "data/features/vae").shapes("latents")[:, 2:] * 8 == 512).all()

"""Bad input ends in one sentence: what was found, what was expected, what to do."""

import numpy as np
import pytest
from helpers.repository import ROOT

from sur_adapter.features.store import FeatureStore, write_features
from sur_adapter.io.shards import read_table, write_table
from sur_adapter.models import stable_diffusion as diffusion
from sur_adapter.models.captioner import CaptionConfig, Captioner
from sur_adapter.models.clip import CLIPEncoder
from sur_adapter.models.llm import LanguageModel, LLMConfig

LOADERS = {
    "caption.model": lambda model: Captioner(CaptionConfig(model)),
    "models.llm": lambda model: LanguageModel(model, LLMConfig(layers=(1,))),
    "scores.clip.model": lambda model: CLIPEncoder(model, "scores.clip.model"),
    "evaluate.clip": lambda model: CLIPEncoder(model, "evaluate.clip"),
    "models.diffusion": diffusion.load_pipeline,
}


@pytest.mark.parametrize("param", LOADERS)
@pytest.mark.parametrize("exists", [False, True], ids=["no folder", "an empty folder"])
def test_a_missing_model_is_named_with_its_key(tmp_path, param, exists):
    folder = tmp_path / "model"
    if exists:
        folder.mkdir()
    with pytest.raises(FileNotFoundError, match=f"params.yaml: {param} is '{folder}'.* name a") as error:
        LOADERS[param](str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layers", [[], [0], [6, 99]])
def test_layers_that_the_llm_does_not_have_are_refused(layers):
    with pytest.raises(ValueError, match=r"cache.llm.layers is \[.*\], but .*llama has layers 1 to \d+: name some of those"):
        LanguageModel(str(ROOT / "models/miniature/llama"), LLMConfig(layers=tuple(layers)))


@pytest.mark.parametrize("kept", [0.0, 0.4, 0.95])
def test_a_truncated_shard_is_named_with_what_to_do(tmp_path, kept):
    rng = np.random.default_rng(0)
    write_features(tmp_path / "features" / "train-000000.parquet", ["a", "b"], {"simple": rng.normal(size=(2, 4, 8)).astype(np.float16)})
    write_table(tmp_path / "table" / "rows.parquet", [{"id": str(i), "value": float(i)} for i in range(100)])
    for folder, read in (("features", FeatureStore), ("table", read_table)):
        (file,) = (tmp_path / folder).iterdir()
        read(tmp_path / folder)
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
        with pytest.raises(ValueError, match=f"under {tmp_path / folder} .*: remove the folder and run `dvc repro` again"):
            read(tmp_path / folder)

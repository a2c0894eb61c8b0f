"""The stage cache computes what the loss of params.yaml reads, and leaves an empty folder where it reads nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tiny_models as tiny
from helpers.repository import ROOT
from helpers.stages import READS_ALL, cache
from helpers.training_setup import cached, cached_sentences, stage_params, train_stage
from ruamel.yaml import YAML

from sur_adapter.features.store import FeatureStore
from sur_adapter.training.config import LossConfig

pytestmark = pytest.mark.usefixtures("own_work")
DEFAULT = YAML(typ="safe").load(ROOT / "params.yaml")["loss"]


def unread(**changes) -> set[str]:
    return set(LossConfig(**DEFAULT | changes).unread_features)


def test_the_loss_says_which_features_it_reads():
    assert unread() == {"vae", "llm"} and not LossConfig(**DEFAULT).uses_answer_states
    assert unread(w_diffusion=0.1) == {"llm"} and unread(llm="kl") == {"vae"} and unread(llm="kl", w_diffusion=1.0) == set()
    assert unread(llm="decoded") == {"vae", "llm"} and LossConfig(**DEFAULT | {"llm": "decoded"}).uses_answer_states
    weights = [{"w_llm": 0.0}, {"w_llm": 0.5}, {"w_prompt": 0.5}, {"sentences": 8}]
    for form in ("words", "decoded", "kl"):
        assert {frozenset(unread(llm=form, **changes)) for changes in weights} == {frozenset(unread(llm=form))}


def test_dvc_tracks_just_the_keys_by_which_features_may_be_left_out():
    stage = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["cache"]
    assert "${item.decides}" in stage["do"]["params"]
    decides = {name: item["decides"] for name, item in stage["foreach"].items()}
    assert decides["vae"] == "loss.w_diffusion" and decides["llm"] == decides["sentences"] == "loss.llm"
    changes = {"w_diffusion": 1.0, "w_prompt": 0.5, "w_llm": 0.5, "llm": "kl", "prompt": "kl", "sentences": 8, "num_queries": 2}
    for key, value in changes.items():
        changed = {f"loss.{key}" for name in ("vae", "llm") if (name in unread(**{key: value})) != (name in unread())}
        assert changed <= {decides["vae"], decides["llm"]}, key


@pytest.mark.parametrize("name, loss", [("vae", READS_ALL | {"w_diffusion": 0.0}), ("llm", READS_ALL | {"llm": "words"})])
def test_features_that_nothing_reads_are_an_empty_folder_that_says_why(tmp_path, name, loss):
    folder = tiny.home(tmp_path, tiny.models(tmp_path / "models"))
    params = YAML(typ="safe").load(folder / "params.yaml")
    arguments = (folder / "pairs.parquet", folder / "raw", tmp_path / name)
    cache(*arguments, **params)
    computed = sorted(file.name for file in (tmp_path / name).iterdir())
    assert computed == ["train-000000.parquet", "validation-000000.parquet"]
    cache(*arguments, **params | {"loss": loss})
    (file,) = (tmp_path / name).iterdir()
    about = json.loads(file.read_text())
    assert file.name == "empty.json" and about["features"] == name and about["rows"] == 0 and "loss." in about["reason"]
    with pytest.raises(FileNotFoundError, match=rf"{name} holds no features \(loss.*\): run `dvc repro` to compute them"):
        FeatureStore(tmp_path / name)
    cache(*arguments, **params)
    assert sorted(file.name for file in (tmp_path / name).iterdir()) == computed


def test_an_empty_folder_takes_no_library_of_arrays_or_models(tmp_path):
    code = """
import sys
from stages.__main__ import main
for name in ("vae", "llm"):
    main(["cache", "--features", name, "--pairs", "nowhere", "--raw", "nowhere", "--out", f"{sys.argv[1]}/{name}"])
print(sorted({"torch", "numpy", "pandas", "pyarrow", "transformers", "diffusers"} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and done.stdout.count("nothing to compute: loss.") == 2
    assert sorted(path.name for path in tmp_path.rglob("*.json")) == ["empty.json"] * 2


def test_training_needs_no_unread_features_and_names_those_that_it_lacks(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    paths = cached(tmp_path)
    for name in ("llm", "vae"):
        for file in (tmp_path / name).iterdir():
            file.unlink()
        cache(Path("nowhere"), Path("nowhere"), tmp_path / name, cache={}, models={}, loss=DEFAULT)
    texts = cached_sentences(tmp_path / "sentences", [-0.1] * 40)
    train_stage(paths, texts, stage_params(DEFAULT | {"sentences": 8}, {}))
    assert (tmp_path / "adapter/model.safetensors").exists()
    for changes, folder in (({"w_diffusion": 1.0}, "vae"), ({"llm": "kl"}, "llm")):
        with pytest.raises(FileNotFoundError, match=f"{folder} holds no features .loss.*: run `dvc repro` to compute them"):
            train_stage(paths, texts, stage_params(DEFAULT | changes, {}))

"""The adapter that is committed for the first minute: that of the committed run, in today's format."""

import json
import subprocess
from hashlib import md5

import pytest
from diffusers import StableDiffusionPipeline
from helpers.repository import ROOT
from ruamel.yaml import YAML

from sur_adapter import SURAdapter, attach

FOLDER = ROOT / "models/miniature/adapter"
CONFIG = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))


def test_it_is_the_adapter_that_the_committed_run_trained_and_measured():
    about = {key: value for key, value in CONFIG["about"].items() if key != "commit"}
    files = {"config.json": (json.dumps(CONFIG | {"about": about}, indent=2, sort_keys=True) + "\n").encode()}
    files["model.safetensors"] = (FOLDER / "model.safetensors").read_bytes()
    entries = [{"md5": md5(data).hexdigest(), "relpath": name} for name, data in files.items()]
    digest = md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"  # as DVC hashes a folder
    stages = YAML(typ="safe").load(ROOT / "dvc.lock")["stages"]
    assert {"models/adapter": digest}.items() <= {out["path"]: out["md5"] for out in stages["train"]["outs"]}.items()
    assert {"models/adapter": digest}.items() <= {dep["path"]: dep["md5"] for dep in stages["evaluate"]["deps"]}.items()


def test_its_config_names_a_commit_of_this_history():
    done = subprocess.run(["git", "merge-base", "--is-ancestor", CONFIG["about"]["commit"], "HEAD"], cwd=ROOT, capture_output=True)
    if done.returncode == 128:
        pytest.skip("this copy has no git history")
    assert done.returncode == 0


def test_it_has_todays_format_and_attaches_to_the_miniature(tmp_path):
    adapter = SURAdapter.from_pretrained(FOLDER)
    adapter.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG
    pipe = StableDiffusionPipeline.from_pretrained(ROOT / "models/miniature/stable-diffusion", safety_checker=None)
    with attach(pipe, adapter) as handle:
        assert handle.scale == CONFIG["strength"] == 1

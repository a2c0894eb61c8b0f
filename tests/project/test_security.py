"""No code of a stranger runs: the project's own is searched for ways to, and charges are planted wherever a file is read."""

import ast
import json
import pickle
import shutil
import subprocess
import sys
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import tiny_models as tiny
from helpers.repository import ROOT, run
from safetensors.torch import load_file

from miniature.pretrain.world import World
from sur_adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.data.sources import folder as folders
from sur_adapter.data.sources import urls
from sur_adapter.features.store import FeatureStore
from sur_adapter.io.shards import read_table, read_tar, write_tar
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.models import stable_diffusion as diffusion
from sur_adapter.models.captioner import Captioner
from sur_adapter.models.clip import CLIPEncoder
from sur_adapter.models.llm import LanguageModel, LLMConfig
from sur_adapter.training.checkpoint import KEY, resume

ROOMS = ("sur_adapter", "stages", "miniature", "integrations", "experiments")
MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "xml", "torch.hub"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "mktemp", "extractall", "read_pickle", "unsafe_load"}
UNWEIGHED = ("Config", "Tokenizer", "Processor")  # what is loaded without weights


def dangers(code: str) -> list[str]:
    """Each place of a program where what a file holds could become code, or a check be switched off."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if {a.name, a.name.partition(".")[0]} & MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {node.module, node.module.partition(".")[0], *(f"{node.module}.{a.name}" for a in node.names)}
            found += [node.module] if names & MODULES else []
        elif isinstance(node, ast.Call) and _dangerous(node):
            found.append(f"line {node.lineno}: {ast.unparse(node)[:80]}")
    return found


def _dangerous(call: ast.Call) -> bool:
    said = ast.unparse(call.func)
    owner, _, name = said.rpartition(".")
    given = {k.arg: k.value.value if isinstance(k.value, ast.Constant) else ast.unparse(k.value) for k in call.keywords if k.arg}
    spread = {ast.unparse(k.value) for k in call.keywords if k.arg is None}
    if name == "from_pretrained" and owner != "SURAdapter":
        enough = {"WEIGHTS_ALONE", "alone"} | ({"SETTINGS_ALONE"} if any(word in owner for word in UNWEIGHED) else set())
        return not spread & enough and given.get("use_safetensors") is not True
    return (
        said in CALLS
        or (name in CALLS and name not in ("eval", "exec", "compile"))  # of a module, a session, an expression
        or (said == "torch.load" and given.get("weights_only") is not True)
        or (name == "YAML" and given.get("typ") != "safe")
        or any(given.get(key, False) is not False for key in ("allow_pickle", "trust_remote_code", "shell"))
        or any(given.get(key, True) is not True for key in ("verify", "ssl"))
    )


OWN_MODELS = ("miniature", "experiments")  # load what lies in git, or what they made themselves


def test_no_program_of_the_project_unpickles_runs_or_trusts_what_it_reads():
    files = run(ROOT, "git", "ls-files", "-co", "--exclude-standard", *(f"{room}/*.py" for room in ROOMS)).splitlines()
    found = {file: dangers((ROOT / file).read_text(encoding="utf-8")) for file in files if (ROOT / file).exists()}
    kept = {f: [d for d in told if not (f.startswith(OWN_MODELS) and "from_pretrained" in d)] for f, told in found.items()}
    assert len(found) > 100 and {file: told for file, told in kept.items() if told} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from torch import hub",
        "import xml.etree.ElementTree as tree",
        "eval(text)",
        "os.system(text)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file, allow_pickle=True)",
        "pd.read_pickle(file)",
        "tar.extractall(folder)",
        "YAML().load(file)",
        "subprocess.run(text, shell=True)",
        "get(url, ssl=False)",
        "AutoModel.from_pretrained(model)",
        "AutoModel.from_pretrained(model, **SETTINGS_ALONE)",
        "AutoTokenizer.from_pretrained(model)",
        "AutoConfig.from_pretrained(model, trust_remote_code=True)",
    ],
)
def test_such_a_line_would_be_found(line):
    assert dangers(f"def f():\n    {line}") and not dangers("model.eval(); torch.load(file, weights_only=True); re.compile(text)")


class Charge:
    """Whoever unpickles it makes the file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.fixture
def mark(tmp_path):
    """The file that a charge makes; it must not be there at the end, and the charge is live."""
    file = tmp_path / "went-off"
    yield file
    assert not file.exists()
    pickle.loads(pickle.dumps(Charge(file))).close()
    assert file.exists()


CODE = "import pathlib\npathlib.Path({mark!r}).touch()\nclass Config: pass\nclass Model: pass\ndef generate(*a, **k): pass\n"
MAP = dict.fromkeys(("AutoModel", "AutoModelForImageTextToText", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor"), "planted.Model")
LOADERS = {
    "blip": Captioner,
    "clip": lambda model: CLIPEncoder(model, "scores.clip.model"),
    "llm": lambda model: LanguageModel(model, LLMConfig(layers=(1,))),
    "sd1": diffusion.load_pipeline,
    "sd1 text encoder": diffusion.TextEncoders,
}


@pytest.fixture(scope="module")
def atomic_write(models, tmp_path_factory):
    """A folder for each kind of model."""
    folder = tmp_path_factory.mktemp("whole")
    tiny.diffusion(folder / "sd1", "sd1")
    tiny.llm(folder / "llm", "Llama")
    for name in ("blip", "clip"):
        shutil.copytree(models / name, folder / name)
    return folder


def copied(atomic_write: Path, kind: str, to: Path) -> Path:
    return Path(shutil.copytree(atomic_write / kind.partition(" ")[0], to / "model"))


@pytest.mark.parametrize("kind", LOADERS)
def test_weights_that_are_a_pickle_are_refused_even_where_they_are_harmless(atomic_write, tmp_path, kind):
    model = copied(atomic_write, kind, tmp_path)
    for file in sorted(model.rglob("*.safetensors")):
        name = "pytorch_model.bin" if file.name == "model.safetensors" else "diffusion_pytorch_model.bin"
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    with pytest.raises(FileNotFoundError, match="can be loaded .*: name a folder .*; weights are read from safetensors alone") as said:
        LOADERS[kind](str(model))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_charge_beside_the_weights_or_in_their_place_never_goes_off(atomic_write, tmp_path, mark, kind):
    model = copied(atomic_write, kind, tmp_path)
    for file in sorted(model.rglob("*.safetensors")):
        for name in ("pytorch_model.bin", "diffusion_pytorch_model.bin", "training_args.bin", "adapter_model.bin"):
            file.with_name(name).write_bytes(pickle.dumps(Charge(mark)))
    LOADERS[kind](str(model))
    for file in sorted(model.rglob("*.safetensors")):
        file.write_bytes(pickle.dumps(Charge(mark)))
    with pytest.raises(FileNotFoundError, match="can be loaded"):
        LOADERS[kind](str(model))


@pytest.mark.parametrize("known", [True, False], ids=["a known kind", "a kind of its own"])
@pytest.mark.parametrize("kind", ["blip", "clip", "llm"])
def test_code_that_comes_with_a_model_does_not_run_even_where_somebody_would_say_yes(
    atomic_write, tmp_path, mark, monkeypatch, kind, known
):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    model = copied(atomic_write, kind, tmp_path)
    (model / "planted.py").write_text(CODE.format(mark=str(mark)))
    (model / "custom_generate").mkdir()
    (model / "custom_generate/generate.py").write_text(CODE.format(mark=str(mark)))
    for file in model.glob("*config.json"):
        planted = {"auto_map": MAP | {"AutoConfig": "planted.Config"}} | ({} if known else {"model_type": "stranger"})
        file.write_text(json.dumps(json.loads(file.read_text()) | planted))
    try:
        LOADERS[kind](str(model))
    except FileNotFoundError as error:
        assert "no code that comes with a model is run" in str(error)
    else:
        assert known


def test_a_pipeline_of_a_models_own_does_not_run(atomic_write, tmp_path, mark):
    for key, value in (("_class_name", ["planted", "Model"]), ("unet", ["planted", "Model"])):
        model = copied(atomic_write, "sd1", tmp_path / key)
        for place in (model, model / "unet"):
            (place / "planted.py").write_text(CODE.format(mark=str(mark)))
        index = json.loads((model / "model_index.json").read_text())
        (model / "model_index.json").write_text(json.dumps(index | {key: value}))
        with pytest.raises(FileNotFoundError, match="models.diffusion .* no pipeline can be loaded"):
            diffusion.load_pipeline(str(model))


def test_an_adapter_is_two_files_and_no_other_is_opened(tmp_path, mark):
    SURAdapter(AdapterConfig(width=8, heads=2)).save_pretrained(tmp_path / "adapter")
    for name in ("pytorch_model.bin", "adapter.pt", "optimizer.pt"):
        (tmp_path / "adapter" / name).write_bytes(pickle.dumps(Charge(mark)))
    SURAdapter.from_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter/model.safetensors").write_bytes(pickle.dumps(Charge(mark)))
    with pytest.raises(ValueError, match="model.safetensors does not hold the weights"):
        SURAdapter.from_pretrained(tmp_path / "adapter")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_a_training_that_was_put_there_by_another_runs_nothing(tmp_path, own_work, mark, zipped):
    buffer = BytesIO()
    torch.save({"step": 1, "parts": {}, "history": Charge(mark)}, buffer, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError), WorkCache("train", seed=0) as work:
        work.set(KEY, sha256(buffer.getvalue()).digest() + buffer.getvalue())  # whoever can write there can seal it, too
        resume(work, {})


def test_a_pickle_in_a_tar_is_bytes_to_us_and_refused_by_whoever_reads_webdataset_beside_us(tmp_path, mark):
    file = tmp_path / "images-000000.tar"
    write_tar(file, [("a", kind, pickle.dumps(Charge(mark))) for kind in ("pyd", "pickle", "pth")])
    assert [ext for _, ext, _ in read_tar(file)] == ["pyd", "pickle", "pth"]
    code = f"""
from pathlib import Path
from sur_adapter.io.shards import write_tar
write_tar(Path({str(tmp_path / "other.tar")!r}), [])
import webdataset
for sample in webdataset.WebDataset({str(file)!r}, shardshuffle=False).decode(): pass"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "enforce_security" in done.stderr


def planted_parquet(file: Path, mark: Path, **columns) -> Path:
    """Columns of objects: pickles as bytes, and as what Arrow once unpickled to learn an extension type; pandas is told of them, too."""
    charge = pickle.dumps(Charge(mark))
    told = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": charge}
    table = pa.table({name: pa.array(values) for name, values in columns.items()} | {"object": pa.array([charge] * 2)})
    table = table.append_column(pa.field("extension", pa.binary(), metadata=told), pa.array([charge] * 2))
    about = {"pandas_type": "object", "numpy_type": "object", "metadata": {"encoding": "pickle"}}
    pandas = {"index_columns": [], "columns": [{"name": n, "field_name": n} | about for n in table.column_names], "pandas_version": "3"}
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas), "manifest": charge}), file)
    return file


def test_objects_in_a_table_stay_bytes_whoever_reads_it(tmp_path, mark):
    words = {"file_name": ["a.png", "b.png"], "prompt": ["a", "b"], "url": ["http://a/", "http://b/"]}
    file = planted_parquet(tmp_path / "pictures/metadata.parquet", mark, **words)
    read_table(file)
    (file.parent / "a.png").write_bytes(b"no picture")
    assert [row["complex_prompt"] for row in folders.rows(folders.Config(str(file.parent)))] == ["a", "b"]
    assert urls.column_names(file) and [len(batch) for batch in urls.batches(file, ["url", "object", "extension"])] == [2]
    with pytest.raises(ValueError, match="cut short or broken"):
        FeatureStore(file.parent)


def test_numbers_of_a_world_that_are_objects_are_refused(tmp_path, mark):
    np.save(tmp_path / "images.npy", np.array([Charge(mark)], object), allow_pickle=True)
    (tmp_path / "scenes.jsonl").write_text("")
    with pytest.raises(ValueError, match="allow_pickle|Array can't be memory-mapped"):
        World(tmp_path)

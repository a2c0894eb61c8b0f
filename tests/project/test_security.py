"""No untrusted code runs: dangerous calls in the code are listed, and harmful pickles are planted wherever files are read."""

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
from sur_adapter.models import stable_diffusion
from sur_adapter.models.captioner import CaptionConfig, Captioner
from sur_adapter.models.clip import CLIPEncoder
from sur_adapter.models.llm import LanguageModel, LLMConfig
from sur_adapter.training.checkpoint import KEY, load_checkpoint

FOLDERS = ("sur_adapter", "stages", "miniature", "integrations", "experiments")
MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "xml", "torch.hub"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "mktemp", "extractall", "read_pickle", "unsafe_load"}
WITHOUT_WEIGHTS = ("Config", "Tokenizer", "Processor")  # classes that load no weights


def dangerous_lines(code: str) -> list[str]:
    """Places where the content of a file could become code, or where a check is switched off."""
    result, tree = [], ast.parse(code)
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and "SAFETENSORS_ONLY" in ast.unparse(node.value)]
    safe = {name.id for node in assigned for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            result += [a.name for a in node.names if {a.name, a.name.partition(".")[0]} & MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {node.module, node.module.partition(".")[0], *(f"{node.module}.{a.name}" for a in node.names)}
            result += [node.module] if names & MODULES else []
        elif isinstance(node, ast.Call) and _dangerous(node, safe):
            result.append(f"line {node.lineno}: {ast.unparse(node)[:80]}")
    return result


def _dangerous(call: ast.Call, safe: set[str]) -> bool:
    """safe: variables that hold SAFETENSORS_ONLY and more."""
    function = ast.unparse(call.func)
    owner, _, name = function.rpartition(".")
    options = {k.arg: k.value.value if isinstance(k.value, ast.Constant) else ast.unparse(k.value) for k in call.keywords if k.arg}
    spread = {ast.unparse(k.value) for k in call.keywords if k.arg is None}
    if name == "from_pretrained" and owner not in ("SURAdapter", "super()"):
        safe = safe | {"SAFETENSORS_ONLY"} | ({"NO_REMOTE_CODE"} if any(word in owner for word in WITHOUT_WEIGHTS) else set())
        return not spread & safe and options.get("use_safetensors") is not True
    return (
        function in CALLS
        or (name in CALLS and name not in ("eval", "exec", "compile"))  # methods of a module, a session, an expression
        or (function == "torch.load" and options.get("weights_only") is not True)
        or (name == "YAML" and options.get("typ") != "safe")
        or any(options.get(key, False) is not False for key in ("allow_pickle", "trust_remote_code", "shell"))
        or any(options.get(key, True) is not True for key in ("verify", "ssl"))
    )


OWN_PICKLES = {"sur_adapter/executors/processes.py"}  # pickles between a stage and its own worker processes
OWN_MODELS = ("miniature", "experiments")  # load models from this repository or their own


def test_the_project_has_no_code_that_trusts_what_it_reads():
    files = run(ROOT, "git", "ls-files", "-co", "--exclude-standard", *(f"{folder}/*.py" for folder in FOLDERS)).splitlines()
    places = {file: dangerous_lines((ROOT / file).read_text(encoding="utf-8")) for file in files if (ROOT / file).exists()}
    others = {f: [p for p in lines if not (f.startswith(OWN_MODELS) and "from_pretrained" in p)] for f, lines in places.items()}
    assert len(places) > 100 and {file: lines for file, lines in others.items() if lines} == {file: ["pickle"] for file in OWN_PICKLES}


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
        "AutoModel.from_pretrained(model, **NO_REMOTE_CODE)",
        "AutoTokenizer.from_pretrained(model)",
        "AutoConfig.from_pretrained(model, trust_remote_code=True)",
    ],
)
def test_a_dangerous_line_is_found(line):
    assert dangerous_lines(f"def f():\n    {line}") and not dangerous_lines(
        "model.eval(); torch.load(file, weights_only=True); re.compile(text)"
    )


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.fixture
def mark(tmp_path):
    """The file that a payload creates; it must not exist at the end, although the payload works."""
    file = tmp_path / "executed"
    yield file
    assert not file.exists()
    pickle.loads(pickle.dumps(Payload(file))).close()
    assert file.exists()


CODE = "import pathlib\npathlib.Path({mark!r}).touch()\nclass Config: pass\nclass Model: pass\ndef generate(*a, **k): pass\n"
MAP = dict.fromkeys(("AutoModel", "AutoModelForImageTextToText", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor"), "planted.Model")
LOADERS = {
    "blip": lambda model: Captioner(CaptionConfig(model)),
    "clip": lambda model: CLIPEncoder(model, "scores.clip.model"),
    "llm": lambda model: LanguageModel(model, LLMConfig(layers=(1,))),
    "sd1": stable_diffusion.load_pipeline,
    "sd1 text encoder": stable_diffusion.TextEncoders,
}


@pytest.fixture(scope="module")
def base_models(models, tmp_path_factory):
    """One folder per kind of model."""
    folder = tmp_path_factory.mktemp("models")
    tiny.diffusion(folder / "sd1", "sd1")
    tiny.llm(folder / "llm", "Llama")
    for name in ("blip", "clip"):
        shutil.copytree(models / name, folder / name)
    return folder


def copy_of(base_models: Path, kind: str, to: Path) -> Path:
    return Path(shutil.copytree(base_models / kind.partition(" ")[0], to / "model"))


@pytest.mark.parametrize("kind", LOADERS)
def test_weights_in_a_pickle_are_refused_even_if_harmless(base_models, tmp_path, kind):
    model = copy_of(base_models, kind, tmp_path)
    for file in sorted(model.rglob("*.safetensors")):
        name = "pytorch_model.bin" if file.name == "model.safetensors" else "diffusion_pytorch_model.bin"
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    with pytest.raises(FileNotFoundError, match="can be loaded .*: name a folder .*; weights are read from safetensors alone") as error:
        LOADERS[kind](str(model))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_pickle_beside_the_weights_or_instead_of_them_is_never_loaded(base_models, tmp_path, mark, kind):
    model = copy_of(base_models, kind, tmp_path)
    for file in sorted(model.rglob("*.safetensors")):
        for name in ("pytorch_model.bin", "diffusion_pytorch_model.bin", "training_args.bin", "adapter_model.bin"):
            file.with_name(name).write_bytes(pickle.dumps(Payload(mark)))
    LOADERS[kind](str(model))
    for file in sorted(model.rglob("*.safetensors")):
        file.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(FileNotFoundError, match="can be loaded"):
        LOADERS[kind](str(model))


@pytest.mark.parametrize("known", [True, False], ids=["known model type", "unknown model type"])
@pytest.mark.parametrize("kind", ["blip", "clip", "llm"])
def test_code_that_comes_with_a_model_does_not_run_even_if_the_user_would_agree(base_models, tmp_path, mark, monkeypatch, kind, known):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    model = copy_of(base_models, kind, tmp_path)
    (model / "planted.py").write_text(CODE.format(mark=str(mark)))
    (model / "custom_generate").mkdir()
    (model / "custom_generate/generate.py").write_text(CODE.format(mark=str(mark)))
    for file in model.glob("*config.json"):
        planted = {"auto_map": MAP | {"AutoConfig": "planted.Config"}} | ({} if known else {"model_type": "unknown"})
        file.write_text(json.dumps(json.loads(file.read_text()) | planted))
    try:
        LOADERS[kind](str(model))
    except FileNotFoundError as error:
        assert "no code that comes with a model is run" in str(error)
    else:
        assert known


def test_a_pipeline_class_that_comes_with_a_model_does_not_run(base_models, tmp_path, mark):
    for key, value in (("_class_name", ["planted", "Model"]), ("unet", ["planted", "Model"])):
        model = copy_of(base_models, "sd1", tmp_path / key)
        for place in (model, model / "unet"):
            (place / "planted.py").write_text(CODE.format(mark=str(mark)))
        index = json.loads((model / "model_index.json").read_text())
        (model / "model_index.json").write_text(json.dumps(index | {key: value}))
        with pytest.raises(FileNotFoundError, match="models.diffusion .* no pipeline can be loaded"):
            stable_diffusion.load_pipeline(str(model))


def test_only_two_files_of_an_adapter_are_opened(tmp_path, mark):
    SURAdapter(AdapterConfig(width=8, heads=2)).save_pretrained(tmp_path / "adapter")
    for name in ("pytorch_model.bin", "adapter.pt", "optimizer.pt"):
        (tmp_path / "adapter" / name).write_bytes(pickle.dumps(Payload(mark)))
    SURAdapter.from_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter/model.safetensors").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(ValueError, match="model.safetensors does not hold the weights"):
        SURAdapter.from_pretrained(tmp_path / "adapter")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_planted_training_checkpoint_runs_no_code(tmp_path, own_work, mark, zipped):
    buffer = BytesIO()
    torch.save({"step": 1, "stateful": {}, "history": Payload(mark)}, buffer, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError), WorkCache("train", seed=0) as work:
        work.set(KEY, sha256(buffer.getvalue()).digest() + buffer.getvalue())  # an attacker can write a valid checksum
        load_checkpoint(work, {})


def test_a_pickle_in_a_tar_is_read_as_bytes_and_refused_by_webdataset(tmp_path, mark):
    file = tmp_path / "images-000000.tar"
    write_tar(file, [("a", kind, pickle.dumps(Payload(mark))) for kind in ("pyd", "pickle", "pth")])
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
    """Pickles in columns, in Arrow's metadata of an extension type, and in the metadata for pandas."""
    payload = pickle.dumps(Payload(mark))
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": payload}
    table = pa.table({name: pa.array(values) for name, values in columns.items()} | {"object": pa.array([payload] * 2)})
    table = table.append_column(pa.field("extension", pa.binary(), metadata=metadata), pa.array([payload] * 2))
    about = {"pandas_type": "object", "numpy_type": "object", "metadata": {"encoding": "pickle"}}
    pandas = {"index_columns": [], "columns": [{"name": n, "field_name": n} | about for n in table.column_names], "pandas_version": "3"}
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas), "manifest": payload}), file)
    return file


def test_objects_in_a_table_stay_bytes_in_every_reader(tmp_path, mark):
    texts = {"file_name": ["a.png", "b.png"], "prompt": ["a", "b"], "url": ["http://a/", "http://b/"]}
    file = planted_parquet(tmp_path / "images/metadata.parquet", mark, **texts)
    read_table(file)
    (file.parent / "a.png").write_bytes(b"no image")
    assert [row["complex_prompt"] for row in folders.rows(folders.Config(str(file.parent)))] == ["a", "b"]
    assert urls.column_names(file) and [len(batch) for batch in urls.batches(file, ["url", "object", "extension"])] == [2]
    file.rename(file.with_name("train-000000.parquet"))
    with pytest.raises(ValueError, match="cut short or broken"):
        FeatureStore(file.parent)


def test_an_object_array_of_the_miniature_is_refused(tmp_path, mark):
    np.save(tmp_path / "images.npy", np.array([Payload(mark)], object), allow_pickle=True)
    (tmp_path / "scenes.jsonl").write_text("")
    with pytest.raises(ValueError, match="allow_pickle|Array can't be memory-mapped"):
        World(tmp_path)

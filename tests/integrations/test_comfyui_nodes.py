"""The nodes for ComfyUI, loaded and called as ComfyUI does, and every link of the example workflows."""

import importlib.util
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers.repository import ROOT
from helpers.tiny_pipelines import LENGTH, PIPELINES, make_adapter

import sur_adapter
from sur_adapter import SURAdapter, attach
from sur_adapter.adapter.config import AdapterConfig

NODES = ROOT / "integrations/comfyui"
CORE = {  # ComfyUI nodes in the workflows: (inputs in order, output types)
    "CheckpointLoaderSimple": ({"ckpt_name": "COMBO"}, ["MODEL", "CLIP", "VAE"]),
    "CLIPTextEncode": ({"text": "STRING", "clip": "CLIP"}, ["CONDITIONING"]),
    "EmptyLatentImage": ({"width": "INT", "height": "INT", "batch_size": "INT"}, ["LATENT"]),
    "KSampler": (
        {"model": "MODEL", "seed": "INT", "steps": "INT", "cfg": "FLOAT", "sampler_name": "COMBO", "scheduler": "COMBO"}
        | {"positive": "CONDITIONING", "negative": "CONDITIONING", "latent_image": "LATENT", "denoise": "FLOAT"},
        ["LATENT"],
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ["IMAGE"]),
    "SaveImage": ({"images": "IMAGE", "filename_prefix": "STRING"}, []),
}
WIDGETS = {"INT": int, "FLOAT": (int, float), "STRING": str, "COMBO": str}


def folder_paths(models: Path) -> ModuleType:
    """Returns a stand-in for ComfyUI's module folder_paths with the functions that the nodes call."""
    module, known = ModuleType("folder_paths"), {}
    module.models_dir = str(models)
    module.add_model_folder_path = lambda kind, folder, is_default=False: known.setdefault(kind, []).append(folder)
    module.get_folder_paths = lambda kind: known[kind][:]
    return module


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    """The package of nodes, loaded from its path as ComfyUI loads a folder of custom_nodes."""
    monkeypatch.setitem(sys.modules, "folder_paths", folder_paths(tmp_path / "models"))
    spec = importlib.util.spec_from_file_location("custom_nodes_sur", NODES / "__init__.py")
    package = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, package)
    spec.loader.exec_module(package)
    yield package
    sys.modules.pop("custom_nodes_sur.nodes")


def random_adapter(width: int = 32, pooled_width: int = 0, seed: int = 0) -> SURAdapter:
    torch.manual_seed(seed)
    made = SURAdapter(AdapterConfig(width, depth=1, heads=2, pooled_width=pooled_width, about={"base_model": "tiny/base"}))
    for weights in made.parameters():
        weights.data.add_(0.1 * torch.randn_like(weights))
    return made.eval()


def apply(nodes, conditioning, adapter, strength=1.0):
    node = nodes.NODE_CLASS_MAPPINGS["SURAdapterApply"]
    (result,) = getattr(node(), node.FUNCTION)(conditioning=conditioning, adapter=adapter, strength=strength)
    return result


def declared(cls) -> tuple[dict, list]:
    """Returns inputs and output types of one of our nodes, in the form of CORE."""
    groups = cls.INPUT_TYPES()
    fields = groups["required"] | groups.get("optional", {})
    return {name: "COMBO" if isinstance(kind, list) else kind for name, (kind, *_) in fields.items()}, list(cls.RETURN_TYPES)


def test_every_node_has_the_interface_of_comfyui(nodes):
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys() and len(nodes.NODE_CLASS_MAPPINGS) == 2
    for name, cls in nodes.NODE_CLASS_MAPPINGS.items():
        groups = cls.INPUT_TYPES()
        assert set(groups) <= {"required", "optional", "hidden"} and "required" in groups
        inputs = inspect.signature(getattr(cls, cls.FUNCTION)).parameters
        assert list(inputs)[1:] == [*groups["required"], *groups.get("optional", {})], name
        optional = [p for p, v in inputs.items() if v.default is not inspect.Parameter.empty]
        assert optional == [*groups.get("optional", {})], "an optional input has a default"
        assert isinstance(cls.RETURN_TYPES, tuple) and all(isinstance(kind, str) for kind in cls.RETURN_TYPES)
        assert len(getattr(cls, "RETURN_NAMES", cls.RETURN_TYPES)) == len(cls.RETURN_TYPES)
        assert cls.CATEGORY.startswith("conditioning/") and len(cls.DESCRIPTION) > 20


@pytest.mark.parametrize("own", [0.1, 1.0])
def test_the_default_strength_is_that_of_the_adapter(nodes, own):
    kind, options = nodes.NODE_CLASS_MAPPINGS["SURAdapterApply"].INPUT_TYPES()["required"]["strength"]
    assert kind == "FLOAT" and options["min"] == options["default"] < 0 and options["max"] == 2
    assert 0 < options["round"] <= options["step"] < 0.1, "the published strength 0.1 can be set"
    adapter, x = random_adapter(), torch.randn(1, 77, 32)
    adapter.config.strength = own
    ((adapted, _),) = apply(nodes, [[x, {}]], adapter, options["default"])
    torch.testing.assert_close(adapted, adapter(x, own), rtol=0, atol=1e-5)
    assert (adapted - x).abs().max() > 1e-3


def test_an_adapter_is_found_through_links(nodes, tmp_path):
    loader = nodes.NODE_CLASS_MAPPINGS["SURAdapterLoader"]
    names = lambda: loader.INPUT_TYPES()["required"]["adapter"][0]  # noqa: E731
    random_adapter(seed=1).save_pretrained(tmp_path / "disk/first")
    random_adapter(seed=2).save_pretrained(tmp_path / "disk/second")
    home = tmp_path / "models/sur_adapters"
    home.mkdir(parents=True)
    (home / "latest").symlink_to(tmp_path / "disk/second")
    (home / "all").symlink_to(tmp_path / "disk")
    (home / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "disk/loop").symlink_to(home)
    assert {"latest", "all/first", "all/second"} <= set(names())
    (loaded,) = loader().load("latest")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), random_adapter(seed=2).parameters(), strict=True))


def test_adapters_are_loaded_by_folder_name_or_by_path(nodes, tmp_path):
    loader = nodes.NODE_CLASS_MAPPINGS["SURAdapterLoader"]
    names = lambda: loader.INPUT_TYPES()["required"]["adapter"][0]  # noqa: E731
    assert names() == ["(the path below)"], "never empty, since ComfyUI shows no widget for an empty list"
    random_adapter(seed=1).save_pretrained(tmp_path / "models/sur_adapters/sd15")
    random_adapter(seed=2).save_pretrained(tmp_path / "models/sur_adapters/mine/second")
    random_adapter(seed=3).save_pretrained(tmp_path / "elsewhere")
    (tmp_path / "models/sur_adapters/half").mkdir()
    (tmp_path / "models/sur_adapters/half/config.json").write_text("{}")
    assert names() == ["mine/second", "sd15", "(the path below)"]
    for seed, arguments in ((1, ("sd15", "")), (2, ("mine/second", "ignored")), (3, (names()[-1], f" {tmp_path / 'elsewhere'} "))):
        (loaded,) = loader().load(*arguments)
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), random_adapter(seed=seed).parameters(), strict=True))
        assert not loaded.training


def test_a_retrained_adapter_is_loaded_again(nodes, tmp_path):
    loader = nodes.NODE_CLASS_MAPPINGS["SURAdapterLoader"]
    random_adapter().save_pretrained(tmp_path / "models/sur_adapters/sd15")
    before = loader.IS_CHANGED("sd15")
    assert loader.IS_CHANGED("sd15", path="") == before
    random_adapter(seed=1).save_pretrained(tmp_path / "models/sur_adapters/sd15")
    assert loader.IS_CHANGED("sd15") != before


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            ("sd21", ""),
            FileNotFoundError,
            "models/sur_adapters has no adapter 'sd21', only sd15: put the adapter folder into models/sur_adapters",
        ),
        (("../../elsewhere", ""), FileNotFoundError, "models/sur_adapters has no adapter"),
        (("(the path below)", "  "), ValueError, "no adapter is chosen: put the adapter folder into models/sur_adapters"),
        (("(the path below)", __file__), ValueError, "is a file, and an adapter is a folder: convert a checkpoint of the published code"),
        (
            ("(the path below)", "nowhere"),
            FileNotFoundError,
            "nowhere holds no config.json, so it is not an adapter: put the adapter folder into models/sur_adapters",
        ),
    ],
)
def test_an_adapter_that_does_not_exist_is_reported_in_one_sentence(nodes, tmp_path, arguments, error, message):
    random_adapter().save_pretrained(tmp_path / "models/sur_adapters/sd15")
    random_adapter().save_pretrained(tmp_path / "elsewhere")
    with pytest.raises(error, match=message):
        nodes.NODE_CLASS_MAPPINGS["SURAdapterLoader"]().load(*arguments)


@pytest.mark.parametrize("model", PIPELINES)
def test_the_node_gives_the_embeddings_of_attach_in_diffusers(nodes, model, monkeypatch):
    monkeypatch.setattr(sys.modules["custom_nodes_sur.nodes"], "CHUNK", LENGTH)  # the tiny encoders read fewer than 77 tokens
    pipe = PIPELINES[model]()
    adapter = make_adapter(pipe)
    plain = pipe.encode_prompt("three red circles", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    attach(pipe, adapter, 0.7)
    expected = pipe.encode_prompt("three red circles", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    assert not torch.equal(plain[0], expected[0])
    settings = {"pooled_output": plain[2]} if len(plain) == 4 else {}
    ((x, output),) = apply(nodes, [[plain[0], settings]], adapter, 0.7)
    torch.testing.assert_close(x, expected[0], rtol=0, atol=1e-6)
    if len(plain) == 4:
        torch.testing.assert_close(output["pooled_output"], expected[2], rtol=0, atol=1e-6)


def test_a_long_prompt_is_adapted_chunk_by_chunk(nodes):
    adapter, x = random_adapter(), torch.randn(2, 3 * 77, 32)
    ((adapted, _),) = apply(nodes, [[x, {}]], adapter, 0.5)
    for part, alone in zip(adapted.split(77, 1), x.split(77, 1), strict=True):
        torch.testing.assert_close(part, adapter(alone, 0.5), rtol=0, atol=1e-5)
    assert not torch.allclose(adapted, adapter(x, 0.5)), "adapting all 231 tokens at once gives another result"


def test_the_input_does_not_change_and_all_settings_are_returned(nodes):
    adapter = random_adapter(pooled_width=20)
    conditioning = [[torch.randn(1, 77, 32), {"pooled_output": torch.randn(1, 20), "area": (1, 2, 3, 4)}], [torch.randn(1, 77, 32), {}]]
    before = [[x.clone(), {k: v.clone() if torch.is_tensor(v) else v for k, v in settings.items()}] for x, settings in conditioning]
    result = apply(nodes, conditioning, adapter)
    for (x, settings), (old, kept), (new, other) in zip(conditioning, before, result, strict=True):
        assert torch.equal(x, old) and settings.keys() == kept.keys() == other.keys()
        assert not torch.equal(new, x) and other is not settings
    assert torch.equal(conditioning[0][1]["pooled_output"], before[0][1]["pooled_output"])
    assert not torch.equal(result[0][1]["pooled_output"], before[0][1]["pooled_output"]) and result[0][1]["area"] == (1, 2, 3, 4)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_and_device_are_kept(nodes, kind):
    adapter = random_adapter(pooled_width=20)
    ((x, settings),) = apply(nodes, [[torch.randn(1, 77, 32, dtype=kind), {"pooled_output": torch.randn(1, 20)}]], adapter)
    assert x.dtype == kind and x.device.type == "cpu" and not x.requires_grad
    assert settings["pooled_output"].dtype == torch.float32 and next(adapter.parameters()).dtype == torch.float32


def test_at_strength_0_the_conditioning_is_unchanged_bit_for_bit(nodes):
    x, pooled = torch.randn(1, 77, 32), torch.randn(1, 20)
    ((adapted, settings),) = apply(nodes, [[x, {"pooled_output": pooled}]], random_adapter(pooled_width=20), 0.0)
    assert torch.equal(adapted, x) and torch.equal(settings["pooled_output"], pooled)


def test_an_adapter_without_pooled_width_keeps_the_pooled_vector(nodes):
    pooled = torch.randn(1, 20)
    ((_, settings),) = apply(nodes, [[torch.randn(1, 77, 32), {"pooled_output": pooled}]], random_adapter())
    assert settings["pooled_output"] is pooled
    ((_, settings),) = apply(nodes, [[torch.randn(1, 77, 32), {"pooled_output": None}]], random_adapter(pooled_width=20))
    assert settings["pooled_output"] is None
    assert apply(nodes, [], random_adapter()) == []


@pytest.mark.parametrize(
    "x, settings, strength, message",
    [
        (
            torch.zeros(1, 77, 48),
            {},
            1.0,
            "text features of width 32, but this conditioning has width 48: choose tiny/base in Load Checkpoint",
        ),
        (torch.zeros(1, 77, 48), {}, 0.0, "text features of width 32"),
        (
            torch.zeros(1, 77, 32),
            {"pooled_output": torch.zeros(1, 24)},
            1.0,
            "vector of width 20, but this conditioning has width 24",
        ),
        (torch.zeros(1, 80, 32), {}, 1.0, "the conditioning has 80 tokens, not a multiple of 77"),
        (torch.zeros(1, 77, 32), {}, float("nan"), "strength is nan"),
    ],
)
def test_a_conditioning_of_another_shape_or_an_invalid_strength_is_reported_in_one_sentence(nodes, x, settings, strength, message):
    with pytest.raises(ValueError, match=message):
        apply(nodes, [[x, settings]], random_adapter(pooled_width=20), strength)


def test_the_nodes_import_neither_diffusers_nor_transformers(tmp_path):
    random_adapter().save_pretrained(tmp_path / "sur_adapters/sd15")
    code = f"""
import importlib.util, sys, types
sys.modules |= dict.fromkeys(("diffusers", "transformers", "pandas", "gradio"))
sys.path.insert(0, {str(ROOT)!r})
stub = sys.modules["folder_paths"] = types.ModuleType("folder_paths")
stub.models_dir, stub.add_model_folder_path, stub.get_folder_paths = {str(tmp_path)!r}, lambda *a: None, lambda kind: [{str(tmp_path)!r}]
spec = importlib.util.spec_from_file_location("custom", {str(NODES / "__init__.py")!r})
package = sys.modules["custom"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
(adapter,) = package.NODE_CLASS_MAPPINGS["SURAdapterLoader"]().load("sur_adapters/sd15")
import torch
((x, _),), = package.NODE_CLASS_MAPPINGS["SURAdapterApply"]().apply([[torch.randn(1, 77, 32), {{}}]], adapter, 1.0)
print(tuple(x.shape))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "(1, 77, 32)"


def graph(nodes) -> tuple[dict, dict]:
    """Returns the workflow in ComfyUI's API format, and (inputs, output types) of every node class."""
    known = CORE | {name: declared(cls) for name, cls in nodes.NODE_CLASS_MAPPINGS.items()}
    return json.loads((NODES / "workflow_api.json").read_text()), known


def test_every_link_of_the_example_connects_equal_types(nodes):
    workflow, known = graph(nodes)
    for name, node in workflow.items():
        inputs, _ = known[node["class_type"]]
        assert node["inputs"].keys() == inputs.keys(), (name, "exactly the declared inputs")
        for field, value in node["inputs"].items():
            if isinstance(value, list):
                source, slot = value
                assert known[workflow[source]["class_type"]][1][slot] == inputs[field], (name, field)
            else:
                assert isinstance(value, WIDGETS[inputs[field]]), (name, field)


def test_the_example_adapts_only_the_positive_prompt(nodes):
    workflow, _ = graph(nodes)
    (sampler,) = (node for node in workflow.values() if node["class_type"] == "KSampler")
    positive, negative = (workflow[sampler["inputs"][side][0]] for side in ("positive", "negative"))
    assert positive["class_type"] == "SURAdapterApply" and negative["class_type"] == "CLIPTextEncode"
    _, options = nodes.NODE_CLASS_MAPPINGS["SURAdapterApply"].INPUT_TYPES()["required"]["strength"]
    assert options["min"] <= positive["inputs"]["strength"] <= options["max"]


def test_both_files_of_the_example_are_the_same_graph(nodes):
    """workflow.json, the format of the user interface, has the nodes, links and values of workflow_api.json."""
    api_graph, known = graph(nodes)
    ui_graph = json.loads((NODES / "workflow.json").read_text())
    links = {link[0]: link for link in ui_graph["links"]}
    assert (
        len(links) == len(ui_graph["links"]) == ui_graph["last_link_id"]
        and max(node["id"] for node in ui_graph["nodes"]) == ui_graph["last_node_id"]
    )
    converted = {}
    for node in ui_graph["nodes"]:
        inputs, outputs = known[node["type"]]
        values = [value for value in node["widgets_values"] if value != "fixed"]  # control_after_generate
        widgets = dict(zip((name for name, kind in inputs.items() if kind in WIDGETS), values, strict=True))
        joined = {}
        for slot, entry in enumerate(node["inputs"]):
            number, source, out, target, place, kind = links[entry["link"]]
            assert (target, place, kind) == (node["id"], slot, entry["type"]) and inputs[entry["name"]] == kind
            joined[entry["name"]] = [str(source), out]
        assert [out["type"] for out in node["outputs"]] == outputs
        for slot, out in enumerate(node["outputs"]):
            assert sorted(out["links"]) == sorted(n for n, source, place, *_ in links.values() if (source, place) == (node["id"], slot))
        converted[str(node["id"])] = {"class_type": node["type"], "inputs": widgets | joined}
    assert converted == {name: {k: v for k, v in node.items() if k != "_meta"} for name, node in api_graph.items()}


def test_the_package_of_the_nodes_has_the_fields_of_the_comfyui_registry():
    file = tomllib.loads((NODES / "pyproject.toml").read_text())
    project, comfy = file["project"], file["tool"]["comfy"]
    assert re.fullmatch(r"[A-Za-z][\w.-]{0,98}", project["name"]) and "comfyui" not in project["name"].lower()
    assert project["version"] == sur_adapter.__version__ and project["license"] == {"text": "Apache-2.0"} and project["description"]
    assert {"Repository", "Documentation"} <= project["urls"].keys() and {"PublisherId", "DisplayName", "Icon"} <= comfy.keys()

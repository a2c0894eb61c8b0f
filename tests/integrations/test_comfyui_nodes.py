"""The nodes for ComfyUI, as ComfyUI would load, show and call them; and the example workflows, link by link."""

import importlib.util
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers.repository import ROOT
from helpers.tiny_pipelines import LENGTH, PIPELINES, make_adapter

from sur_adapter import SURAdapter, attach
from sur_adapter.adapter.config import AdapterConfig

NODES = ROOT / "integrations/comfyui"
CORE = {  # of ComfyUI's nodes.py, those that the workflows use: widgets and links in their order, and what comes out
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


def comfyui(models: Path) -> ModuleType:
    """The part of ComfyUI's module of folders that the nodes ask: models_dir, and folders by kind."""
    module, known = ModuleType("folder_paths"), {}
    module.models_dir = str(models)
    module.add_model_folder_path = lambda kind, folder, is_default=False: known.setdefault(kind, []).append(folder)
    module.get_folder_paths = lambda kind: known[kind][:]
    return module


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    """The package, loaded as ComfyUI loads a folder of custom_nodes: by its path, under a name of its own."""
    monkeypatch.setitem(sys.modules, "folder_paths", comfyui(tmp_path / "models"))
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
    (found,) = getattr(node(), node.FUNCTION)(conditioning=conditioning, adapter=adapter, strength=strength)
    return found


def declared(cls) -> tuple[dict, list]:
    """As CORE: what a node of ours takes, and what comes out."""
    groups = cls.INPUT_TYPES()
    fields = groups["required"] | groups.get("optional", {})
    return {name: "COMBO" if isinstance(kind, list) else kind for name, (kind, *_) in fields.items()}, list(cls.RETURN_TYPES)


def test_every_node_has_the_interface_of_comfyui(nodes):
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys() and len(nodes.NODE_CLASS_MAPPINGS) == 2
    for name, cls in nodes.NODE_CLASS_MAPPINGS.items():
        groups = cls.INPUT_TYPES()
        assert set(groups) <= {"required", "optional", "hidden"} and "required" in groups
        takes = inspect.signature(getattr(cls, cls.FUNCTION)).parameters
        assert list(takes)[1:] == [*groups["required"], *groups.get("optional", {})], name
        optional = [p for p, v in takes.items() if v.default is not inspect.Parameter.empty]
        assert optional == [*groups.get("optional", {})], "what may be left out has a default"
        assert isinstance(cls.RETURN_TYPES, tuple) and all(isinstance(kind, str) for kind in cls.RETURN_TYPES)
        assert len(getattr(cls, "RETURN_NAMES", cls.RETURN_TYPES)) == len(cls.RETURN_TYPES)
        assert cls.CATEGORY.startswith("conditioning/") and len(cls.DESCRIPTION) > 20


def test_the_default_strength_is_within_its_range(nodes):
    kind, options = nodes.NODE_CLASS_MAPPINGS["SURAdapterApply"].INPUT_TYPES()["required"]["strength"]
    assert kind == "FLOAT" and options["min"] == 0 < options["default"] == 1 < options["max"]
    assert 0 < options["round"] <= options["step"] < 0.1, "0.1, as published, can be set"


def test_adapters_are_loaded_by_folder_name_or_by_path(nodes, tmp_path):
    loader = nodes.NODE_CLASS_MAPPINGS["SURAdapterLoader"]
    names = lambda: loader.INPUT_TYPES()["required"]["adapter"][0]  # noqa: E731
    assert names() == ["(the path below)"], "the list is never empty: ComfyUI would show no choice at all"
    random_adapter(seed=1).save_pretrained(tmp_path / "models/sur_adapters/sd15")
    random_adapter(seed=2).save_pretrained(tmp_path / "models/sur_adapters/mine/second")
    random_adapter(seed=3).save_pretrained(tmp_path / "elsewhere")
    (tmp_path / "models/sur_adapters/half").mkdir()
    (tmp_path / "models/sur_adapters/half/config.json").write_text("{}")
    assert names() == ["mine/second", "sd15", "(the path below)"]
    for seed, given in ((1, ("sd15", "")), (2, ("mine/second", "ignored")), (3, (names()[-1], f" {tmp_path / 'elsewhere'} "))):
        (found,) = loader().load(*given)
        assert all(torch.equal(a, b) for a, b in zip(found.parameters(), random_adapter(seed=seed).parameters(), strict=True))
        assert not found.training


def test_a_retrained_adapter_is_loaded_again(nodes, tmp_path):
    loader = nodes.NODE_CLASS_MAPPINGS["SURAdapterLoader"]
    random_adapter().save_pretrained(tmp_path / "models/sur_adapters/sd15")
    before = loader.IS_CHANGED("sd15")
    assert loader.IS_CHANGED("sd15", path="") == before
    random_adapter(seed=1).save_pretrained(tmp_path / "models/sur_adapters/sd15")
    assert loader.IS_CHANGED("sd15") != before


@pytest.mark.parametrize(
    "given, error, said",
    [
        (
            ("sd21", ""),
            FileNotFoundError,
            "models/sur_adapters has no adapter 'sd21', only sd15: put its folder there, or give a path",
        ),
        (("../../elsewhere", ""), FileNotFoundError, "models/sur_adapters has no adapter"),
        (("(the path below)", "  "), ValueError, "no adapter is chosen: choose one of models/sur_adapters"),
        (("(the path below)", "nowhere"), FileNotFoundError, "nowhere holds no config.json"),
    ],
)
def test_an_adapter_that_does_not_exist_is_one_sentence(nodes, tmp_path, given, error, said):
    random_adapter().save_pretrained(tmp_path / "models/sur_adapters/sd15")
    random_adapter().save_pretrained(tmp_path / "elsewhere")
    with pytest.raises(error, match=said):
        nodes.NODE_CLASS_MAPPINGS["SURAdapterLoader"]().load(*given)


@pytest.mark.parametrize("model", PIPELINES)
def test_the_node_gives_the_embeddings_of_attach_in_diffusers(nodes, model, monkeypatch):
    monkeypatch.setattr(sys.modules["custom_nodes_sur.nodes"], "CHUNK", LENGTH)  # the tiny encoders read no 77 tokens
    pipe = PIPELINES[model]()
    adapter = make_adapter(pipe)
    plain = pipe.encode_prompt("three red circles", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    attach(pipe, adapter, 0.7)
    asked = pipe.encode_prompt("three red circles", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    assert not torch.equal(plain[0], asked[0])
    settings = {"pooled_output": plain[2]} if len(plain) == 4 else {}
    ((x, found),) = apply(nodes, [[plain[0], settings]], adapter, 0.7)
    torch.testing.assert_close(x, asked[0], rtol=0, atol=1e-6)
    if len(plain) == 4:
        torch.testing.assert_close(found["pooled_output"], asked[2], rtol=0, atol=1e-6)


def test_a_long_prompt_is_adapted_chunk_by_chunk(nodes):
    adapter, x = random_adapter(), torch.randn(2, 3 * 77, 32)
    ((adapted, _),) = apply(nodes, [[x, {}]], adapter, 0.5)
    for part, alone in zip(adapted.split(77, 1), x.split(77, 1), strict=True):
        torch.testing.assert_close(part, adapter(alone, 0.5), rtol=0, atol=1e-5)
    assert not torch.allclose(adapted, adapter(x, 0.5)), "one prompt of 231 tokens would be another thing"


def test_the_input_does_not_change_and_all_settings_are_returned(nodes):
    adapter = random_adapter(pooled_width=20)
    given = [[torch.randn(1, 77, 32), {"pooled_output": torch.randn(1, 20), "area": (1, 2, 3, 4)}], [torch.randn(1, 77, 32), {}]]
    before = [[x.clone(), {k: v.clone() if torch.is_tensor(v) else v for k, v in settings.items()}] for x, settings in given]
    found = apply(nodes, given, adapter)
    for (x, settings), (old, kept), (new, other) in zip(given, before, found, strict=True):
        assert torch.equal(x, old) and settings.keys() == kept.keys() == other.keys()
        assert not torch.equal(new, x) and other is not settings
    assert torch.equal(given[0][1]["pooled_output"], before[0][1]["pooled_output"])
    assert not torch.equal(found[0][1]["pooled_output"], before[0][1]["pooled_output"]) and found[0][1]["area"] == (1, 2, 3, 4)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_and_device_are_kept(nodes, kind):
    adapter = random_adapter(pooled_width=20)
    ((x, settings),) = apply(nodes, [[torch.randn(1, 77, 32, dtype=kind), {"pooled_output": torch.randn(1, 20)}]], adapter)
    assert x.dtype == kind and x.device.type == "cpu" and not x.requires_grad
    assert settings["pooled_output"].dtype == torch.float32 and next(adapter.parameters()).dtype == torch.float32


def test_strength_0_is_the_base_model_bit_for_bit(nodes):
    x, pooled = torch.randn(1, 77, 32), torch.randn(1, 20)
    ((found, settings),) = apply(nodes, [[x, {"pooled_output": pooled}]], random_adapter(pooled_width=20), 0.0)
    assert torch.equal(found, x) and torch.equal(settings["pooled_output"], pooled)


def test_an_adapter_without_pooled_width_keeps_the_pooled_vector(nodes):
    pooled = torch.randn(1, 20)
    ((_, settings),) = apply(nodes, [[torch.randn(1, 77, 32), {"pooled_output": pooled}]], random_adapter())
    assert settings["pooled_output"] is pooled
    ((_, settings),) = apply(nodes, [[torch.randn(1, 77, 32), {"pooled_output": None}]], random_adapter(pooled_width=20))
    assert settings["pooled_output"] is None
    assert apply(nodes, [], random_adapter()) == []


@pytest.mark.parametrize(
    "x, settings, strength, said",
    [
        (
            torch.zeros(1, 77, 48),
            {},
            1.0,
            "text features of width 32, but this conditioning has width 48: load tiny/base",
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
def test_a_conditioning_of_another_width_is_one_sentence(nodes, x, settings, strength, said):
    with pytest.raises(ValueError, match=said):
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
    """The workflow in ComfyUI's API format, and what every node in it takes and gives."""
    known = CORE | {name: declared(cls) for name, cls in nodes.NODE_CLASS_MAPPINGS.items()}
    return json.loads((NODES / "workflow_api.json").read_text()), known


def test_every_link_of_the_example_connects_equal_types(nodes):
    workflow, known = graph(nodes)
    for name, node in workflow.items():
        takes, _ = known[node["class_type"]]
        assert node["inputs"].keys() == takes.keys(), (name, "every field is there, and no other")
        for field, value in node["inputs"].items():
            if isinstance(value, list):
                source, slot = value
                assert known[workflow[source]["class_type"]][1][slot] == takes[field], (name, field)
            else:
                assert isinstance(value, WIDGETS[takes[field]]), (name, field)


def test_the_example_adapts_only_the_positive_prompt(nodes):
    workflow, _ = graph(nodes)
    (sampler,) = (node for node in workflow.values() if node["class_type"] == "KSampler")
    positive, negative = (workflow[sampler["inputs"][side][0]] for side in ("positive", "negative"))
    assert positive["class_type"] == "SURAdapterApply" and negative["class_type"] == "CLIPTextEncode"
    _, options = nodes.NODE_CLASS_MAPPINGS["SURAdapterApply"].INPUT_TYPES()["required"]["strength"]
    assert options["min"] <= positive["inputs"]["strength"] <= options["max"]


def test_both_files_of_the_example_are_the_same_graph(nodes):
    """ComfyUI's own format, with places: the same nodes, links and values."""
    sent, known = graph(nodes)
    seen = json.loads((NODES / "workflow.json").read_text())
    links = {link[0]: link for link in seen["links"]}
    assert len(links) == len(seen["links"]) == seen["last_link_id"] and max(node["id"] for node in seen["nodes"]) == seen["last_node_id"]
    found = {}
    for node in seen["nodes"]:
        takes, gives = known[node["type"]]
        values = [value for value in node["widgets_values"] if value != "fixed"]  # what becomes of the seed after a picture
        widgets = dict(zip((name for name, kind in takes.items() if kind in WIDGETS), values, strict=True))
        joined = {}
        for slot, entry in enumerate(node["inputs"]):
            number, source, out, target, place, kind = links[entry["link"]]
            assert (target, place, kind) == (node["id"], slot, entry["type"]) and takes[entry["name"]] == kind
            joined[entry["name"]] = [str(source), out]
        assert [out["type"] for out in node["outputs"]] == gives
        for slot, out in enumerate(node["outputs"]):
            assert sorted(out["links"]) == sorted(n for n, source, place, *_ in links.values() if (source, place) == (node["id"], slot))
        found[str(node["id"])] = {"class_type": node["type"], "inputs": widgets | joined}
    assert found == {name: {k: v for k, v in node.items() if k != "_meta"} for name, node in sent.items()}

"""A real ComfyUI loads the nodes, serves their interface, and runs them. COMFYUI_PATH names its folder, COMFYUI_PYTHON its Python."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from helpers.loopback_hub import free_port
from helpers.repository import ROOT
from safetensors.torch import load_file

from sur_adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig

COMFYUI = os.environ.get("COMFYUI_PATH")
pytestmark = pytest.mark.skipif(not COMFYUI, reason="COMFYUI_PATH names no ComfyUI")
START = 300  # seconds that it may take to start
ENDS = """
import torch
from safetensors.torch import save_file

class Given:
    CATEGORY, FUNCTION, RETURN_TYPES = "testing", "run", ("CONDITIONING",)
    INPUT_TYPES = classmethod(lambda cls: {"required": {"tokens": ("INT", {"default": 77, "min": 1, "max": 1000})}})
    def run(self, tokens):
        return ([[torch.randn(1, tokens, 32, generator=torch.Generator().manual_seed(0)), {}]],)

class Keep:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "testing", "run", (), True
    INPUT_TYPES = classmethod(lambda cls: {"required": {"conditioning": ("CONDITIONING",), "file": ("STRING", {"default": ""})}})
    def run(self, conditioning, file):
        save_file({"x": conditioning[0][0].cpu().contiguous()}, file)
        return {}

NODE_CLASS_MAPPINGS = {"Given": Given, "Keep": Keep}
"""


def ask(url: str, data: dict | None = None) -> dict:
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def adapter() -> SURAdapter:
    torch.manual_seed(0)
    made = SURAdapter(AdapterConfig(32, depth=1, heads=2, strength=0.25))
    for weights in made.parameters():
        weights.data.add_(0.1 * torch.randn_like(weights))
    return made.eval()


@pytest.fixture(scope="module")
def server(adapter, tmp_path_factory):
    """The address of a ComfyUI with folders of its own: our nodes through a link, and two nodes that begin and end a graph."""
    home, port = tmp_path_factory.mktemp("comfyui"), free_port()
    for folder in ("custom_nodes", "input", "output", "temp", "user", "page"):
        (home / folder).mkdir()
    (home / "page/index.html").write_text("")
    (home / "custom_nodes/sur-adapter").symlink_to(ROOT / "integrations/comfyui")
    (home / "custom_nodes/ends.py").write_text(ENDS)
    adapter.save_pretrained(home / "disk/tiny")
    (home / "models/sur_adapters").mkdir(parents=True)
    (home / "models/sur_adapters/tiny").symlink_to(home / "disk/tiny")
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
    command += [
        "--base-directory",
        home,
        "--front-end-root",
        home / "page",
        "--database-url",
        "sqlite:///:memory:",
        "--disable-auto-launch",
    ]
    with (home / "log").open("w") as log:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(list(map(str, command)), cwd=Path(COMFYUI).expanduser(), stdout=log, stderr=log, env=env)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(lambda: ask(f"{address}/system_stats"), process, home / "log")
            yield address
        finally:
            process.terminate()
            process.wait(30)


def wait_for(question, process, log: Path) -> dict:
    """Asks until there is an answer that is not empty."""
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        try:
            if answer := question():
                return answer
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.5)
    raise AssertionError(f"ComfyUI does not answer: {log.read_text()[-3000:]}")


def run_graph(server: str, graph: dict) -> dict:
    """Runs a graph in the API format and returns its entry of the history."""
    number = ask(f"{server}/prompt", {"prompt": graph})["prompt_id"]
    end = time.monotonic() + START
    while time.monotonic() < end:
        if number in (history := ask(f"{server}/history/{number}")):
            return history[number]
        time.sleep(0.2)
    raise AssertionError("the graph does not end")


def graph(file: Path, tokens: int, strength: float) -> dict:
    return {
        "1": {"class_type": "Given", "inputs": {"tokens": tokens}},
        "2": {"class_type": "SURAdapterLoader", "inputs": {"adapter": "tiny", "path": ""}},
        "3": {"class_type": "SURAdapterApply", "inputs": {"conditioning": ["1", 0], "adapter": ["2", 0], "strength": strength}},
        "4": {"class_type": "Keep", "inputs": {"conditioning": ["3", 0], "file": str(file)}},
    }


def test_the_server_knows_both_nodes_and_finds_the_linked_adapter(server):
    loader = ask(f"{server}/object_info/SURAdapterLoader")["SURAdapterLoader"]
    assert loader["input"]["required"]["adapter"][0] == ["tiny", "(the path below)"] and loader["display_name"] == "Load SUR-adapter"
    apply = ask(f"{server}/object_info/SURAdapterApply")["SURAdapterApply"]
    assert apply["input"]["required"]["strength"][1]["default"] == -1 and apply["output"] == ["CONDITIONING"]


@pytest.mark.parametrize("tokens", [77, 154])
@pytest.mark.parametrize(("strength", "eta"), [(-1.0, 0.25), (0.0, 0.0), (1.0, 1.0)])
def test_a_graph_adapts_each_chunk_of_77_tokens(server, adapter, tmp_path, tokens, strength, eta):
    entry = run_graph(server, graph(tmp_path / "x.safetensors", tokens, strength))
    assert entry["status"]["status_str"] == "success", entry["status"]
    given = torch.randn(1, tokens, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.cat([adapter(chunk, eta) if eta else chunk for chunk in given.split(77, 1)], 1)
    torch.testing.assert_close(load_file(tmp_path / "x.safetensors")["x"], expected, rtol=0, atol=1e-5)


def test_a_conditioning_of_another_length_ends_in_the_sentence_of_the_node(server, tmp_path):
    entry = run_graph(server, graph(tmp_path / "x.safetensors", 80, 1.0))
    assert entry["status"]["status_str"] == "error"
    assert "connect CLIP Text Encode directly to this node" in json.dumps(entry["status"])

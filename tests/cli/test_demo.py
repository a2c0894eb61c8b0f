"""The page without a browser: what it opens with, what it refuses, what it keeps, and that it speaks to nobody else."""

import ast
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import miniature_adapter as guests
from helpers.loopback_hub import free
from helpers.repository import ROOT
from test_studio import MODEL, perturbed

from sur_adapter.cli import demo_page as serve_page
from sur_adapter.cli.demo import serve
from sur_adapter.cli.main import parser
from sur_adapter.generation.session import load


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return perturbed(tmp_path_factory.mktemp("adapter"))


def test_no_word_and_no_sentence_becomes_markup():
    for html in (serve_page._looked([("<b onclick=a>'\"&", 0.1, 0.2)]), serve_page._status("<b onclick=a>'\"&")):
        assert "<b onclick" not in html and "&lt;b onclick=a&gt;&#x27;&quot;&amp;" in html


def test_a_word_that_neither_gains_nor_loses_has_no_sign_and_the_others_have_theirs():
    html = serve_page._looked([("a", 0.1, 0.1004), ("b", 0.1, 0.0996), ("c", 0.1, 0.13), ("d", 0.1, 0.07)])
    assert re.findall(r"<small>(.*?)</small>", html) == ["0.0", "0.0", "+3.0", "−3.0"]


def test_the_history_is_bounded_and_what_falls_out_of_it_leaves_the_disk(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(serve_page, "KEPT", 2)
    studio, past = load(adapter, MODEL), []
    for seed in range(4):
        values = ("a star", "", seed, 1, 1.0, 3.0)
        *_, past = serve_page._drawn(studio, tmp_path, past, values, lambda done, desc: None)
    assert [entry["values"][2] for entry in past] == [3, 2]
    assert sorted(file.name for file in tmp_path.rglob("*.png")) == [
        f"{side}-seed-{n}.png" for side in ("adapted", "plain") for n in (2, 3)
    ]


def test_without_arguments_it_draws_with_the_adapter_of_the_working_folder_and_the_model_that_it_was_trained_for(tmp_path, monkeypatch):
    guests.adapter(tmp_path / "models/adapter")
    monkeypatch.chdir(tmp_path)
    given = parser().parse_args(["serve"])
    demo = serve(given.adapter, given.model, given.host, free(), wait=False)
    try:
        fields = {block["props"].get("label"): block["props"].get("value") for block in demo.config["components"]}
        assert fields["Guidance"] == 7.5 and fields["Steps"] == 20 and fields["Strength of the adapter"] == 1.0
        assert demo.local_url.startswith("http://127.0.0.1:") and demo.share_url is None
    finally:
        demo.close()


def test_a_taken_port_is_named(adapter):
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        port = door.getsockname()[1]
        with pytest.raises(ValueError, match=rf"nothing can listen on 127.0.0.1, port {port} \(.*in use\): give another, with --host"):
            serve(adapter, MODEL, port=port, wait=False)


def test_without_gradio_the_cure_is_named_and_the_module_loads_all_the_same():
    code = "import sys; sys.modules['gradio'] = None; from sur_adapter.cli.demo import serve; serve(*sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, MODEL, "nowhere"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "ImportError: the page needs Gradio, which is not installed: pip install 'sur-adapter[serve]'"


def test_the_server_itself_speaks_to_nobody_else(adapter):
    code = """
import sys, time
asked = set()
def watch(event, given):
    if event == "socket.getaddrinfo":
        asked.add(given[0])
    if event == "socket.connect" and isinstance(given[1], tuple):
        asked.add(given[1][0])
sys.addaudithook(watch)
from sur_adapter.cli import demo_page as serve_page
from sur_adapter.cli.main import parser
from sur_adapter.cli.demo import serve
page = serve(sys.argv[2], sys.argv[1], port=int(sys.argv[3]), wait=False)
time.sleep(2)  # whoever reports home does so in a thread
page.close()
print(sorted(map(str, asked)))"""
    words = [sys.executable, "-c", code, MODEL, str(adapter), str(free())]
    open_to_all = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE" and not k.startswith("GRADIO")}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, env=open_to_all)
    assert set(ast.literal_eval(done.stdout.splitlines()[-1])) == {"127.0.0.1"}

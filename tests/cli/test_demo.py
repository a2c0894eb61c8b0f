"""The demo page without a browser: defaults, errors, history, and no connection to another host."""

import ast
import os
import re
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest
from helpers.loopback_hub import free_port
from helpers.miniature_adapter import MINIATURE, random_adapter
from helpers.repository import ROOT

from sur_adapter.cli import demo_page
from sur_adapter.cli.demo import serve
from sur_adapter.cli.loading import load_session
from sur_adapter.cli.main import build_parser


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return random_adapter(tmp_path_factory.mktemp("adapter"))


def test_words_and_messages_are_escaped_in_html():
    for html in (demo_page._attention_html([("<b onclick=a>'\"&", 0.1, 0.2)]), demo_page._status("<b onclick=a>'\"&")):
        assert "<b onclick" not in html and "&lt;b onclick=a&gt;&#x27;&quot;&amp;" in html


def test_a_change_that_rounds_to_zero_has_no_sign():
    html = demo_page._attention_html([("a", 0.1, 0.1004), ("b", 0.1, 0.0996), ("c", 0.1, 0.13), ("d", 0.1, 0.07)])
    assert re.findall(r"<small>(.*?)</small>", html) == ["0.0", "0.0", "+3.0", "−3.0"]


def test_the_history_is_bounded_and_dropped_images_are_deleted(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_page, "MAX_HISTORY", 2)
    session, entries = load_session(adapter, MINIATURE), []
    for seed in range(4):
        values = ("a star", "", seed, 1, 1.0, 3.0)
        *_, entries = demo_page._generate(session, tmp_path, entries, values, lambda share, desc: None)
    assert [entry["values"][2] for entry in entries] == [3, 2]
    assert sorted(file.name for file in tmp_path.rglob("*.png")) == [
        f"{side}-seed-{n}.png" for side in ("adapted", "plain") for n in (2, 3)
    ]


def test_without_arguments_demo_loads_the_adapter_of_the_working_folder_and_its_base_model(tmp_path, monkeypatch):
    random_adapter(tmp_path / "models/adapter")
    monkeypatch.chdir(tmp_path)
    args = build_parser().parse_args(["demo"])
    demo = serve(args.adapter, args.model, args.host, free_port(), wait=False)
    try:
        fields = {block["props"].get("label"): block["props"].get("value") for block in demo.config["components"]}
        assert (
            fields["Guidance scale"] == 3.0
            and fields["Negative prompt"] == ""
            and fields["Steps"] == 20
            and fields["Scale of the adapter"] == 1.0
        )
        assert demo.local_url.startswith("http://127.0.0.1:") and demo.share_url is None
        head = next(block["props"]["value"] for block in demo.config["components"] if "<h1>" in str(block["props"].get("value")))
        assert 'id="model">stable-diffusion</bdi>' in head and 'id="adapter">models/adapter</bdi>' in head
        assert "This model draws only one to five circles" in head
    finally:
        demo.close()


def test_a_port_in_use_is_named(adapter):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=rf"nothing can listen on 127.0.0.1, port {port} \(.*in use\): give another, with --host"):
            serve(adapter, MINIATURE, port=port, wait=False)


def test_the_page_is_served_on_an_ipv6_address(adapter):
    try:
        with socket.socket(socket.AF_INET6) as server:
            server.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no address ::1")
    demo = serve(adapter, MINIATURE, host="::1", port=free_port(), wait=False)
    try:
        assert demo.local_url.startswith("http://[::1]:")
        connection = HTTPConnection("::1", demo.server_port, timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
    finally:
        demo.close()


def test_names_in_the_head_are_escaped():
    assert "<script>" not in demo_page._head("<script>", "<script>")


def test_without_gradio_the_error_says_how_to_install_it_and_the_module_still_imports():
    code = "import sys; sys.modules['gradio'] = None; from sur_adapter.cli.demo import serve; serve(*sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, MINIATURE, "nowhere"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "ImportError: the page needs Gradio, which is not installed: pip install 'sur-adapter[demo]'"


def test_the_server_connects_to_no_other_host(adapter):
    code = """
import sys, time
hosts = set()
def record(event, args):
    if event == "socket.getaddrinfo":
        hosts.add(args[0])
    if event == "socket.connect" and isinstance(args[1], tuple):
        hosts.add(args[1][0])
sys.addaudithook(record)
from sur_adapter.cli import demo_page
from sur_adapter.cli.main import build_parser
from sur_adapter.cli.demo import serve
page = serve(sys.argv[2], sys.argv[1], port=int(sys.argv[3]), wait=False)
time.sleep(2)  # telemetry would be sent in a thread
page.close()
print(sorted(map(str, hosts)))"""
    command = [sys.executable, "-c", code, MINIATURE, str(adapter), str(free_port())]
    online = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE" and not k.startswith("GRADIO")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=online)
    assert set(ast.literal_eval(done.stdout.splitlines()[-1])) == {"127.0.0.1"}

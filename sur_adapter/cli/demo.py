"""A page on this machine: a prompt drawn without and with the adapter, side by side. `sur-adapter serve`, or

    from sur_adapter.cli.demo import serve
    serve("models/adapter")                    # on http://127.0.0.1:7860, with the model that it was trained for

It asks nothing of any network and tells nobody anything: no fonts, scripts or figures go in or out. What a stranger types is shown as
text. One picture is drawn at a time; who asks meanwhile waits.
"""

import os
import socket
import tempfile
from importlib.util import find_spec
from pathlib import Path

MISSING = "the page needs Gradio, which is not installed: pip install 'sur-adapter[serve]'"
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def serve(
    adapter: str | Path,
    model: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    guidance: float | None = None,
    wait: bool = True,
):
    """Opens the page, and says where; with `wait` it stays until Ctrl+C, else the page is returned and its close() ends it.

    adapter, model: folders or names on the hub; the model is that which the adapter was trained for unless given.
    guidance: where its slider stands at first; the pipeline's own unless given.
    Raises FileNotFoundError where there is no such model or adapter, ValueError where they do not fit each other or where the port is
    taken, ImportError without Gradio.
    """
    if find_spec("gradio") is None:
        raise ImportError(MISSING)
    os.environ.update(QUIET)  # before Gradio is imported, which reads them
    import gradio as gr

    from sur_adapter.cli.demo_page import STYLE, page
    from sur_adapter.generation.session import load

    _refuse_taken(host, port)
    studio = load(adapter, model)
    folder = tempfile.TemporaryDirectory(prefix="sur-adapter-")
    os.environ["GRADIO_TEMP_DIR"] = folder.name  # else its copies of the pictures outlive the page
    demo = page(studio, Path(folder.name), guidance)
    theme = gr.themes.Base(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    options = {"share": False, "quiet": True, "footer_links": [], "run_history": False, "enable_monitoring": False, "ssr_mode": False}
    options |= {
        "mcp_server": False,
        "pwa": False,
        "prevent_thread_lock": True,
        "theme": theme,
        "css": STYLE,
        "max_file_size": "1mb",
        "show_error": True,
    }
    demo.launch(server_name=host, server_port=port, **options)
    demo.pictures = folder  # they go when nobody holds the page any more
    print(f"{demo.local_url}  (Ctrl+C ends it)", flush=True)
    if wait:
        demo.block_thread()
    return demo


def _refuse_taken(host: str, port: int) -> None:
    """ValueError where nothing can listen: before the models are loaded, which takes longer."""
    try:
        with socket.socket() as door:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: who left a moment ago holds nothing
            door.bind((host, port))
    except OSError as error:
        raise ValueError(f"nothing can listen on {host}, port {port} ({error.strerror}): give another, with --host or --port") from error

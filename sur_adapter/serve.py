"""A page on this machine: a prompt drawn without and with the adapter, side by side. `sur-adapter serve`, or

    from sur_adapter.serve import serve
    serve()                                    # the miniature, on http://127.0.0.1:7860

It asks nothing of any network and tells nobody anything: no fonts, scripts or figures go in or out. What a stranger types is shown as
text. One picture is drawn at a time; who asks meanwhile waits.
"""

import os
import tempfile
from pathlib import Path

from sur_adapter.studio import load

MODEL, ADAPTER = Path("models/miniature/stable-diffusion"), Path("models/adapter")  # of the folder that it is called in
MINIATURE_GUIDANCE = 3.0  # as params.yaml has it drawn
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def serve(
    model: str | Path | None = None,
    adapter: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    guidance: float | None = None,
    wait: bool = True,
):
    """Opens the page, and says where; with `wait` it stays until Ctrl+C, else the page is returned and its close() ends it.

    model, adapter: folders or names on the hub; the miniature's, of the working folder, unless given.
    guidance: where its slider stands at first; the pipeline's own unless given.
    Raises FileNotFoundError where there is no such model or adapter, ValueError where they do not fit each other, ImportError
    without Gradio, OSError where the port is taken.
    """
    if model is None and not MODEL.exists():
        raise FileNotFoundError(f"{MODEL} is not in this folder: go to the project's folder, or name a diffusion model")
    if adapter is None and not ADAPTER.exists():
        raise FileNotFoundError(f"{ADAPTER} is not in this folder: train an adapter (`dvc repro`), or name a folder that holds one")
    os.environ.update(QUIET)  # before Gradio is imported, which reads them
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError("the page needs Gradio, which is not installed: pip install 'sur-adapter[serve]'") from error
    from sur_adapter.serve_page import STYLE, page

    if guidance is None and model is None:
        guidance = MINIATURE_GUIDANCE
    studio = load(model or MODEL, adapter or ADAPTER)
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
    try:
        demo.launch(server_name=host, server_port=port, **options)
    except OSError as error:
        raise OSError(f"nothing can listen on {host}, port {port}: it is taken, or not of this machine; give another port") from error
    demo.pictures = folder  # they go when nobody holds the page any more
    print(f"{demo.local_url}  (Ctrl+C ends it)", flush=True)
    if wait:
        demo.block_thread()
    return demo

"""A local web page that compares images without and with the adapter: `sur-adapter demo`, or

    from sur_adapter.cli.demo import serve
    serve("models/adapter")                    # on http://127.0.0.1:7860, with the model that the adapter was trained for

The page works offline: it loads no fonts or scripts, and sends no statistics. User input is shown as text. Images are generated one at a
time; other requests wait.
"""

import os
import socket
import tempfile
from importlib.util import find_spec
from pathlib import Path

NO_GRADIO = "the page needs Gradio, which is not installed: pip install 'sur-adapter[demo]'"
NO_TELEMETRY = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def serve(
    adapter: str | Path | None = None,
    model: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    guidance_scale: float | None = None,
    device: str = "auto",
    dtype: str = "fp32",
    wait: bool = True,
):
    """Serves the page and prints its address. With `wait` it runs until Ctrl+C; else the page is returned, and its close() ends it.

    adapter, model, device, dtype: as in `load_session`. host: a name or an address, of IPv4 or IPv6. guidance_scale: first value of its
    slider; by default the model's own. Raises FileNotFoundError if there is no such model or adapter, ValueError if they do not fit each
    other or the port is in use, ImportError without Gradio.
    """
    if find_spec("gradio") is None:
        raise ImportError(NO_GRADIO)
    os.environ.update(NO_TELEMETRY)  # Gradio reads it when it is imported
    import gradio as gr

    from sur_adapter.cli.demo_page import STYLE, build_page
    from sur_adapter.cli.loading import default_adapter, load_session

    _check_port(host, port)
    adapter = default_adapter() if adapter is None else adapter
    session = load_session(adapter, model, device=device, dtype=dtype)
    folder = tempfile.TemporaryDirectory(prefix="sur-adapter-")
    os.environ["GRADIO_TEMP_DIR"] = folder.name  # else its copies of the images stay after the end
    demo = build_page(session, Path(folder.name), adapter, guidance_scale)
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
    demo.launch(server_name=f"[{host}]" if ":" in host else host, server_port=port, **options)  # Gradio writes IPv6 as in URLs
    demo.image_folder = folder  # is removed with the page
    print(f"{demo.local_url}  (Ctrl+C ends it)", flush=True)
    if wait:
        demo.block_thread()
    return demo


def _check_port(host: str, port: int) -> None:
    """Raises ValueError if the address cannot be used; called before the models are loaded, which takes longer."""
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port that was closed a moment ago is free
            server.bind((host, port))
    except OSError as error:
        raise ValueError(f"nothing can listen on {host}, port {port} ({error.strerror}): give another, with --host or --port") from error

"""Headless Chromium for tests of our pages, controlled by its DevTools protocol, without access to any network."""

import asyncio
import base64
import shutil
import subprocess
import time
from pathlib import Path

import aiohttp
import pytest

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS_CHROMIUM = pytest.mark.skipif(BINARY is None, reason="Chromium is not installed: install the system package `chromium`")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0", "--hide-scrollbars"]
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
KEY_CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "Backspace": 8}


class Browser:
    """One tab. requests: URLs that the page requested from a network; dialogs: their texts; errors: exceptions and log entries."""

    def __init__(self, folder: Path):
        self.folder, self.loop, self.number = folder, asyncio.new_event_loop(), 0
        self.requests, self.dialogs, self.errors, self.loaded = [], [], [], False
        command = [BINARY, *FLAGS, NO_NETWORK, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port, path = self._address(folder / "profile" / "DevToolsActivePort")
        self.loop.run_until_complete(self._connect(f"ws://127.0.0.1:{port}{path}"))
        self.session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def _address(self, file: Path) -> list[str]:
        for _ in range(300):
            if file.exists() and len(lines := file.read_text().split()) == 2:
                return lines
            time.sleep(0.1)
        raise RuntimeError("Chromium did not start within half a minute")

    async def _connect(self, url: str) -> None:
        self.client = aiohttp.ClientSession()
        self.socket = await self.client.ws_connect(url, max_msg_size=0)

    def send(self, method: str, **params) -> dict:
        """Sends one command and returns its result; events that arrive before it are recorded."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        self.loop.run_until_complete(self.socket.send_json(message))
        while (answer := self._next()).get("id") != self.number:
            pass
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _next(self) -> dict:
        message = self.loop.run_until_complete(self.socket.receive_json(timeout=60))
        event, params = message.get("method", ""), message.get("params", {})
        if event == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("data:", "file:", "blob:")):
            self.requests.append(params["request"]["url"])
        if event == "Page.javascriptDialogOpening":
            self.dialogs.append(params["message"])
        if event in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.errors.append(str(params))
        self.loaded |= event == "Page.loadEventFired"
        return message

    def open(self, page: Path | str, width: int = 1200, dark: bool = False) -> float:
        """Opens a file or a URL and waits until it is loaded. Returns the seconds that this took."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.loaded, start = False, time.monotonic()
        self.send("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while not self.loaded:
            self._next()
        return time.monotonic() - start

    def run(self, script: str):
        """The value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, *keys: str) -> None:
        for key in keys:
            for kind in ("rawKeyDown", "keyUp"):
                self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEY_CODES[key])

    def downloaded(self, name: str) -> Path:
        for _ in range(100):
            if (self.folder / name).exists():
                return self.folder / name
            time.sleep(0.1)
        raise AssertionError(f"{name} was not saved")

    def screenshot(self, file: Path) -> None:
        """Saves the whole page as PNG."""
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def close(self) -> None:
        self.loop.run_until_complete(self.client.close())
        self.loop.close()
        self.process.terminate()
        self.process.wait(30)

"""A real browser, headless, for pages of ours: Chromium, spoken to over its DevTools protocol, cut off from every network."""

import asyncio
import base64
import shutil
import subprocess
import time
from pathlib import Path

import aiohttp
import pytest

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDED = pytest.mark.skipif(BINARY is None, reason="there is no Chromium here: install the system's package `chromium`")
SWITCHES = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0", "--hide-scrollbars"]
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}


class Browser:
    """One tab. `requests`, `dialogs` and `complaints` are what the page asked of a network, popped up, and was told off for."""

    def __init__(self, folder: Path):
        self.folder, self.loop, self.number = folder, asyncio.new_event_loop(), 0
        self.requests, self.dialogs, self.complaints, self.loaded = [], [], [], False
        words = [BINARY, *SWITCHES, ALONE, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port, path = self._address(folder / "profile" / "DevToolsActivePort")
        self.loop.run_until_complete(self._connect(f"ws://127.0.0.1:{port}{path}"))
        self.session = None
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.tell(f"{domain}.enable")
        self.tell("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def _address(self, file: Path) -> list[str]:
        for _ in range(300):
            if file.exists() and len(lines := file.read_text().split()) == 2:
                return lines
            time.sleep(0.1)
        raise RuntimeError("Chromium did not start within half a minute")

    async def _connect(self, url: str) -> None:
        self.client = aiohttp.ClientSession()
        self.socket = await self.client.ws_connect(url, max_msg_size=0)

    def tell(self, method: str, **params) -> dict:
        """What Chromium answers to one command; events that come meanwhile are noted."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        self.loop.run_until_complete(self.socket.send_json(message))
        while (answer := self._next()).get("id") != self.number:
            pass
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _next(self) -> dict:
        message = self.loop.run_until_complete(self.socket.receive_json(timeout=60))
        what, params = message.get("method", ""), message.get("params", {})
        if what == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("data:", "file:", "blob:")):
            self.requests.append(params["request"]["url"])
        if what == "Page.javascriptDialogOpening":
            self.dialogs.append(params["message"])
        if what in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(str(params))
        self.loaded |= what == "Page.loadEventFired"
        return message

    def open(self, page: Path | str, width: int = 1200, dark: bool = False) -> float:
        """Seconds until the page, a file or an address, and all that is in it is loaded."""
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.loaded, start = False, time.monotonic()
        self.tell("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while not self.loaded:
            self._next()
        return time.monotonic() - start

    def run(self, script: str):
        """The value of a JavaScript expression."""
        found = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        for key in keys:
            for kind in ("rawKeyDown", "keyUp"):
                self.tell("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=CODES[key])

    def downloaded(self, name: str) -> Path:
        for _ in range(100):
            if (self.folder / name).exists():
                return self.folder / name
            time.sleep(0.1)
        raise AssertionError(f"{name} was not saved")

    def picture(self, file: Path) -> None:
        """The whole page as PNG."""
        file.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def close(self) -> None:
        self.loop.run_until_complete(self.client.close())
        self.loop.close()
        self.process.terminate()
        self.process.wait(30)

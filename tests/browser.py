"""Headless Chromium, driven over the DevTools protocol through its debugging pipe: no driver and no package needed.

Messages are JSON, each ended by a null byte; Chromium reads file descriptor 3 and writes 4
(https://chromedevtools.github.io/devtools-protocol/).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_S = 60.0

# The child's descriptors 3 and 4 must be the pipe's ends, whatever their numbers are here.
LAUNCH = """
import os, sys
read_end, write_end = (os.dup2(int(fd), 100 + i) for i, fd in enumerate(sys.argv[1:3]))
os.dup2(read_end, 3)
os.dup2(write_end, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page; `with Browser() as page: page.open(path.as_uri())`."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self.console: list[str] = []
        """Errors, warnings and uncaught exceptions since the last `open`."""
        self.requests: list[str] = []
        """Addresses asked for since the last `open`."""
        self._buffer, self._last = b"", 0
        self._profile = tempfile.mkdtemp()
        child_reads, self._write = os.pipe()
        self._read, child_writes = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars"]
        chromium = [CHROMIUM, *flags, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(child_reads), str(child_writes), *chromium],
            pass_fds=(child_reads, child_writes),
            stderr=subprocess.DEVNULL,
        )
        os.close(child_reads)
        os.close(child_writes)
        self._session: str | None = None
        pages = [t for t in self._wait_for_targets() if t["type"] == "page"]
        attached = self.send("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._session = None
            self.send("Browser.close")
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            os.close(self._write)
            os.close(self._read)
            shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == message["id"]:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])

    def open(self, address: str) -> None:
        """Go to a page and wait until it and its scripts are loaded."""
        self.send("Page.navigate", url="about:blank")  # a change of only the part after # would not load again
        self.wait("location.href === 'about:blank'")
        self.console, self.requests = [], []
        self.send("Page.navigate", url=address)
        self.wait("location.href !== 'about:blank' && document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """Evaluate JavaScript and return its JSON value; a promise is waited for."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until JavaScript gives a true value."""
        end = time.monotonic() + PATIENCE_S
        while not self.js(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)

    def key(self, name: str, text: str = "") -> None:
        """Press a key, as a keyboard does."""
        codes = {"Enter": (13, "\r"), " ": (32, " "), "Tab": (9, "")}
        code, default = codes.get(name, (0, text))
        both = {"key": name, "windowsVirtualKeyCode": code}
        typed = {"text": default} if default else {}
        self.send("Input.dispatchKeyEvent", type="keyDown" if default else "rawKeyDown", **both, **typed)
        self.send("Input.dispatchKeyEvent", type="keyUp", **both)

    def type(self, text: str) -> None:
        """Write into what has the focus."""
        self.send("Input.insertText", text=text)

    def media(self, *, dark: bool = False, paper: bool = False, width: int = 1400, height: int = 1000) -> None:
        """Prefer dark or light, screen or paper, and set the window's size."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media="print" if paper else "screen", features=[scheme])
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def _wait_for_targets(self) -> list[dict[str, Any]]:
        end = time.monotonic() + PATIENCE_S
        while True:
            targets: list[dict[str, Any]] = self.send("Target.getTargets")["targetInfos"]
            if any(target["type"] == "page" for target in targets):
                return targets
            assert time.monotonic() < end, "Chromium opened no page"
            time.sleep(0.05)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], PATIENCE_S)
            assert ready, "Chromium does not answer"
            chunk = os.read(self._read, 1 << 16)
            assert chunk, "Chromium has ended"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.console.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.console.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.console.append(str(parameters["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

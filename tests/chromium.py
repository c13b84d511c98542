"""A browser for tests: Chromium, driven over two pipes by the DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile

NAME = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-pipe",
]  # fmt: skip
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "End": 35, "Home": 36, "Tab": 9, " ": 32}


class Chromium:
    """One browser with one page, and all errors that its console shows."""

    def __init__(self):
        (here_read, there_write), (there_read, here_write) = os.pipe(), os.pipe()
        self._profile = tempfile.mkdtemp()
        command = f'exec 3<&{there_read} 4>&{there_write}; exec "$0" "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", command, NAME, *FLAGS, f"--user-data-dir={self._profile}"],
            pass_fds=[there_read, there_write],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there_read)
        os.close(there_write)
        self._to, self._from = os.fdopen(here_write, "wb"), os.fdopen(here_read, "rb")
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        self.errors = []
        self._events = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **params):
        """The answer to one command."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, (method, params, answer["error"])
                return answer["result"]

    def _next(self):
        while b"\0" not in self._rest:
            read = os.read(self._from.fileno(), 1 << 20)
            assert read, "the browser has ended"
            self._rest += read
        text, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"])
        if method:
            self._events.append(method)
        return message

    def open(self, address):
        """Open a page and wait until it is loaded and drawn."""
        self._events.clear()
        self.ask("Page.navigate", url=address)
        while "Page.loadEventFired" not in self._events:
            self._next()
        self.settle()

    def run(self, code):
        """The value of JavaScript, awaited."""
        found = self.ask("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, (code, found["exceptionDetails"])
        return found["result"].get("value")

    def settle(self):
        """Wait for two frames: what was asked for is drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def size(self, width, height=900):
        """The size of the window in pixels; narrow ones are a phone's."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        self.settle()

    def media(self, **features):
        """Preferences of the reader, such as `prefers-color-scheme`, with underscores."""
        pairs = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.ask("Emulation.setEmulatedMedia", features=pairs)
        self.settle()

    def place(self, selector, along=0.5):
        """A point of an element, in the window, after scrolling it into view."""
        return self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const b = e.getBoundingClientRect();"
            f"return [b.left + {along} * b.width, b.top + b.height / 2]; }})()"
        )

    def click(self, selector, along=0.5):
        """Press the mouse on an element, at a share of its width."""
        x, y = self.place(selector, along)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def touch(self, selector, along=0.5):
        """Touch an element."""
        x, y = self.place(selector, along)
        self.ask("Emulation.setTouchEmulationEnabled", enabled=True)
        self.ask("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.ask("Emulation.setTouchEmulationEnabled", enabled=False)
        self.settle()

    def press(self, key):
        """Press a key."""
        code = {"key": key, "code": "Space" if key == " " else key}
        code["windowsVirtualKeyCode"] = KEYS[key]
        text = {"text": " "} if key == " " else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **code, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **code)
        self.settle()

    def picture(self, path):
        """Write what the window shows, whole, as a PNG file."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        """End the browser."""
        self._to.close()
        self._process.wait(timeout=30)
        self._from.close()
        shutil.rmtree(self._profile, ignore_errors=True)

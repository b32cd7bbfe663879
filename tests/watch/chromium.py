"""A real Chromium without a window, driven by its own DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

PROGRAMS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
    *("--disable-component-update", "--force-color-profile=srgb", "--remote-debugging-pipe"),
)
WAIT_SECONDS = 60


def find_chromium() -> str | None:
    """Return the program that CTP_CHROMIUM names, or else one of PATH; None if there is none."""
    return os.environ.get("CTP_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)


class Page:
    """A page in Chromium.

    Attributes:
        complaints: errors of its console.
    """

    def __init__(self, commands: IO[bytes], answers: IO[bytes]):
        self._commands, self._answers, self._number = commands, answers, 0
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> Mapping[str, Any]:
        """Send a command of the protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while (answer := self._read()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        result: Mapping[str, Any] = answer["result"]
        return result

    def open(self, url: str, width: int, height: int, *, is_phone: bool = False) -> None:
        """Open a URL in a window of a size."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=is_phone,
        )  # fmt: skip
        self.send("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Return the value of an expression."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def text(self, selector: str) -> str:
        """Return the text that a reader sees in an element, "" if there is none."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def wait_for(self, script: str, expected: Callable[[Any], bool] = bool) -> Any:
        """Evaluate an expression until its value is as expected, and return it."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not expected(value := self.run(script)):
            assert time.monotonic() < deadline, f"{script} is {value!r}"
            time.sleep(0.1)
        return value

    def screenshot(self) -> bytes:
        """Return the page as a PNG, as far as the window shows it."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def _read(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            data += byte
        answer: dict[str, Any] = json.loads(data)
        return answer

    def _note(self, event: Mapping[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(event["params"]["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            entry = event["params"]["entry"]
            self.complaints += [entry["text"]] if entry["level"] == "error" else []


@contextmanager
def opened(program: str) -> Iterator[Page]:
    """Start Chromium, for use in a `with` statement."""
    (to_read, commands), (answers, to_write) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        # the protocol is on the files 3 and 4
        script = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        process = subprocess.Popen(
            ["bash", "-c", script, program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, to_write), stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        for each in (to_read, to_write):
            os.close(each)
        with os.fdopen(commands, "wb") as writer, os.fdopen(answers, "rb") as reader:
            try:
                page = Page(writer, reader)
                yield page
                page._session = None
                page.send("Browser.close")
            finally:
                process.terminate()
                process.wait()

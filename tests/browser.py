"""A real browser without a window, by its DevTools protocol over a pipe: what a page looks like and complains of.

Any Chromium will do: the one that CHROMIUM names, or the first of `NAMES` that is installed. Debian's package
chromium-headless-shell is the smallest.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Iterator
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")

_SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip


def find() -> str | None:
    """The browser's path, or None where none is installed."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab.

    Attributes:
        complaints: Errors and warnings of the console, exceptions, and what could not be loaded, since `open`.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._numbers = itertools.count(1)
        self._left = b""
        self._events: list[dict[str, Any]] = []
        self._session = ""
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, path: pathlib.Path, *, width: int, height: int = 800, dark: bool = False) -> None:
        """Loads a file into a window of that size; below 600 pixels the window is a phone's."""
        self.complaints.clear()
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._events.clear()
        self._call("Page.navigate", url=path.absolute().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._keep(self._receive())

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, as JSON."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: pathlib.Path) -> None:
        """The whole page, not only what the window shows, as PNG."""
        data = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _call(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
            self._keep(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            more = os.read(self._reading, 1 << 20)
            if not more:
                raise RuntimeError("the browser has ended")
            self._left += more
        line, _, self._left = self._left.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _keep(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        what = event["params"]
        match event["method"]:
            case "Runtime.exceptionThrown":
                self.complaints.append(str(what["exceptionDetails"].get("text", "exception")))
            case "Runtime.consoleAPICalled" if what["type"] in ("error", "warning", "assert"):
                self.complaints.append(" ".join(str(argument.get("value")) for argument in what["args"]))
            case "Log.entryAdded" if what["entry"]["level"] in ("error", "warning"):
                self.complaints.append(what["entry"]["text"])
            case "Network.loadingFailed":
                self.complaints.append(what["errorText"])


@contextlib.contextmanager
def page(executable: str, folder: pathlib.Path) -> Iterator[Page]:
    """A browser with an empty tab; it ends with the block.

    Args:
        executable: A Chromium.
        folder: For its profile and what it prints.
    """
    commands, replies = os.pipe(), os.pipe()
    # The browser reads descriptor 3 and writes 4; the ends must not lie there already when they are copied.
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (commands[0], replies[1])]
    log = os.open(folder / "browser.log", os.O_CREAT | os.O_WRONLY, 0o644)
    switches = [*_SWITCHES, f"--user-data-dir={folder / 'profile'}"]
    process = os.posix_spawn(
        executable, [executable, *switches], os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, theirs[0], 3), (os.POSIX_SPAWN_DUP2, theirs[1], 4),
            (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2),
        ],
    )  # fmt: skip
    for end in (*theirs, commands[0], replies[1], log):
        os.close(end)
    try:
        yield Page(replies[0], commands[1])
    finally:
        for end in (replies[0], commands[1]):
            os.close(end)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


if __name__ == "__main__":  # python tests/browser.py PAGE.html WIDTH PICTURE.png
    import tempfile

    found = find()
    if found is None:
        sys.exit(f"none of {', '.join(NAMES)} is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary, page(found, pathlib.Path(temporary)) as tab:
        tab.open(pathlib.Path(sys.argv[1]), width=int(sys.argv[2]))
        tab.screenshot(pathlib.Path(sys.argv[3]))
        print(*tab.complaints, sep="\n")

"""Serve the live page on the loopback interface: only GET, only the paths of the page."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from itertools import chain
from pathlib import Path

from ctp.watch.answer_pictures import AllAnswerPictures
from ctp.watch.page_data import PageData
from ctp.watch.run import WatchedRun

HOST = "127.0.0.1"
THIS_MACHINE = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")
"""The header Host of a request for this machine; a tunnel may have another port. A page of another
site whose name was bound to this address sends that name, and gets nothing."""
DEFAULT_PORTS = range(6070, 6090)
LOCAL_SECONDS, REMOTE_SECONDS = 2.0, 10.0
"""Time between two readings of run folders, on a disk and in an object store."""
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
"""Path -> packaged file and its type."""
DATA = "/data.json"
PICTURE = re.compile(r"/pictures/(\d{1,3})/(\d{1,12})\.webp")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'"
)


class PageState:
    """The data of the page, which a thread keeps up to date.

    Attributes:
        answer: the data as JSON, and an ETag that changes whenever they do; None if they are no
            longer kept up to date.
    """

    def __init__(self, runs: Sequence[WatchedRun], pictures: AllAnswerPictures | None):
        self._runs, self._pictures = runs, pictures
        self._data = PageData(runs)
        self.answer: tuple[bytes, str] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Read what is new in the run folders."""
        found = self._data.refresh()
        if self._pictures is not None:
            self._pictures.refresh()
            for run, own in zip(found["runs"], self._pictures.of_runs, strict=True):
                steps = [{"step": s, **sprite._asdict()} for s, sprite in own.steps().items()]
                run["pictures"] = {"steps": steps, "note": own.note, "drawing": own.is_drawing}
        data = json.dumps(found, allow_nan=False).encode()
        self.answer = data, f'"{hashlib.sha256(data).hexdigest()[:16]}"'

    def picture(self, run: int, step: int) -> bytes | None:
        """Return a picture, None if there is none."""
        if self._pictures is None or run >= len(self._pictures.of_runs):
            return None
        return self._pictures.of_runs[run].read(step)

    @property
    def pause_seconds(self) -> float:
        """Return the time between two readings."""
        is_local = all(run.folder.is_local for run in self._runs)
        return LOCAL_SECONDS if is_local else REMOTE_SECONDS


@contextmanager
def serving(
    runs: Sequence[WatchedRun], port: int | None = None, *, with_pictures: bool = True
) -> Iterator[str]:
    """Serve the page, for use in a `with` statement.

    Args:
        runs: in the order of the page.
        port: of the loopback interface; None: the first free one of `DEFAULT_PORTS`.
        with_pictures: whether to draw predictions, in a process of low priority.

    Yields:
        the URL of the page.

    Raises:
        ValueError: the port is in use.
    """
    with tempfile.TemporaryDirectory(prefix="ctp-watch-") as folder:
        pictures = AllAnswerPictures(runs, Path(folder)) if with_pictures else None
        state = PageState(runs, pictures)
        server, ended = _bind(state, port), threading.Event()
        threads = [
            threading.Thread(target=server.serve_forever, daemon=True),
            threading.Thread(target=partial(_keep_up_to_date, state, ended), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield f"http://{HOST}:{server.server_address[1]}/"
        finally:
            ended.set()
            server.shutdown()
            server.server_close()
            for thread in threads:
                thread.join()
            if pictures is not None:
                pictures.close()


def _keep_up_to_date(state: PageState, ended: threading.Event) -> None:
    try:
        while not ended.wait(state.pause_seconds):
            state.refresh()
    finally:
        state.answer = None  # after an error, old data must not look new


def _bind(state: PageState, port: int | None) -> ThreadingHTTPServer:
    ports = chain(DEFAULT_PORTS, [0]) if port is None else [port]
    for each in ports:
        try:
            return _Server((HOST, each), partial(_Handler, state))
        except OSError as error:
            reason = error
    raise ValueError(f"port {port} cannot be used: {reason}. Give another --port, or none")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Print errors, except those of a browser that went away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    """Answers a request; `BaseHTTPRequestHandler` refuses all methods but GET."""

    server_version, sys_version = "ctp", ""

    def __init__(self, state: PageState, *args: object):
        self._state = state
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer with a file of the page, the data or a picture."""
        path = self.path.partition("?")[0]
        if not THIS_MACHINE.fullmatch(self.headers.get("Host", "")):
            self.send_error(HTTPStatus.FORBIDDEN, "this page is served to this machine alone")
        elif path in FILES:
            name, kind = FILES[path]
            self._send(files("ctp.watch").joinpath(name).read_bytes(), kind)
        elif path == DATA:
            self._send_data()
        elif match := PICTURE.fullmatch(path):
            picture = self._state.picture(*map(int, match.groups()))
            if picture is None:
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                self._send(picture, "image/webp")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _send_data(self) -> None:
        answer = self._state.answer
        if answer is None:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        data, etag = answer
        if self.headers.get("If-None-Match") == etag:
            self.send_response(HTTPStatus.NOT_MODIFIED)
            self.end_headers()
        else:
            self._send(data, "application/json", etag)

    def _send(self, data: bytes, kind: str, etag: str = "") -> None:
        self.send_response(HTTPStatus.OK)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            **({"ETag": etag} if etag else {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

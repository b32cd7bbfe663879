"""The server answers this machine alone, and only for the page."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ctp.storage import Storage
from ctp.watch.run import WatchedRun
from ctp.watch.server import serving

AddLines = Callable[..., Path]


@pytest.fixture
def url(add_lines: AddLines, line: Callable[..., dict[str, Any]]) -> Iterator[str]:
    folder = add_lines([line(2, 0.5)])
    runs = [WatchedRun(Storage.from_uri(folder), "run")]
    with serving(runs, port=0, with_pictures=False) as url:
        yield url


def ask(
    url: str, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    with closing(http.client.HTTPConnection(str(urlsplit(url).netloc), timeout=30)) as connection:
        # as it is: urllib would resolve ".."
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers


def test_the_page_and_its_data_are_served(url: str) -> None:
    for path, start in (("/", b"<!doctype html>"), ("/page.js", b'"use strict"')):
        status, body, headers = ask(url, path)
        assert (status, body[: len(start)]) == (200, start)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    _, body, _ = ask(url, "/data.json")
    assert json.loads(body)["runs"][0]["step"] == 2


def test_data_that_did_not_change_are_not_sent_again(url: str) -> None:
    _, _, headers = ask(url, "/data.json")
    status, body, _ = ask(url, "/data.json", **{"If-None-Match": headers["ETag"]})
    assert (status, body) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../run.py", "/%2e%2e/run.py", "/page.js/../run.py", "//etc/passwd", "/run.py",
        "/pictures/0/1.webp", "/pictures/0/../../run.py", "/pictures/999/1.webp",
    ],
)  # fmt: skip
def test_other_paths_do_not_exist(url: str, path: str) -> None:
    assert ask(url, path)[0] == 404


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "[", ""])
def test_a_page_of_another_site_gets_nothing(url: str, host: str) -> None:
    """As after DNS rebinding, when its name leads to this address."""
    status, body, _ = ask(url, "/data.json", Host=host)
    assert status == 403
    assert b"loss" not in body


def test_a_tunnel_may_have_another_port(url: str) -> None:
    assert ask(url, "/data.json", Host="localhost:9999")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_get_is_answered(url: str, method: str) -> None:
    assert ask(url, "/data.json", method)[0] == 501


def test_a_port_in_use_is_an_error(url: str) -> None:
    port = urlsplit(url).port
    with pytest.raises(ValueError, match=f"port {port} cannot be used"), serving([], port):
        pass

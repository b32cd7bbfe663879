"""A proxy for an S3 server that injects faults. Run `faulty_s3.py SERVER_URL`; it prints its URL.

POST /__faults__ sets a JSON list of faults and clears the log; GET /__log__ returns the requests
since then. Which requests fail depends on their number, not on chance:

    method   regular expression for the methods that fail; default all
    path     regular expression to search in path and query; default all
    times    number of requests that fail; default all
    every    only every n-th request fails, e.g. 3
    kind     status     answer with status `value`, without a body
             refused    answer with S3's error code `value`
             slow       wait `value` seconds before the first byte
             stall      wait `value` seconds after half of the body
             cut        close the connection after half of the body
             reset      reset the connection
             changed    send as many other bytes
             shorter    send half of the bytes, with a Content-Length of half
"""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

STATUS = {"ExpiredToken": 400, "NoSuchKey": 404, "SlowDown": 503}
"""Error codes whose status is not 403."""
MESSAGE = {"InvalidObjectState": "The operation is not valid for the object's storage class"}
"""Messages that the storage reads."""
HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "host", "expect", "keep-alive"}


@dataclass
class Fault:
    kind: str
    value: Any = None
    method: str = ""
    path: str = ""
    times: int | None = None
    every: int = 1
    seen: int = 0
    done: int = 0

    def applies(self, method: str, path: str) -> bool:
        if not re.fullmatch(self.method or ".*", method) or not re.search(self.path, path):
            return False
        self.seen += 1
        if self.seen % self.every or (self.times is not None and self.done >= self.times):
            return False
        self.done += 1
        return True


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    length: int  # Content-Length; -1 for that of the body


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    upstream = ""
    faults: list[Fault] = []  # noqa: RUF012 (shared by all requests, which each get an object)
    log: list[dict[str, Any]] = []  # noqa: RUF012
    lock = threading.Lock()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True  # the client gave up

    def do_anything(self) -> None:
        body = self._read_body()
        if self.path == "/__faults__":
            return self._control(json.loads(body))
        if self.path == "/__log__":
            return self._send(Answer(200, [], json.dumps(self.log).encode(), -1))
        fault = self._choose_fault()
        if fault is None:
            return self._send(self._forward(body))
        return getattr(self, f"_{fault.kind}")(fault.value, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_anything  # noqa: N815

    def _control(self, faults: list[dict[str, Any]]) -> None:
        with self.lock:
            self.log.clear()
            self.faults[:] = [Fault(**fault) for fault in faults]
        self._send(Answer(200, [], b"", -1))

    def _choose_fault(self) -> Fault | None:
        with self.lock:
            applying = [fault for fault in self.faults if fault.applies(self.command, self.path)]
            kind = applying[0].kind if applying else None
            entry = {"method": self.command, "path": self.path, "fault": kind}
            key = re.search(r"Credential=([^/]*)/", self.headers.get("Authorization", ""))
            more = {"range": self.headers.get("Range"), "access_key": key and key[1]}
            self.log.append(entry | more)
        return applying[0] if applying else None

    # the kinds of faults

    def _status(self, status: int, body: bytes) -> None:
        self._send(Answer(status, [], b"", -1))

    def _refused(self, code: str, body: bytes) -> None:
        text = f"<Error><Code>{code}</Code><Message>{MESSAGE.get(code, '')}</Message></Error>"
        kind = [("Content-Type", "application/xml")]
        self._send(Answer(STATUS.get(code, 403), kind, text.encode(), -1))

    def _slow(self, seconds: float, body: bytes) -> None:
        time.sleep(seconds)
        self._send(self._forward(body))

    def _stall(self, seconds: float, body: bytes) -> None:
        answer = self._forward(body)
        half = len(answer.body) // 2
        self._send_head(answer)
        self.wfile.write(answer.body[:half])
        time.sleep(seconds)
        self.wfile.write(answer.body[half:])

    def _cut(self, value: None, body: bytes) -> None:
        answer = self._forward(body)
        self._send_head(answer)
        self.wfile.write(answer.body[: len(answer.body) // 2])
        self.close_connection = True

    def _reset(self, value: None, body: bytes) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        raise ConnectionResetError

    def _changed(self, value: None, body: bytes) -> None:
        answer = self._forward(body)
        answer.body = bytes(byte ^ 1 for byte in answer.body)
        self._send(answer)

    def _shorter(self, value: None, body: bytes) -> None:
        answer = self._forward(body)
        answer.body = answer.body[: len(answer.body) // 2]
        answer.length = len(answer.body)
        self._send(answer)

    # forwarding

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _forward(self, body: bytes) -> Answer:
        connection = HTTPConnection(self.upstream, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
        connection.request(self.command, self.path, body or None, headers)
        reply = connection.getresponse()
        kept = [(k, v) for k, v in reply.getheaders() if k.lower() not in HOP_BY_HOP]
        length = reply.getheader("Content-Length") or "-1"
        answer = Answer(reply.status, kept, reply.read(), int(length))
        connection.close()
        return answer

    def _send(self, answer: Answer) -> None:
        self._send_head(answer)
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _send_head(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        length = answer.length if answer.length >= 0 else len(answer.body)
        if self.command == "HEAD" and answer.length < 0:
            length = 0
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Do not log to the console."""


if __name__ == "__main__":
    Proxy.upstream = urlsplit(sys.argv[1]).netloc
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()

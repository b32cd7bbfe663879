"""Count the requests and retries of this process's S3 client.

pyarrow repeats failed requests inside the AWS SDK and reports none of it. The SDK's client-side
monitoring does: for each request it sends a datagram with the number of attempts to a UDP port of
this machine. Sending never blocks; a datagram that is not read in time is lost.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from typing import NamedTuple, Self

ENABLED, HOST, PORT = "AWS_CSM_ENABLED", "AWS_CSM_HOST", "AWS_CSM_PORT"
"""Variables that the SDK reads once, when the process uses S3 for the first time."""
MAX_DATAGRAM_BYTES = 8192
"""The SDK's own limit."""
ATTEMPTS = re.compile(rb'"Type":"ApiCall",.*"AttemptCount":(\d+)')
"""A request that has ended, in the datagram's JSON; the client writes it without spaces."""


class S3Counts(NamedTuple):
    """Requests that ended, and how often they were repeated."""

    requests: int
    retries: int


class S3Monitor:
    """Counts requests from its creation on."""

    def __init__(self, receiver: socket.socket | None):
        """Start counting.

        Args:
            receiver: gets the datagrams; None: nothing is counted.
        """
        self._requests = self._retries = 0
        self._taken = S3Counts(0, 0)
        if receiver is not None:
            threading.Thread(target=self._count, args=(receiver,), daemon=True).start()

    @classmethod
    def start(cls) -> Self:
        """Count for the rest of this process; to be called before it uses S3.

        Nothing is counted if the user monitors the client (`AWS_CSM_ENABLED` is set).
        """
        if ENABLED in os.environ:
            return cls(None)
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("127.0.0.1", 0))
        host, port = receiver.getsockname()
        os.environ |= {ENABLED: "true", HOST: host, PORT: str(port)}
        return cls(receiver)

    def take(self) -> S3Counts:
        """Return the counts since the last call."""
        counts, since = S3Counts(self._requests, self._retries), self._taken
        self._taken = counts
        return S3Counts(counts.requests - since.requests, counts.retries - since.retries)

    def _count(self, receiver: socket.socket) -> None:
        while True:
            ended = ATTEMPTS.search(receiver.recv(MAX_DATAGRAM_BYTES))
            if ended is not None:
                self._requests += 1
                self._retries += int(ended.group(1)) - 1

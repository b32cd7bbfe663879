"""Retries of S3 requests are counted in a real client against a server with faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ctp.storage import Storage

READ = """
import json, sys
from ctp.cluster.s3_monitor import S3Monitor
monitor = S3Monitor.start()
from ctp.storage import BYTES_READ, Storage
taken = []
for _ in range(2):
    Storage.from_uri(sys.argv[1]).read_bytes()
    taken.append([BYTES_READ.take(), *monitor.take()])
    # a datagram may arrive a little after the answer
    while sum(each[1] for each in taken) < 2 * len(taken):
        late = monitor.take()
        taken[-1][1] += late.requests
        taken[-1][2] += late.retries
print(json.dumps(taken))
"""


def test_requests_retries_and_bytes_are_counted(
    faulty_s3: Any, run_python: Callable[..., str]
) -> None:
    """In a new process, since a client reads its settings when S3 is first used."""
    file = Storage.from_uri(f"{faulty_s3.bucket}/file")
    file.write_bytes(bytes(1000))
    faulty_s3.fail({"kind": "status", "value": 503, "method": "GET", "times": 2})
    counted = json.loads(run_python("-c", READ, file.uri))
    # HEAD and GET; the first GET is sent three times
    assert counted == [[1000, 2, 2], [1000, 2, 0]]


def test_a_users_own_monitoring_stays(
    faulty_s3: Any, run_python: Callable[..., str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("AWS_CSM_ENABLED", "true")
    monkeypatch.setenv("AWS_CSM_PORT", "31000")
    code = "import os; from ctp.cluster.s3_monitor import S3Monitor as M; m = M.start(); "
    said = run_python("-c", f"{code}print(os.environ['AWS_CSM_PORT'], *m.take())")
    assert said.split() == ["31000", "0", "0"]

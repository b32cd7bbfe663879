"""CPU time and memory of this process and its children are measured."""

import os
import sys

import pytest

from ctp.bench.processes import cpu_seconds, memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_child_processes_are_included(run_python):
    """A parent measures a child that allocates 64 MiB."""
    printed = run_python(
        "-c",
        """
import subprocess, sys
from ctp.bench.processes import cpu_seconds, memory
before = memory().mib
code = "x = b'x' * 2**26; sum(range(10**7)); print(flush=True); input()"
child = subprocess.Popen(
    [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
)
child.stdout.readline()
print(memory().mib - before, cpu_seconds()[child.pid])
child.communicate(b"\\n")
""",
    )
    more_mib, seconds = map(float, printed.split())
    assert 64 < more_mib < 128
    assert seconds > 0.05


def test_this_process_is_included():
    now = memory()
    assert cpu_seconds()[os.getpid()] > 0
    assert 0 <= now.shared_mib < now.mib
    assert 0 < now.file_mib < now.mib

"""Ray: the only package that imports it. Everything below runs, and is tested, without."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

try:
    Path.home()
except RuntimeError:
    # Ray asks for the home folder when it is imported; the user of a container may have none
    os.environ["HOME"] = tempfile.gettempdir()

# Ray warns of every node that starts several processes, which all jobs here do
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "worker processes have been started on node")

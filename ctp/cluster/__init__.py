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

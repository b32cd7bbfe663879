"""The folder on this machine for results that can be computed again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/ctp` or `~/.cache/ctp`, which may not exist or be writable."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not home.is_absolute():  # the XDG specification ignores relative paths
        home = Path(os.path.expanduser("~/.cache"))
    if not home.is_absolute():  # a user without a home, as in many containers
        home = Path(tempfile.gettempdir())
    return home / "ctp"

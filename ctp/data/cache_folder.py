"""Where what is made once is kept on this machine. Nothing ever depends on what is there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/ctp`, or `~/.cache/ctp`; it may be missing, and not writable."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not home.is_absolute():  # as the XDG specification says
        home = Path(os.path.expanduser("~/.cache"))
    if not home.is_absolute():  # a user without a home, as in many a container
        home = Path(tempfile.gettempdir())
    return home / "ctp"

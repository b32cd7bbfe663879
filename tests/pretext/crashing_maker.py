"""A ClipMaker whose decoder fails as its videos' names say; child processes import this file."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctp.data.catalog import VideoEntry
from ctp.data.read_ahead import ReadAhead
from ctp.isolation import working_on
from ctp.pretext.clips import ClipMaker


class CrashingMaker(ClipMaker):
    """Dies on videos called crash…, hangs on hang…, and dies once where flaky… first comes up."""

    def _read(
        self, entry: VideoEntry, rng: np.random.Generator, num_frames: int, videos: ReadAhead
    ) -> NDArray[np.uint8]:
        videos.read(entry)
        with working_on(entry.id):
            if entry.id.startswith("crash"):
                os.kill(os.getpid(), signal.SIGSEGV)
            if entry.id.startswith("hang"):
                time.sleep(60)
            marker = Path(f"{entry.uri}.met")
            if entry.id.startswith("flaky") and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super()._read(entry, rng, num_frames, videos)

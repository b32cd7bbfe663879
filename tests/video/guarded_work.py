"""What test_guarded has done to videos in child processes, which import this file by its name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from ctp.isolation import working_on
from ctp.video.encoded import EncodedVideo, VideoError


def make() -> Callable[[EncodedVideo], str]:
    return work


def work(video: EncodedVideo) -> str:
    """Fail as the video's id says."""
    if video.id == "between":
        os.kill(os.getpid(), signal.SIGKILL)
    with working_on(video.id):
        if video.id == "bad":
            raise VideoError(video.id, video.uri, "is bad")
        if video.id == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if video.id == "hang":
            time.sleep(600)
        if video.id == "flaky" and not Path(video.uri).exists():
            Path(video.uri).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return f"made of {video.id}"

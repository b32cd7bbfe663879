"""A journal that outlives its process, so that a video that ends the process is known.

Decoders crash, hang and exhaust the memory on files from the internet. The actor that decodes is
the process that may die. Before it works on a video, it writes the video's id to a file of its own.
The process that replaces it finds the file of a process that no longer exists and blames that
video. A video that has ended `MAX_LOSSES` processes is not tried again.

The processes of a machine that work on the same job share a folder:

    live-PID-…    what a process works on; locked while the process exists
    lost-PID-…    what a process died on
"""

from __future__ import annotations

import faulthandler
import fcntl
import json
import os
import re
import shutil
import signal
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from ctp.video.encoded import VideoError

MAX_LOSSES = 2
"""A first loss may be chance: the system may have ended the process for want of memory."""


class Journal:
    """Names the video that this process works on."""

    def __init__(self, key: str, max_seconds_per_video: float):
        """Open the journal of this process.

        Args:
            key: names the job; processes of a machine with the same key share what they learn.
            max_seconds_per_video: the process ends when it works longer on a video.
        """
        self._folder = journal_folder(key)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._max_seconds = max_seconds_per_video
        self._blamed: dict[str, str] = {}
        self._read_at = -1
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        path = self._folder / f"new-{name}"
        self._file = path.open("ab", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        path.rename(self._folder / f"live-{name}")  # visible to others only when it is locked
        faulthandler.enable(self._file, all_threads=False)  # a crash leaves its reason

    @contextmanager
    def working_on(self, video_id: str, uri: str) -> Iterator[None]:
        """Blame a video if the process dies, or the time limit passes, inside the block.

        Raises:
            VideoError: the video has ended `MAX_LOSSES` processes.
        """
        reason = self._lost_videos().get(video_id)
        if reason is not None:
            raise VideoError(video_id, uri, reason)
        record = {"video": video_id, "limit": self._max_seconds, "began": time.time()}
        with suppress(OSError):  # a full disk must not stop the run; no video is blamed then
            self._file.write(json.dumps(record).encode() + b"\n")
        # the kernel ends the process, whatever it does; a thread would need the interpreter
        signal.setitimer(signal.ITIMER_REAL, self._max_seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._file.truncate(0)

    def _lost_videos(self) -> Mapping[str, str]:
        """Return id -> reason for the videos that must not be tried again."""
        with suppress(FileNotFoundError):  # someone has emptied the folder of temporary files
            changed_at = self._folder.stat().st_mtime_ns
            if changed_at != self._read_at:  # other processes have started or died since
                _collect_losses(self._folder)
                self._blamed = _blamed(self._folder)
                self._read_at = changed_at
        return self._blamed


def working_on(journal: Journal | None, video_id: str, uri: str) -> AbstractContextManager[None]:
    """Return `journal.working_on`; without a journal, a context that does nothing."""
    return nullcontext() if journal is None else journal.working_on(video_id, uri)


def journal_folder(key: str) -> Path:
    """Return the folder of a job's journals on this machine."""
    return Path(tempfile.gettempdir()) / f"ctp-journal-{os.getuid()}" / key


def delete_journals(key: str) -> None:
    """Delete the folder of a job's journals on this machine."""
    shutil.rmtree(journal_folder(key), ignore_errors=True)


def _collect_losses(folder: Path) -> None:
    """Rename the files of processes that died on a video; delete those of others that ended."""
    for path in folder.glob("live-*"):
        with suppress(FileNotFoundError), path.open("r+b") as file:  # NFS locks files to write
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its process exists
            if file.read(1):
                path.rename(path.with_name(path.name.replace("live", "lost", 1)))
            else:
                path.unlink()


def _blamed(folder: Path) -> dict[str, str]:
    """Return id -> reason for the videos that ended `MAX_LOSSES` processes."""
    losses: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    for path in folder.glob("lost-*"):
        line, _, crash = path.read_text(errors="replace").partition("\n")
        with suppress(ValueError):  # the process died while it wrote
            record = json.loads(line)
            losses[record["video"]] += 1
            reasons[record["video"]] = _reason(record, crash, path.stat().st_ctime)
    return {
        video: f"the process that decoded it {reasons[video]}, {count} times"
        for video, count in losses.items()
        if count >= MAX_LOSSES
    }


def _reason(record: Mapping[str, float], crash: str, found_at: float) -> str:
    error = re.search(r"Fatal Python error: (.+)", crash)
    if error:
        return f"crashed ({error[1]})"
    if found_at - record["began"] >= record["limit"]:
        return f"took longer than {record['limit']:g} s"
    return "was killed, perhaps out of memory"

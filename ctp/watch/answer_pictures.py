"""Pictures of a run's answers to the same held-out clips, at its successive checkpoints.

They are drawn by a process of low priority, see `ctp.watch.draw`, when a checkpoint appears, and
kept in a temporary folder. A run keeps its newest checkpoints alone; so the pictures start with the
model before training and the checkpoints that exist when the server starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ctp.pretext.config import PretrainConfig
from ctp.storage import StorageError
from ctp.training.checkpoint import CheckpointStore
from ctp.training.run_folder import CHECKPOINTS
from ctp.watch.about import About
from ctp.watch.run import WatchedRun

NUM_CLIPS, SIZE_PX = 4, 200
PRIORITY = 19
"""Niceness of the process that draws: it takes what the run leaves."""
MAX_STEPS = 24
"""Steps whose pictures are kept; of more, those in between are deleted."""
START = "start"
"""Name of the picture of the model before training."""


class Sprite(NamedTuple):
    """The layout of a picture: a row for each clip, a column for each frame.

    Attributes:
        num_frames: number of columns.
        width_px, height_px: size of a frame.
        captions: of the clips.
    """

    num_frames: int
    width_px: int
    height_px: int
    captions: Sequence[str]


def sprite_name(checkpoint: str) -> str:
    """Return the name of a checkpoint's picture; that of "" is `START`."""
    return checkpoint or START


def surplus(steps: Sequence[int], number: int) -> list[int]:
    """Return the steps to leave out, so that at most `number` are left, the first and the last
    among them, and the others spread between these.

    Args:
        steps: in order.
        number: at least 2.
    """
    left, found = list(steps), []
    while len(left) > number:
        gaps = [after - before for before, after in zip(left, left[2:], strict=False)]
        found.append(left.pop(1 + gaps.index(min(gaps))))
    return found


class AnswerPictures:
    """The pictures of one run.

    Attributes:
        run: the run.
        note: why there are no pictures, or no new ones; "" otherwise.
    """

    def __init__(self, run: WatchedRun, folder: Path):
        """Start without pictures.

        Args:
            run: the run.
            folder: for the pictures. Nobody else writes to it.
        """
        self.run, self.note = run, ""
        self._folder = folder
        self._failed: set[str] = set()
        self._names: Sequence[str] = ()
        self._process: subprocess.Popen[str] | None = None

    @property
    def is_drawing(self) -> bool:
        """Return whether the process runs that draws them."""
        return self._process is not None

    def refresh(self, *, may_start: bool) -> None:
        """Note what was drawn, and start to draw what is missing.

        Args:
            may_start: whether a process may be started.
        """
        if self._process is not None and self._process.poll() is not None:
            self._finish(self._process)
        if self.run.view.state == "deleted":  # another run of that name has other pictures
            self._failed.clear()
            self._delete(self._files())
        if self.run.view.state in ("not started", "deleted", "unreadable"):
            return
        assert self.run.about is not None
        if self.run.about.kind != PretrainConfig.KIND:
            self.note = "Pictures of predictions exist for pretraining."
        elif self._process is None and may_start and (missing := self._missing(self.run.about)):
            self._start(missing)

    def close(self) -> None:
        """End the process that draws."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def steps(self) -> dict[int, Sprite]:
        """Return the pictures by step, in order."""
        found = {}
        for file in self._files():
            with suppress(FileNotFoundError):  # it was deleted a moment ago
                found[_step(file.stem)] = Sprite(**json.loads(file.read_text()))
        return found

    def read(self, step: int) -> bytes | None:
        """Return the picture at a step, as WebP; None if there is none."""
        for file in self._folder.glob("*.webp"):
            if _step(file.stem) == step:
                with suppress(FileNotFoundError):
                    return file.read_bytes()
        return None

    def _missing(self, about: About) -> list[str]:
        """Return the checkpoints without a picture, the oldest first."""
        store = CheckpointStore(self.run.folder.join(CHECKPOINTS))
        try:
            checkpoints = store.complete()[::-1]
        except StorageError as error:
            self.note = str(error)
            return []
        newest = max(self.steps(), default=-1)
        # other initial weights may have to be downloaded
        names = ([] if about.options["initial_encoder"] else [""]) + checkpoints
        return [
            name
            for name in names
            # one that is older was drawn, and deleted to keep few
            if _step(sprite_name(name)) > newest and name not in self._failed
        ]

    def _start(self, checkpoints: Sequence[str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._names = checkpoints
        self._process = subprocess.Popen(
            [
                *("nice", "-n", str(PRIORITY), sys.executable, "-m", "ctp.watch.draw"),
                *(self.run.folder.uri, str(self._folder), *checkpoints),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
            # the GPUs are the run's, and so are the other cores
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def _finish(self, process: subprocess.Popen[str]) -> None:
        _, said = process.communicate()
        self._process, self.note = None, ""
        if process.returncode:
            done = self.steps()
            left = (name for name in self._names if _step(sprite_name(name)) not in done)
            self._failed |= set(islice(left, 1))  # the one that it failed at
            lines = said.strip().splitlines() or [f"its process ended with {process.returncode}"]
            self.note = f"The predictions cannot be drawn: {lines[-1]}"
        by_step = {_step(file.stem): file for file in self._files()}
        self._delete([by_step[step] for step in surplus(list(by_step), MAX_STEPS)])

    def _files(self) -> list[Path]:
        """Return the layouts of the pictures, by step."""
        return sorted(self._folder.glob("*.json"), key=lambda file: _step(file.stem))

    def _delete(self, files: Sequence[Path]) -> None:
        for file in files:
            file.unlink(missing_ok=True)
            file.with_suffix(".webp").unlink(missing_ok=True)


class AllAnswerPictures:
    """The pictures of several runs, which one process at a time draws.

    Attributes:
        of_runs: those of each run.
    """

    def __init__(self, runs: Sequence[WatchedRun], folder: Path):
        self.of_runs = [AnswerPictures(run, folder / str(i)) for i, run in enumerate(runs)]
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Note what was drawn, and let one process draw what is missing."""
        with self._lock:
            for each in self.of_runs:
                is_busy = any(other.is_drawing for other in self.of_runs)
                each.refresh(may_start=not is_busy)

    def close(self) -> None:
        """End the process that draws."""
        with self._lock:
            for each in self.of_runs:
                each.close()


def _step(name: str) -> int:
    """Return the step of a checkpoint or picture."""
    return 0 if name == START else int(name.partition("-")[2])

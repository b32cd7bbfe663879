"""Checkpoints: a training state as files, and a store that keeps the newest few.

The store replaces Ray Train's, which registers a checkpoint seconds after its upload and resumes
from an older one when the driver dies in between. Here a checkpoint is complete as soon as its last
file, the manifest, is written.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctp.storage import Storage, StorageError

if TYPE_CHECKING:
    from torch import Tensor

STATE = "state.pt"
MANIFEST = "manifest.json"
KEPT_CHECKPOINTS = 3


@dataclass(frozen=True)
class TrainState:
    """All that a run needs to resume.

    Attributes:
        step: steps done; the stream continues at the sample `step * total_batch`.
        model, optimizer: state dicts.
        config: the run's config, as JSON.
        catalog: fingerprint of the catalogue to train on.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    config: str
    catalog: str

    def to_bytes(self) -> bytes:
        """Return the state as a file for `torch.load(weights_only=True)`."""
        import torch  # here and below: to find the newest checkpoint needs no torch

        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> TrainState:
        """Read what `to_bytes` wrote, on the CPU."""
        import torch

        return cls(**torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))


class CheckpointStore:
    """Checkpoints below a folder, named by step, written in the background one at a time.

    Names depend on the step alone, so what a killed run left behind is overwritten.
    """

    def __init__(
        self,
        folder: Storage,
        keep: int = KEPT_CHECKPOINTS,
        retry_seconds: tuple[float, ...] = (1, 4),
    ):
        """Open the store; a write that fails is repeated after each of `retry_seconds`."""
        self._folder = folder
        self._keep = keep
        self._retry_seconds = retry_seconds
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._seconds: float | None = None

    def save(self, state: TrainState, before: Callable[[], None] = lambda: None) -> None:
        """Start to write `state`, which may change as soon as this returns.

        Args:
            state: what to write.
            before: called in the background before the checkpoint is written.

        Raises:
            StorageError: the save before this one failed.
        """
        self.wait()
        data = state.to_bytes()  # a copy, made before training continues
        self._pending = self._writer.submit(self._write, state.step, data, before)

    def wait(self) -> None:
        """Wait until the last save is done.

        Raises:
            StorageError: it failed.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def extra_metrics(self) -> dict[str, float]:
        """Return "checkpoint_seconds", if a checkpoint was written since the last call."""
        seconds, self._seconds = self._seconds, None
        return {} if seconds is None else {"checkpoint_seconds": seconds}

    def close(self) -> None:
        """Wait for the last save, then stop the writer."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def newest(self) -> str | None:
        """Return the name of the newest complete checkpoint, None if there is none."""
        names = self._complete()
        return names[-1] if names else None

    def load(self, name: str) -> TrainState:
        """Read a checkpoint.

        Raises:
            StorageError: it cannot be read, or its checksum differs.
        """
        place = self._folder.join(name)
        data = place.join(STATE).read_bytes()
        manifest = json.loads(place.join(MANIFEST).read_bytes())
        if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            raise StorageError(
                f"the checkpoint {place.uri} is damaged: its checksum differs. Delete its folder "
                "to resume from the one before it"
            )
        return TrainState.from_bytes(data)

    def _complete(self) -> list[str]:
        """Return the names of all complete checkpoints, the newest last."""
        names = self._folder.list_folders()
        return [name for name in names if self._folder.join(name, MANIFEST).exists()]

    def _write(self, step: int, data: bytes, before: Callable[[], None]) -> None:
        began = time.monotonic()
        self._write_with_retries(step, data, before)
        self._seconds = time.monotonic() - began

    def _write_with_retries(self, step: int, data: bytes, before: Callable[[], None]) -> None:
        for pause in self._retry_seconds:
            try:
                return self._write_once(step, data, before)
            except OSError:
                time.sleep(pause)
        self._write_once(step, data, before)

    def _write_once(self, step: int, data: bytes, before: Callable[[], None]) -> None:
        before()
        place = self._folder.join(f"step-{step:09d}")
        place.join(STATE).write_bytes(data)
        manifest = {"step": step, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        place.join(MANIFEST).write_bytes(
            json.dumps(manifest).encode()
        )  # last: it completes the checkpoint
        kept = self._complete()[-self._keep :]
        for name in self._folder.list_folders():
            if name not in kept:  # old, or left half-written by a run that was killed
                self._folder.join(name).delete_folder()

"""Checkpoints: a training state as files, and a store that keeps the newest few.

The store replaces Ray Train's, which registers a checkpoint seconds after its upload and resumes
from an older one when the driver dies in between. Here a checkpoint is complete as soon as its last
file, the manifest, is written.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from ctp.lease import Attempt
from ctp.storage import Storage, StorageError
from ctp.text import listed, one_line
from ctp.versions import FORMAT_VERSION, check_format, describe_writer, written_by

if TYPE_CHECKING:
    from torch import Tensor

STATE = "state.pt"
"""The state of a run without a lease. That of attempt n is `state-n.pt`: a process that was paused
while it wrote cannot overwrite the state that its successor's manifest describes."""
STATE_OF_ATTEMPT = re.compile(r"state-(\d+)\.pt")
MANIFEST = "manifest.json"
KEPT_CHECKPOINTS = 3


@dataclass(frozen=True)
class TrainState:
    """All that a run needs to resume.

    Attributes:
        step: steps done; the stream continues at the sample `step * total_batch`.
        model, optimizer: state dicts.
        config: the run's config, as JSON.
        catalog: fingerprint of the videos to train on and of their clips.
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
    def from_bytes(cls, data: bytes, name: str = "the state", writer: object = None) -> TrainState:
        """Read what `to_bytes` wrote, on the CPU.

        Args:
            data: the file.
            name: name of the file in errors.
            writer: `written_by` of the process that wrote it.

        Raises:
            StorageError: it has other fields, for example those of another version of ctp.
        """
        import torch

        values = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        expected = {field.name for field in fields(cls)}
        if expected != set(values):
            missing, unknown = sorted(expected - set(values)), sorted(set(values) - expected)
            raise StorageError(
                f"{name} lacks {listed(missing) or 'nothing'} and has the unknown "
                f"{listed(unknown) or 'nothing'}. It was written by {describe_writer(writer)}. "
                "Resume the run with that version, or start one of another name"
            )
        return cls(**values)


@dataclass(frozen=True)
class Manifest:
    """What completes a checkpoint, written last.

    Attributes:
        step: steps done.
        bytes: size of the state.
        sha256: its checksum.
        state: its file name.
        attempt: number of the attempt that wrote it; 0 without a lease.
        format_version: see `ctp.versions`; None in files from before there were any.
        written_by: versions of ctp, torch and Ray, and the commit.
    """

    step: int
    bytes: int
    sha256: str
    state: str = STATE
    attempt: int = 0
    format_version: int | None = None
    written_by: Mapping[str, str] | None = None

    def to_json(self) -> str:
        """Return the content of its file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, data: str, name: str) -> Manifest:
        """Read what `to_json` wrote.

        Raises:
            StorageError: it is not a manifest, or one of a later format; names it.
        """
        try:
            values = json.loads(data)
            check_format(values.get("format_version"), values.get("written_by"), name)
            known = {field.name for field in fields(cls)}
            return cls(**{key: value for key, value in values.items() if key in known})
        except (ValueError, TypeError, AttributeError) as error:
            raise StorageError(f"cannot read {name}: {one_line(error)}") from error


class CheckpointStore:
    """Checkpoints below a folder, named by step, written in the background one at a time.

    Names depend on the step alone, so what a killed run left behind is overwritten.
    """

    def __init__(
        self,
        folder: Storage,
        keep: int = KEPT_CHECKPOINTS,
        retry_seconds: tuple[float, ...] = (1, 4),
        attempt: Attempt | None = None,
    ):
        """Open the store.

        Args:
            folder: of the checkpoints. It need not exist.
            keep: how many checkpoints a save leaves.
            retry_seconds: a write that fails is repeated after each of these pauses.
            attempt: checked before anything is written or deleted; None: no other process writes
                the folder.
        """
        self._folder = folder
        self._keep = keep
        self._retry_seconds = retry_seconds
        self._attempt = attempt
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
            SupersededError: another process took over the run; nothing more is written.
        """
        self.wait()
        # a copy on the device, made before training continues; to serialise it takes longer
        self._pending = self._writer.submit(self._write, copy.deepcopy(state), before)

    def wait(self) -> None:
        """Wait until the last save is done.

        Raises:
            StorageError: it failed.
            SupersededError: another process took over the run.
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
        return next((name for name in self._newest_first() if self._is_complete(name)), None)

    def complete(self) -> list[str]:
        """Return the names of all complete checkpoints, the newest first."""
        return [name for name in self._newest_first() if self._is_complete(name)]

    def manifest_place(self, name: str) -> Storage:
        """Return the place of a checkpoint's manifest, whose time is that of the checkpoint."""
        return self._folder.join(name, MANIFEST)

    def without_state(self) -> list[str]:
        """Return the URIs of the manifests newer than `newest`, whose states are missing."""
        found = []
        for name in self._newest_first():
            if self._is_complete(name):
                break
            place = self.manifest_place(name)
            if place.exists():
                found.append(place.uri)
        return found

    def read_manifest(self, name: str) -> Manifest:
        """Read the manifest of a checkpoint.

        Raises:
            StorageError: it cannot be read.
        """
        place = self.manifest_place(name)
        return Manifest.from_json(place.read_bytes().decode(), place.uri)

    def load(self, name: str) -> TrainState:
        """Read a checkpoint.

        Raises:
            StorageError: it cannot be read, or its checksum differs.
        """
        place, manifest = self._folder.join(name), self.read_manifest(name)
        data = place.join(manifest.state).read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest.sha256:
            raise StorageError(
                f"the checkpoint {place.uri} is damaged: its checksum differs. Delete its folder "
                "to resume from the one before it"
            )
        return TrainState.from_bytes(data, place.join(manifest.state).uri, manifest.written_by)

    def prune(self, keep: int) -> list[str]:
        """Delete all but the newest complete checkpoints, and what older runs left half-written.

        Args:
            keep: how many complete checkpoints to leave, at least 1.

        Returns:
            the names of the checkpoints deleted.
        """
        newest = self.newest()
        return self._prune(newest, keep) if newest else []

    def _newest_first(self) -> list[str]:
        return self._folder.list_folders()[::-1]

    def _is_complete(self, name: str) -> bool:
        """Return whether a checkpoint has a manifest, and the state that it describes.

        The state may be missing because a user deleted it, a copy stopped, or another version of
        ctp pruned it.
        """
        if not self.manifest_place(name).exists():
            return False
        manifest = self.read_manifest(name)
        return self._folder.join(name, manifest.state).is_file()

    def _write(self, state: TrainState, before: Callable[[], None]) -> None:
        began = time.monotonic()
        self._write_with_retries(state.step, state.to_bytes(), before)
        self._seconds = time.monotonic() - began

    def _write_with_retries(self, step: int, data: bytes, before: Callable[[], None]) -> None:
        for pause in self._retry_seconds:
            try:
                return self._write_once(step, data, before)
            except OSError:
                time.sleep(pause)
        self._write_once(step, data, before)

    def _write_once(self, step: int, data: bytes, before: Callable[[], None]) -> None:
        self._check()
        before()
        name = f"step-{step:09d}"
        place, number = self._folder.join(name), self._attempt_number
        state = f"state-{number}.pt" if number else STATE
        place.join(state).write_bytes(data)
        manifest = Manifest(
            step=step,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            state=state,
            attempt=number,
            format_version=FORMAT_VERSION,
            written_by=self._attempt.claim.written_by if self._attempt else written_by(),
        )
        self._check()  # again: to write the state takes long
        # last: it completes the checkpoint
        place.join(MANIFEST).write_bytes(manifest.to_json().encode())
        self._check()
        self._prune(name, self._keep)

    @property
    def _attempt_number(self) -> int:
        return self._attempt.number if self._attempt else 0

    def _check(self) -> None:
        if self._attempt is not None:
            self._attempt.check()

    def _prune(self, newest: str, keep: int) -> list[str]:
        """Delete checkpoints older than `newest`, except `keep` complete ones with it.

        Newer folders, and states of later attempts, belong to another process.
        """
        older = [name for name in self._folder.list_folders() if name < newest]
        complete = [name for name in older if self._is_complete(name)]
        kept = complete[-(keep - 1) :] if keep > 1 else []
        deleted = [n for n in older if n not in kept and not self._is_of_later_attempt(n)]
        for name in deleted:
            place = self._folder.join(name)
            if place.join(MANIFEST).exists():
                place.join(MANIFEST).delete_file()  # first: no manifest is without its state
            place.delete_folder()
        return deleted

    def _is_of_later_attempt(self, name: str) -> bool:
        states = (STATE_OF_ATTEMPT.fullmatch(i.path) for i in self._folder.join(name).list_files())
        return any(int(state[1]) > self._attempt_number for state in states if state)

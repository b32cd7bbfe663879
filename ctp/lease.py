"""One writer at a time for a folder: a run, a sweep, a folder of shards or of features.

    .attempts/00001.json             a claim: the first process that wrote the folder
    .attempts/00001.heartbeat.json   its heartbeat, renewed as long as it lives
    .attempts/00002.json             the next one, ...

A claim is created with `Storage.create`, so that each number has one owner, and is never changed.
The owner of the highest number may write the folder. The next number may be claimed when its owner
has ended, is dead, or has not renewed its heartbeat for the length of its lease. An owner that was
paused for longer finds a higher number, see `Attempt.check`, and must not write any more.

The clocks of two machines are never compared. A process on the owner's machine looks at the owner's
process and at the time since the machine started. A process on another machine waits until it has
seen the same heartbeat for the length of the lease, or compares two times of the storage.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Self

from ctp.storage import Storage, StorageError
from ctp.text import one_line
from ctp.versions import written_by

ATTEMPTS = ".attempts"
LEASE_SECONDS = 60.0
"""Time without a heartbeat after which another process may take over."""
RENEWALS_PER_LEASE = 6
RELEASE_SECONDS = 10.0
"""How long a process waits at its end for its last heartbeat to be written."""
STORAGE_CLOCK_MARGIN = 2.0
"""Age of a heartbeat by the storage's clock, in lengths of the lease, from which it has run out
without waiting. It is above 1 because the clocks of an object store's machines differ a little."""
MAX_REASON_CHARS = 500
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = "/proc/self/ns/pid"


class LeaseError(RuntimeError):
    """A folder cannot be written by this process, because another one writes it."""


class FolderInUseError(LeaseError):
    """Another process holds the folder's lease."""


class SupersededError(LeaseError):
    """Another process took over the folder, so that this one must not write any more."""


@dataclass(frozen=True)
class Process:
    """The identity of a process, by which a process of the same machine can check if it lives.

    Attributes:
        host: name of its machine.
        pid: its number.
        boot: identifies the machine and its last start; "" if unknown.
        namespace: identifies the table that `pid` is a number of; "" if unknown.
        started: when it started, in the kernel's ticks, to distinguish it from a later process
            with the same number. 0 if unknown.
    """

    host: str
    pid: int
    boot: str = ""
    namespace: str = ""
    started: int = 0

    @classmethod
    def current(cls) -> Self:
        """Return this process."""
        boot, namespace = _machine()
        _, started = _state_of(os.getpid())
        return cls(socket.gethostname(), os.getpid(), boot, namespace, started)

    @property
    def is_on_this_machine(self) -> bool:
        """Return whether it is on this machine, with the same clock since the machine's start."""
        return bool(self.boot) and self.boot == _machine()[0]

    @property
    def is_alive(self) -> bool | None:
        """Return whether it still exists; None if this process cannot find out."""
        if not self.namespace or (self.boot, self.namespace) != _machine():
            return None
        state, started = _state_of(self.pid)
        if not state:
            # /proc may hide the processes of other users; a signal's error does not
            return None if _exists(self.pid) else False
        return state != "Z" and started == self.started  # Z: it has ended


@dataclass(frozen=True)
class Claim:
    """The file that a process writes when it becomes the owner of a folder.

    Attributes:
        attempt: number of the claim, from 1.
        token: a unique text.
        kind: what the process does, e.g. "pretrain".
        process: the process.
        since: date and time, for people.
        monotonic: seconds since the start of its machine.
        lease_seconds: how long a heartbeat is good for.
        written_by: see `ctp.versions.written_by`.
    """

    attempt: int
    token: str
    kind: str
    process: Process
    since: str
    monotonic: float
    lease_seconds: float
    written_by: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def new(cls, attempt: int, kind: str, lease_seconds: float) -> Self:
        """Return a claim of this process."""
        return cls(
            attempt=attempt,
            token=uuid.uuid4().hex,
            kind=kind,
            process=Process.current(),
            since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            monotonic=time.monotonic(),
            lease_seconds=lease_seconds,
            written_by=written_by(),
        )

    @classmethod
    def unreadable(cls, attempt: int) -> Self:
        """Return a placeholder for a claim that is not completely written, or not yet."""
        process = Process("an unknown machine", 0)
        return cls(attempt, "", "unknown", process, "an unknown time", 0.0, LEASE_SECONDS)

    def describe(self) -> str:
        """Return e.g. "attempt 2 (pretrain, process 12 on host a, since …)"."""
        return (
            f"attempt {self.attempt} ({self.kind}, process {self.process.pid} on host "
            f"{self.process.host}, since {self.since})"
        )

    def to_json(self) -> bytes:
        """Return the content of its file."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, attempt: int, data: bytes) -> Self:
        """Read what `to_json` wrote."""
        try:
            values = json.loads(data)
            return cls(**{**values, "process": Process(**values["process"])})
        except (ValueError, TypeError, KeyError):
            return cls.unreadable(attempt)


class Outcome(Enum):
    """State of the owner of a claim."""

    RUNNING = "running"
    ENDED = "ended"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class Heartbeat:
    """A heartbeat of a claim's owner; the last one has its outcome.

    Attributes:
        token: token of the claim.
        beat: number of the heartbeat.
        monotonic: seconds since the start of the owner's machine.
        outcome: RUNNING as long as the owner lives.
        reason: reason of a failure.
    """

    token: str
    beat: int
    monotonic: float
    outcome: Outcome = Outcome.RUNNING
    reason: str = ""

    def to_json(self) -> bytes:
        """Return the content of its file."""
        return json.dumps({**asdict(self), "outcome": self.outcome.value}).encode()

    @classmethod
    def of(cls, claim: Claim, data: bytes) -> Self:
        """Return the heartbeat in a file, or one made from the claim if there is none yet."""
        with suppress(ValueError, TypeError, KeyError):
            values = json.loads(data)
            if values["token"] == claim.token:
                return cls(**{**values, "outcome": Outcome(values["outcome"])})
        return cls(claim.token, 0, claim.monotonic)


@dataclass(frozen=True)
class Attempt:
    """A claim of a folder, for all processes that write it; picklable.

    Attributes:
        folder: the folder.
        claim: the claim.
    """

    folder: Storage
    claim: Claim

    @property
    def number(self) -> int:
        """Return the number of the attempt, from 1."""
        return self.claim.attempt

    def check(self) -> None:
        """Check that no later attempt exists. Call it before anything is written or deleted.

        Raises:
            SupersededError: one exists, or the folder was deleted.
            StorageError: this cannot be looked up.
        """
        newest = newest_claim(self.folder)
        if newest is not None and newest.token == self.claim.token:
            return
        if newest is None or newest.attempt <= self.number:
            now = f"{self.folder.uri} was deleted" + (
                f", and {newest.describe()} created it again" if newest else ""
            )
        else:
            now = f"{newest.describe()} has taken over {self.folder.uri}"
        raise SupersededError(
            f"{now}, while attempt {self.number} (process {self.claim.process.pid} on host "
            f"{self.claim.process.host}) was paused or could not reach the storage for more than "
            f"{self.claim.lease_seconds:g} s. This process writes nothing more, and must not "
            "continue. If both were meant to run, give one of them another name"
        )

    def write_heartbeat(self, beat: Heartbeat) -> None:
        """Replace the heartbeat."""
        _heartbeat_place(self.folder, self.number).write_bytes(beat.to_json())


class Lease:
    """A folder's lease, which a thread renews; see `hold`.

    Attributes:
        attempt: the claim, for all processes that write the folder.
    """

    def __init__(self, attempt: Attempt):
        self.attempt = attempt
        self._beat = 0
        self._ended = threading.Event()
        self._outcome, self._reason = Outcome.ENDED, ""
        self._lost: str | None = None
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def lost_reason(self) -> str | None:
        """Return why the lease is lost, or None. The answer may be a heartbeat old."""
        return self._lost

    def end(self, outcome: Outcome, reason: str = "") -> None:
        """Release the lease, so that the next process need not wait for it to run out.

        A storage that does not answer does not delay the end of the process.
        """
        self._outcome, self._reason = outcome, one_line(reason)[:MAX_REASON_CHARS]
        self._ended.set()
        self._thread.join(RELEASE_SECONDS)

    def delete_folder(self) -> None:
        """Delete the folder. The claims are deleted last: until then nobody else can claim it.

        Raises:
            SupersededError: another process holds the lease.
            StorageError: something cannot be deleted.
        """
        self.attempt.check()
        folder = self.attempt.folder
        for info in folder.list_files():
            if not info.path.startswith(f"{ATTEMPTS}/"):
                folder.join(info.path).delete_file()
        with self._writing:  # a heartbeat that is under way would create the folder again
            folder.delete_folder()

    def _renew(self) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            # also after a first beat that failed
            pause = self.attempt.claim.lease_seconds / RENEWALS_PER_LEASE
            try:
                self._write(Outcome.RUNNING)
            except SupersededError as error:
                self._lost = str(error)
                return
            except StorageError:
                pass  # the next beat may come through before the lease runs out
        with suppress(StorageError, SupersededError):
            self._write(self._outcome, self._reason)

    def _write(self, outcome: Outcome, reason: str = "") -> None:
        with self._writing:
            self.attempt.check()  # first, or a deleted folder would exist again
            self._beat += 1
            token = self.attempt.claim.token
            beat = Heartbeat(token, self._beat, time.monotonic(), outcome, reason)
            self.attempt.write_heartbeat(beat)


def _print_now(line: str) -> None:
    print(line, flush=True)  # it explains a pause


@contextmanager
def hold(
    folder: Storage,
    kind: str,
    *,
    lease_seconds: float = LEASE_SECONDS,
    report: Callable[[str], None] = _print_now,
) -> Iterator[Lease]:
    """Hold a folder's lease, for use in a `with` statement around all that writes the folder.

    If the last holder is known to have ended or died, this process gets the lease at once;
    otherwise after the holder's lease has run out.

    Args:
        folder: the folder. It need not exist.
        kind: one word for the work of this process, e.g. "pretrain".
        lease_seconds: how long a heartbeat is good for.
        report: called with a line of text if there is something to wait for.

    Raises:
        FolderInUseError: another process holds it; says which, and what to do.
        StorageError: the folder cannot be written.
    """
    folder.check_writable()
    lease = Lease(_claim(folder, kind, lease_seconds, report))
    try:
        yield lease
    except Exception as error:
        lease.end(Outcome.FAILED, str(error) or type(error).__name__)
        raise
    except BaseException:  # Ctrl-C, SIGTERM
        lease.end(Outcome.STOPPED)
        raise
    lease.end(Outcome.ENDED)


@dataclass(frozen=True)
class LeaseState:
    """The last attempt to write a folder.

    Attributes:
        claim: its claim.
        heartbeat: its last heartbeat.
        is_live: whether it still holds the lease; None if this cannot be known without waiting.
        renewed_seconds: Unix time of its last heartbeat by the storage's clock, None if unknown.
    """

    claim: Claim
    heartbeat: Heartbeat
    is_live: bool | None
    renewed_seconds: float | None

    @property
    def is_probably_live(self) -> bool:
        """Return `is_live`, or what this machine's clock says; for people, not for `hold`."""
        if self.is_live is not None or self.renewed_seconds is None:
            return bool(self.is_live)
        age_seconds = time.time() - self.renewed_seconds
        return age_seconds < STORAGE_CLOCK_MARGIN * self.claim.lease_seconds


def read_lease(folder: Storage) -> LeaseState | None:
    """Return the state of a folder's lease, without writing or waiting; None if it never had one.

    Raises:
        StorageError: it cannot be read.
    """
    claim = _newest_claim(folder)  # which does not touch the folder
    if claim is None:
        return None
    heartbeat, renewed_ns = _read_heartbeat(folder, claim), _renewed_ns(folder, claim)
    renewed_seconds = None if renewed_ns is None else renewed_ns / 1e9
    return LeaseState(claim, heartbeat, _is_live(claim, heartbeat), renewed_seconds)


def newest_claim(folder: Storage) -> Claim | None:
    """Return the claim with the highest number, None if there is none.

    Raises:
        StorageError: it cannot be read.
    """
    folder.join(ATTEMPTS).forget_listing()
    return _newest_claim(folder)


def read_claims(folder: Storage) -> list[Claim]:
    """Return all claims of a folder, in order.

    Raises:
        StorageError: they cannot be read.
    """
    return [_read_claim(folder, number) for number in _numbers(folder)]


def held_seconds(folder: Storage) -> float:
    """Return how long processes have held a folder, all of them together, by their heartbeats.

    Raises:
        StorageError: they cannot be read.
    """
    claims = read_claims(folder)
    return sum(max(_read_heartbeat(folder, c).monotonic - c.monotonic, 0) for c in claims)


# ---- claiming -----------------------------------------------------------------------------------


def _claim(
    folder: Storage, kind: str, lease_seconds: float, report: Callable[[str], None]
) -> Attempt:
    """Claim the next number, if necessary after waiting for the last lease to run out."""
    while True:
        last = newest_claim(folder)
        if last is not None:
            _wait_for_end(folder, last, report)
        claim = Claim.new(1 if last is None else last.attempt + 1, kind, lease_seconds)
        if _claim_place(folder, claim.attempt).create(claim.to_json()):
            return Attempt(folder, claim)
        # another process was faster; it is the last one now


def _wait_for_end(folder: Storage, claim: Claim, report: Callable[[str], None]) -> None:
    """Return when a claim's owner has ended or its lease has run out.

    Raises:
        FolderInUseError: the owner lives.
    """
    first = _read_heartbeat(folder, claim)
    is_live = _is_live(claim, first)
    if is_live is None and _is_old(folder, claim):
        is_live = False
    if is_live is None:
        report(
            f"{folder.uri} was last written by {claim.describe()}. This waits up to "
            f"{claim.lease_seconds:g} s to see whether that process still lives"
        )
        is_live = _is_renewed(folder, claim, first)
    if is_live:
        raise FolderInUseError(
            f"{folder.uri} is in use by {claim.describe()}. Two processes cannot write the same "
            f"folder. Wait until it ends, or stop it (kill {claim.process.pid} on "
            f"{claim.process.host}); then the same command continues. To start something else, "
            "give it another name"
        )


def _is_live(claim: Claim, heartbeat: Heartbeat) -> bool | None:
    """Return whether the owner of a claim holds its lease; None if only waiting can show this."""
    process = claim.process
    if heartbeat.outcome is not Outcome.RUNNING or process.is_alive is False:
        return False
    if not process.is_on_this_machine:
        return None
    # one clock: it counts from the start of the machine, and no one sets it
    if time.monotonic() - heartbeat.monotonic >= claim.lease_seconds:
        return False
    return process.is_alive


def _is_renewed(folder: Storage, claim: Claim, first: Heartbeat) -> bool:
    """Wait until the heartbeat changes, or for the length of the lease."""
    deadline = time.monotonic() + claim.lease_seconds
    while time.monotonic() < deadline:
        time.sleep(claim.lease_seconds / RENEWALS_PER_LEASE / 5)
        newest = newest_claim(folder)
        if newest is None:
            return False  # it was deleted
        if newest.token != claim.token:
            return _is_live(newest, _read_heartbeat(folder, newest)) is not False
        now = _read_heartbeat(folder, claim)
        if now != first:
            return now.outcome is Outcome.RUNNING
    return False


def _is_old(folder: Storage, claim: Claim) -> bool:
    """Return whether the last heartbeat is so old by the storage's clock that it has run out."""
    last = _renewed_ns(folder, claim)
    probe = folder.join(ATTEMPTS, f".clock-{uuid.uuid4().hex}")
    probe.write_bytes(b"ctp")
    now = probe.version()[1]
    probe.delete_file()
    if last is None or now is None:
        return False
    return now - last > STORAGE_CLOCK_MARGIN * claim.lease_seconds * 1e9


def _renewed_ns(folder: Storage, claim: Claim) -> int | None:
    """Return when a heartbeat, or the claim, was written, in Unix ns by the storage's clock."""
    places = _heartbeat_place(folder, claim.attempt), _claim_place(folder, claim.attempt)
    return places[0].version()[1] or places[1].version()[1]


def _numbers(folder: Storage) -> list[int]:
    """Return the numbers of a folder's claims, sorted."""
    stems = (info.path.removesuffix(".json") for info in folder.join(ATTEMPTS).list_files())
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _newest_claim(folder: Storage) -> Claim | None:
    numbers = _numbers(folder)
    return _read_claim(folder, numbers[-1]) if numbers else None


def _read_claim(folder: Storage, attempt: int) -> Claim:
    return Claim.from_json(attempt, _read(_claim_place(folder, attempt)))


def _claim_place(folder: Storage, attempt: int) -> Storage:
    return folder.join(ATTEMPTS, f"{attempt:05d}.json")


def _heartbeat_place(folder: Storage, attempt: int) -> Storage:
    return folder.join(ATTEMPTS, f"{attempt:05d}.heartbeat.json")


def _read_heartbeat(folder: Storage, claim: Claim) -> Heartbeat:
    return Heartbeat.of(claim, _read(_heartbeat_place(folder, claim.attempt)))


def _read(place: Storage) -> bytes:
    """Return the content of a file, nothing if it does not exist."""
    try:
        return place.read_bytes()
    except StorageError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        return b""


# ---- processes ----------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _machine() -> tuple[str, str]:
    """Return identifiers of the machine's start and of its table of processes; "" if unknown, as on
    systems other than Linux."""
    try:
        return BOOT_ID.read_text().strip(), os.readlink(PID_NAMESPACE)
    except OSError:
        return "", ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _state_of(pid: int) -> tuple[str, int]:
    """Return the state of a process, a letter, and when it started; "" and 0 if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])

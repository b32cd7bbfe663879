"""Which videos end the processes that decode them, so that these videos are not tried again.

Decoders crash, hang and exhaust the memory on files from the internet. The actor that decodes is
the process that may die; Ray then starts another process for the same actor. A video that has ended
`MAX_LOSSES` processes is not tried again. Two things remember what a process worked on:

- A file in the machine's folder for temporary files. The process writes each video to it (14 µs),
  so the file names the video exactly, and a crash adds its reason. But if a container is ended for
  lack of memory, the file is lost with it.
- A `LossRecord`, kept by a process that outlives all actors. At the start of each task, about once
  for 256 clips, an actor names the videos of the task to it and asks what must not be tried. To
  name each video when it is worked on would take too long, so a process does that only when videos
  take long, as in a build.
  When a container is lost, the videos of all tasks in progress are suspicious, to all actors. Only
  one process at a time may work on a suspicious video; and, in the repetition of such a task, on
  any video, since another may have taken the place of one that cannot be used. If that process
  dies, this video is the reason, and not what others did in the same container. So a video ends at
  most two containers, also if training workers are lost with them and the run has new actors.

A process that dies outside any video is a different fault. After `MAX_IDLE_DEATHS` in a row the job
stops, since more processes would die as well. Lost and reclaimed machines do not count.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ctp.data.quarantine import LETHAL, QuarantinedVideo
from ctp.data.time_limit import renew, time_limit
from ctp.video.encoded import VideoError

if TYPE_CHECKING:
    from ctp.data.catalog import VideoEntry

MAX_LOSSES = 2
"""A first loss may be chance: the system may have ended the process for lack of memory."""
MAX_IDLE_DEATHS = 3
"""Processes of an actor that die in a row outside any video, after which the job stops."""
KILLED = "was killed, perhaps out of memory"
LOST = "was lost with its machine or container, perhaps out of memory"
GRANT_SECONDS = 30.0
"""Added to the time limit of a video, for a process that replaces one that died on it."""
POLL_SECONDS = 0.1
LOSS_SECONDS = 60.0
"""Time in which the loss of a machine becomes known."""
MAX_FILE_AGE_SECONDS = 86_400.0
"""Older files are of jobs that have ended, or of processes that have not decoded for a day."""
FINISHED = "finished a task\n"
"""The first line of the file of a process that has."""


class DecodersDiedError(RuntimeError):
    """The processes that decode die before they begin with a video; the job cannot continue."""


class Machine(Enum):
    """What became of the machine, or container, of a process."""

    ALIVE = "exists"
    LOST = "lost"
    LEFT = "reclaimed or removed on purpose"


class Death(NamedTuple):
    """What a dead process left on this machine.

    Attributes:
        process: its name.
        video: what it worked on; None: nothing.
        reason: how it died, if it worked on a video.
        has_finished: whether it had finished a task.
    """

    process: str
    video: str | None
    reason: str
    has_finished: bool = False


class Standing(NamedTuple):
    """What a process must know before a task.

    Attributes:
        blamed: video -> reason, of videos that must not be tried.
        suspects: videos that only one process at a time may try.
        is_careful: whether all videos are suspects.
    """

    blamed: Mapping[str, str]
    suspects: frozenset[str]
    is_careful: bool


@dataclass
class _Actor:
    """An actor's present process, and what is known of the earlier ones.

    Attributes:
        process: its name.
        machine: where it is.
        in_task: whether it may work on a video.
        videos: those of the task.
        is_careful: whether each video of the task must be granted.
        video: what it has named to the record, with the time; it holds the grant if it is granted.
        idle_deaths: processes that died outside any video, since one has done anything.
    """

    process: str
    machine: str
    in_task: bool = False
    videos: tuple[str, ...] = ()
    is_careful: bool = False
    video: str | None = None
    began: float = 0.0
    limit: float = 0.0
    is_granted: bool = False
    idle_deaths: int = 0

    def reason(self, machine: Machine) -> str:
        """Return how the process died, as far as the record knows."""
        reason = KILLED if machine is Machine.ALIVE else LOST
        # it is replaced some time after its death
        may_be_late = time.monotonic() >= self.began + self.limit
        return f"{reason}, or took longer than {self.limit:g} s" if may_be_late else reason

    def end_task(self) -> None:
        """Record that the process works on nothing."""
        self.in_task, self.videos, self.video, self.is_granted = False, (), None, False


def all_alive(machines: Collection[str]) -> dict[str, Machine]:
    """Return that all machines exist."""
    return dict.fromkeys(machines, Machine.ALIVE)


class LossRecord:
    """Counts the processes that died on videos, for all actors of a job."""

    def __init__(
        self,
        known: Iterable[QuarantinedVideo] = (),
        states_of: Callable[[Collection[str]], Mapping[str, Machine]] = all_alive,
    ):
        """Start without any actor.

        Args:
            known: quarantined videos; those that have ended processes are not tried.
            states_of: returns the states of machines.
        """
        self._states_of = states_of
        self._blamed = {
            video_key(each.video_id, each.uri): each.reason for each in known if each.is_lethal
        }
        self._losses: Counter[str] = Counter()
        self._suspects: set[str] = set()
        self._lost_tasks: set[tuple[str, ...]] = set()
        self._actors: dict[str, _Actor] = {}
        self._vanished: list[tuple[_Actor, float]] = []

    def start(self, actor: str, process: str, machine: str, deaths: Sequence[Death]) -> str:
        """Record that an actor has a new process, so that its former one is dead.

        Args:
            actor: the actor.
            process: name of the new process.
            machine: where it is.
            deaths: what the actor's former processes left on this machine.

        Returns:
            why the job cannot continue; "" if it can.
        """
        former = self._actors.get(actor)
        left = {death.process: death for death in deaths}
        death = None if former is None else left.pop(former.process, None)
        for earlier in left.values():  # the actor has been elsewhere since then
            if earlier.video is not None:
                self._blame(earlier.video, earlier.reason)
        self._examine_lost()
        present = _Actor(process, machine)
        if former is not None:
            present.idle_deaths = self._examine(former, death)
        self._actors[actor] = present
        if present.idle_deaths < MAX_IDLE_DEATHS:
            return ""
        return (
            f"{present.idle_deaths} processes that decode videos died in a row before they began "
            "with a video. Perhaps they lack memory (each needs about 1 GiB), or are killed from "
            "outside; Ray's logs on their node name the reason"
        )

    def end_actors(self) -> None:
        """Record that all actors are gone, because their job starts again with others."""
        until = time.monotonic() + LOSS_SECONDS
        self._vanished += [(each, until) for each in self._actors.values() if each.in_task]
        self._actors.clear()

    def begin_task(self, actor: str, videos: Sequence[str]) -> Standing:
        """Return what the actor's process must know for its next task; it has finished the former.

        Args:
            actor: the actor.
            videos: those that it will work on; others may replace them.
        """
        if self._vanished:
            self._examine_lost()
        present = self._present(actor)
        if present.in_task:
            present.idle_deaths = 0
        present.end_task()
        present.in_task, present.videos = True, tuple(videos)
        present.is_careful = present.videos in self._lost_tasks
        self._lost_tasks.discard(present.videos)
        once = {video for video, number in self._losses.items() if number < MAX_LOSSES}
        return Standing(self._blamed, frozenset(self._suspects | once), present.is_careful)

    def end_task(self, actor: str) -> None:
        """Record that the actor's process has finished its task and begins no other now."""
        self._present(actor).end_task()
        self._present(actor).idle_deaths = 0

    def name(self, actor: str, video: str, limit: float) -> None:
        """Record what the actor's process works on from now, for at most `limit` seconds."""
        present = self._present(actor)
        present.video, present.is_granted, present.idle_deaths = video, False, 0
        present.began, present.limit = time.monotonic(), limit

    def grant(self, actor: str, video: str, limit: float) -> bool:
        """Return whether the actor's process may work on a suspicious video now.

        Only one process at a time may. A grant expires, because the actor may have vanished with
        its job.
        """
        now = time.monotonic()
        for other, each in self._actors.items():
            in_time = now < each.began + each.limit + GRANT_SECONDS
            if other != actor and each.is_granted and in_time:
                return False
        self.name(actor, video, limit)
        self._present(actor).is_granted = True
        return True

    def release(self, actor: str, video: str) -> None:
        """Record that the actor's process has survived a video that was granted to it."""
        present = self._present(actor)
        present.video, present.is_granted = None, False
        self._suspects.discard(video)

    def _examine(self, former: _Actor, death: Death | None) -> int:
        """Find what a process died on.

        Args:
            former: the process.
            death: what it left; None: nothing.

        Returns:
            the processes of the actor that died in a row outside any video.
        """
        if death is not None and death.video is not None:
            self._blame(death.video, death.reason)
            return 0
        machine = self._states_of({former.machine})[former.machine]
        if death is None and machine is Machine.LEFT:
            return 0
        was_named = former.video is not None
        if death is None:
            self._judge([former], machine)
            if was_named:
                return 0
        earlier = 0 if death is not None and death.has_finished else former.idle_deaths
        return earlier + (machine is Machine.ALIVE)

    def _examine_lost(self) -> None:
        """Find what the actors of lost machines died on, also those that are not replaced yet."""
        actors = [*self._actors.values(), *(actor for actor, _ in self._vanished)]
        busy = [each for each in actors if each.in_task and each.machine]
        for machine, state in self._states_of({each.machine for each in busy}).items():
            if state is Machine.LOST:
                self._judge([each for each in busy if each.machine == machine], state)
        self._vanished = [
            (actor, until)
            for actor, until in self._vanished
            if actor.in_task and time.monotonic() < until
        ]

    def _judge(self, dead: Sequence[_Actor], machine: Machine) -> None:
        """Blame or suspect the videos of processes that died together and left nothing."""
        # of several processes in a lost container, only one can have had a grant
        certain = [each for each in dead if each.is_granted or machine is Machine.ALIVE]
        named = [each for each in certain if each.video is not None]
        for each in named:
            assert each.video is not None
            # it was searched for: then it explains an earlier death without a file, too
            is_search = each.is_careful or each.video in self._suspects
            explained = MAX_LOSSES if each.is_granted and is_search else 1
            self._blame(each.video, each.reason(machine), explained)
        for each in dead:
            if not named and each.video is not None:
                self._suspects.add(each.video)
            elif not named and each.in_task:
                self._suspects.update(each.videos)
                self._lost_tasks.add(each.videos)
            each.end_task()

    def _blame(self, video: str, reason: str, losses: int = 1) -> None:
        self._losses[video] += losses
        if self._losses[video] >= MAX_LOSSES:
            self._suspects.discard(video)
            self._blamed[video] = f"{LETHAL} {reason}, {self._losses[video]} times"

    def _present(self, actor: str) -> _Actor:
        # a record whose process is lost starts again with nothing
        return self._actors.setdefault(actor, _Actor("", ""))


class Record(Protocol):
    """A `LossRecord` in another process, as one actor calls it; the methods without a result do not
    wait."""

    def start(self, process: str, deaths: Sequence[Death]) -> str: ...
    def begin_task(self, videos: Sequence[str]) -> Standing: ...
    def end_task(self) -> None: ...
    def name(self, video: str, limit: float) -> None: ...
    def grant(self, video: str, limit: float) -> bool: ...
    def release(self, video: str) -> None: ...


class Journal:
    """Names the video that this process works on."""

    def __init__(
        self, record: Record, actor: str, max_seconds_per_video: float, *, slow: bool = False
    ):
        """Open the journal of this process.

        Args:
            record: what it shares with the job's other processes.
            actor: name of the actor; the process that replaces this one has the same.
            max_seconds_per_video: the process ends when it works longer on a video.
            slow: whether videos take so long (100 ms) that each can be named to the record.
        """
        self._record, self._max_seconds, self._slow = record, max_seconds_per_video, slow
        self._standing: Standing | None = None
        process = uuid.uuid4().hex[:8]
        deaths = _collect_deaths(actor)
        self._file = _open_file(f"{actor}-{process}")
        if self._file is not None:
            # a crash and the time limit leave their reason
            faulthandler.enable(self._file, all_threads=False)
            faulthandler.register(signal.SIGALRM, self._file, all_threads=False, chain=True)
        self._kept_bytes = 0
        self._error = record.start(process, deaths)

    @contextmanager
    def task(self, videos: Callable[[], Iterable[VideoEntry]] = tuple) -> Iterator[None]:
        """Mark a task of the actor, for use in a `with` statement around its work on videos.

        Args:
            videos: returns those that it will work on; none if each is named when it is worked on.

        Raises:
            DecodersDiedError: earlier processes of the actor died outside any video.
        """
        if self._error:
            raise DecodersDiedError(self._error)
        # one call for the end of a task and the begin of the next: all actors share the record
        self._standing = self._record.begin_task([video_key(v.id, v.uri) for v in videos()])
        try:
            yield
        finally:
            self._keep_finished()
            if self._slow:
                self._record.end_task()

    @contextmanager
    def working_on(self, video_id: str, uri: str) -> Iterator[None]:
        """Blame a video if the process dies, or the time limit passes, inside the block; to be used
        inside `task`. The time limit does not count the time for which the storage is read.

        Raises:
            VideoError: the video has ended `MAX_LOSSES` processes.
        """
        assert self._standing is not None, "working on a video outside a task"
        video, standing = video_key(video_id, uri), self._standing
        reason = standing.blamed.get(video)
        if reason is not None:
            raise VideoError(video_id, uri, reason)
        is_suspect = standing.is_careful or video in standing.suspects
        if is_suspect:
            self._wait_for_grant(video)
        elif self._slow:
            self._record.name(video, self._max_seconds)
        self._write({"video": video, "limit": self._max_seconds})
        try:
            with time_limit(self._max_seconds):
                yield
        finally:
            self._write(None)
            if is_suspect:
                self._record.release(video)

    def renew(self) -> None:
        """Begin the time limit of the present video anew, because the work on it has advanced."""
        renew(self._max_seconds)

    def _wait_for_grant(self, video: str) -> None:
        while not self._record.grant(video, self._max_seconds):
            time.sleep(POLL_SECONDS)

    def _write(self, work: Mapping[str, object] | None) -> None:
        if self._file is not None:
            # a full disk must not stop the run; then the record alone knows of a death
            with suppress(OSError):
                if work is None:
                    self._file.truncate(self._kept_bytes)
                else:
                    self._file.write(json.dumps(work).encode() + b"\n")

    def _keep_finished(self) -> None:
        if self._file is not None and not self._kept_bytes:
            with suppress(OSError):
                self._kept_bytes = self._file.write(FINISHED.encode())


def working_on(journal: Journal | None, video_id: str, uri: str) -> AbstractContextManager[None]:
    """Return `journal.working_on`; without a journal, a context that does nothing."""
    return nullcontext() if journal is None else journal.working_on(video_id, uri)


def video_key(video_id: str, uri: str) -> str:
    """Return a short key that is unique among the videos of all data sets of a job."""
    return blake2b(f"{video_id}\n{uri}".encode(), digest_size=8).hexdigest()


def journal_folder() -> Path:
    """Return the folder of this machine's journals."""
    return Path(tempfile.gettempdir()) / f"ctp-journal-{os.getuid()}"


def _open_file(name: str) -> FileIO | None:
    """Open a new file in the folder of journals; None if this is impossible."""
    folder = journal_folder()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        _delete_old_files(folder)
        return FileIO(folder / name, "a")
    return None


def _delete_old_files(folder: Path) -> None:
    """Delete what killed drivers and machines' other jobs have left."""
    oldest = time.time() - MAX_FILE_AGE_SECONDS
    for path in folder.iterdir():
        with suppress(OSError):  # another process may have deleted it
            if path.stat().st_mtime < oldest:
                path.unlink()


def _collect_deaths(actor: str) -> list[Death]:
    """Return, and delete, what earlier processes of an actor left on this machine."""
    deaths = []
    for path in journal_folder().glob(f"{actor}-*"):
        with suppress(OSError):
            process = path.name.rpartition("-")[2]
            deaths.append(_read_death(process, path.read_text(errors="replace")))
            path.unlink()
    return deaths


def _read_death(process: str, text: str) -> Death:
    has_finished = text.startswith(FINISHED)
    line, _, crash = text.removeprefix(FINISHED).partition("\n")
    try:
        work = json.loads(line)
        return Death(process, work["video"], _reason(work, crash), has_finished)
    except (ValueError, KeyError):  # nothing, or the process died while it wrote
        return Death(process, None, "", has_finished)


def _reason(work: Mapping[str, Any], crash: str) -> str:
    error = re.search(r"Fatal Python error: (.+)", crash)
    if error:
        return f"crashed ({error[1]})"
    return f"took longer than {work['limit']:g} s" if crash else KILLED

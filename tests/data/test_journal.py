"""A video that ends the process that decodes it is known to the process that replaces it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from ctp.data.journal import (
    MAX_FILE_AGE_SECONDS,
    Death,
    LossRecord,
    Machine,
    Standing,
    journal_folder,
    video_key,
    working_on,
)
from ctp.data.quarantine import QuarantinedVideo

HERE = Path(__file__).parent
WORKER = str(HERE / "crashing_worker.py")
LOST = Machine.LOST


class Workers:
    """Processes of one actor, one after the other.

    Attributes:
        temporary: the folder for temporary files of the next one.
    """

    def __init__(self, address: str, folder: Path):
        self.address, self.actor, self.folder = address, uuid.uuid4().hex, folder
        self.temporary = folder / "tmp"

    def start(
        self, *names: str, seconds: float = 30, machine: str = "ALIVE"
    ) -> subprocess.Popen[str]:
        """Start one that works on videos."""
        self.temporary.mkdir(exist_ok=True)
        arguments = [self.address, self.actor, machine, str(seconds), str(self.folder), *names]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
            "TMPDIR": str(self.temporary),
        }
        return subprocess.Popen(
            [sys.executable, WORKER, *arguments],
            env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *names: str, **options: Any) -> tuple[int, list[str]]:
        """Return the exit status and the printed lines of one that works on videos."""
        with self.start(*names, **options) as worker:
            output, _ = worker.communicate(timeout=50)
        return worker.returncode, output.splitlines()

    def lose_temporary_files(self) -> None:
        """Let the next one find nothing, as in a new container."""
        self.temporary = self.folder / uuid.uuid4().hex


@pytest.fixture
def workers(losses_address: str, tmp_path: Path) -> Workers:
    return Workers(losses_address, tmp_path)


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize(
    ("name", "reason", "reason_if_lost"),
    [
        ("crash", "crashed (Segmentation fault), 2 times", "was killed, perhaps out of memory"),
        ("killed", "was killed, perhaps out of memory, 2 times", "was killed"),
        ("hang", "took longer than 1 s, 2 times", "took longer than 1 s, 2 times"),
    ],
)
def test_a_video_that_ends_two_processes_is_not_tried_again(
    workers: Workers, name: str, reason: str, reason_if_lost: str, is_lost: bool
) -> None:
    name += "-lost" * is_lost
    for _ in range(2):
        status, lines = workers.run("good", name, "never", seconds=1)
        assert status < 0
        assert lines == ["good done"]
        if is_lost:
            workers.lose_temporary_files()
    status, lines = workers.run("good", name, "other", seconds=1)
    assert status == 0
    assert lines[0] == "good done"
    assert lines[2] == "other done"
    assert lines[1].startswith(name)
    assert (reason_if_lost if is_lost else reason) in lines[1]


def test_a_video_that_ends_one_process_is_tried_again(workers: Workers) -> None:
    assert workers.run("once")[0] < 0
    assert workers.run("once") == (0, ["once done"])


def test_a_video_is_known_to_all_actors(
    workers: Workers, losses_address: str, tmp_path: Path
) -> None:
    for _ in range(2):
        assert workers.run("killed-known")[0] < 0
    assert workers.run("killed-known")[0] == 0
    status, [line] = Workers(losses_address, tmp_path).run("killed-known")
    assert status == 0
    assert "2 times" in line


def test_processes_that_end_after_their_videos_blame_none(workers: Workers) -> None:
    for _ in range(4):
        assert workers.run("good") == (0, ["good done"])


def test_a_video_that_a_living_process_works_on_is_not_blamed(
    workers: Workers, losses_address: str, tmp_path: Path
) -> None:
    with workers.start("good", "hang-living") as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "good done\n"  # the next video has begun, or will
        other = Workers(losses_address, tmp_path)
        for _ in range(2):
            assert other.run("other") == (0, ["other done"])
        living.kill()
    status, lines = workers.run("hang-living", seconds=1)
    assert (status < 0, lines) == (True, [])  # tried: one loss so far
    assert workers.run("other") == (0, ["other done"])


def test_processes_that_die_outside_any_video_end_the_job(workers: Workers) -> None:
    for _ in range(3):
        assert workers.run("die")[0] < 0
    status, [line] = workers.run("good")
    assert status == 0
    assert "3 processes" in line
    assert "memory" in line


def test_a_finished_task_shows_that_the_deaths_were_chance(workers: Workers) -> None:
    for deaths in (2, 1, 1):  # the end of a process after its task counts, too
        for _ in range(deaths):
            assert workers.run("die")[0] < 0
        assert workers.run("good") == (0, ["good done"])


def test_lost_machines_end_no_job(workers: Workers) -> None:
    for machine in ("LOST", "LEFT"):
        for _ in range(4):
            assert workers.run("die", machine=machine)[0] < 0
            workers.lose_temporary_files()
        assert workers.run("good") == (0, ["good done"])


def test_old_files_are_deleted(workers: Workers) -> None:
    assert workers.run("die")[0] < 0
    [left] = (workers.temporary / journal_folder().name).iterdir()
    other = left.with_name("other-process")
    for path, age in ((left, MAX_FILE_AGE_SECONDS + 60), (other, MAX_FILE_AGE_SECONDS - 60)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    workers.actor = uuid.uuid4().hex
    workers.run("good")
    assert not left.exists()
    assert other.exists()


def test_a_missing_folder_for_temporary_files_stops_nothing(workers: Workers) -> None:
    (workers.temporary / journal_folder().name).parent.mkdir()
    (workers.temporary / journal_folder().name).write_text("no folder")
    for _ in range(2):
        assert workers.run("good", "killed-no-folder")[0] < 0
    assert workers.run("good", "killed-no-folder")[0] == 0


def test_without_a_journal_nothing_is_recorded() -> None:
    with working_on(None, "video", ""):
        pass


class Containers:
    """Actors in containers that end with all that is in them."""

    def __init__(self, *actors: str, known: tuple[QuarantinedVideo, ...] = ()):
        self.record = LossRecord(known, self.states_of)
        self.actors, self.number, self.lost = actors, 0, LOST
        self.standings: dict[str, Standing] = {}
        self.restart()

    def states_of(self, machines: Collection[str]) -> dict[str, Machine]:
        present = f"container{self.number}"
        return {each: Machine.ALIVE if each == present else self.lost for each in machines}

    def restart(self) -> None:
        """Lose the container and its files; start the actors in a new one."""
        self.number += 1
        for actor in self.actors:
            self.start(actor)
            # the same videos each time: a0, a1, a2 for the actor a and those in its place
            self.standings[actor] = self.begin(actor, *(f"{actor[0]}{n}" for n in range(3)))

    def start(self, actor: str) -> None:
        self.record.start(actor, f"{actor}-{self.number}", f"container{self.number}", [])

    def work(self, actor: str, task: list[str]) -> Iterator[None]:
        """Let an actor do a task as with a `Journal`, and stop between any two things it does."""
        self.start(actor)
        yield
        standing = self.begin(actor, *task)
        for video in task:
            if video in standing.blamed:
                continue
            is_suspect = standing.is_careful or video in standing.suspects
            while is_suspect and not self.record.grant(actor, video, 60):
                yield
            yield
            if video == "large":
                raise MemoryError
            if is_suspect:
                self.record.release(actor, video)

    def begin(self, actor: str, *videos: str) -> Standing:
        return self.record.begin_task(actor, videos)

    def restart_run(self) -> None:
        """Lose the container with a training worker, so that the run has new actors."""
        self.record.end_actors()
        self.actors = tuple(f"{actor}'" for actor in self.actors)
        self.restart()

    def blamed(self) -> set[str]:
        return set(self.begin(self.actors[0]).blamed)


def test_a_container_that_dies_is_blamed_on_one_video() -> None:
    """All processes of the container die, but only one at a time works on a suspicious video."""
    pod = Containers("a", "b")
    pod.record.name("a", "large", 60)
    pod.record.name("b", "small", 60)
    pod.restart()
    assert pod.begin("a").suspects == {"large", "small"}
    assert pod.record.grant("b", "small", 60)
    assert not pod.record.grant("a", "large", 60)
    pod.record.release("b", "small")
    assert pod.begin("a").suspects == {"large"}
    assert pod.record.grant("a", "large", 60)
    pod.record.name("b", "other", 60)
    pod.restart()
    assert pod.blamed() == {"large"}


def test_a_video_that_was_not_named_is_one_of_the_tasks_in_progress() -> None:
    pod = Containers("a", "b")
    assert not pod.standings["a"].suspects
    pod.restart()
    both = {"a0", "a1", "a2", "b0", "b1", "b2"}
    # also for an actor that is replaced before the others, and for one that is elsewhere
    assert pod.standings["a"].suspects == pod.begin("c", "c0").suspects == both
    assert all(standing.is_careful for standing in pod.standings.values())
    assert not pod.begin("c", "c0", "a0").is_careful
    assert pod.record.grant("a", "a0", 60)
    pod.record.release("a", "a0")
    assert pod.record.grant("b", "b1", 60)
    pod.restart()
    assert pod.blamed() == {"b1"}
    assert pod.standings["a"].suspects == both - {"a0", "b1"}


@pytest.mark.parametrize("with_workers", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_video_ends_at_most_two_containers(seed: int, with_workers: bool) -> None:
    """Several actors have the video in their tasks, and work in any order."""
    rng, pod, losses = random.Random(seed), Containers(), 0
    tasks = [[f"{actor}{n}" for n in range(4)] for actor in "abc"]
    for task in tasks:
        task.insert(rng.randrange(5), "large")
    while True:
        pod.number += 1
        generation = losses if with_workers else 0
        working = [pod.work(f"{n}-{generation}", task) for n, task in enumerate(tasks)]
        try:
            while working:
                actor = rng.choice(working)
                if next(actor, "done") == "done":
                    working.remove(actor)
            break
        except MemoryError:
            losses += 1
            if with_workers:
                pod.record.end_actors()
    assert losses == 2
    pod.number += 1
    assert set(pod.begin("another").blamed) == {"large"}


def test_a_run_that_starts_again_in_the_same_container_blames_no_video() -> None:
    pod = Containers("a")
    pod.record.grant("a", "good", 60)
    pod.record.end_actors()
    pod.record.start("b", "b-1", "container1", [])
    standing = pod.begin("b")
    assert not standing.blamed
    assert not standing.suspects
    assert pod.record.grant("b", "other", 60)


def test_careful_processes_become_fast_again() -> None:
    pod = Containers("a")
    pod.restart()
    assert pod.standings["a"].is_careful
    for video in pod.standings["a"].suspects:
        assert pod.record.grant("a", video, 60)
        pod.record.release("a", video)
    standing = pod.begin("a", "a0")
    assert not standing.is_careful
    assert not standing.suspects


def test_reclaimed_machines_blame_no_video() -> None:
    pod = Containers("a")
    pod.lost = Machine.LEFT
    for _ in range(5):
        pod.record.name("a", "good", 60)
        pod.restart()
        assert pod.record.grant("a", "good", 60)
        pod.restart()
    standing = pod.begin("a")
    assert not standing.blamed
    assert not standing.suspects
    assert not standing.is_careful


def test_a_grant_ends_when_its_process_is_replaced() -> None:
    pod = Containers("a", "b")
    assert pod.record.grant("a", "large", 60)
    assert not pod.record.grant("b", "other", 60)
    pod.record.start("a", "next", "container1", [Death("a-1", "large", "was killed")])
    assert pod.record.grant("b", "other", 60)
    assert pod.blamed() == set()
    assert "large" in pod.begin("a").suspects


def test_an_evaluation_or_a_resumed_run_knows_the_ledger() -> None:
    lethal = QuarantinedVideo("a", "/a", "the process that decoded it was killed, 2 times")
    broken = QuarantinedVideo("b", "/b", "cannot be opened as a video")
    assert lethal.is_lethal
    assert not broken.is_lethal  # it may be repaired
    pod = Containers("a", known=(lethal, broken))
    assert pod.blamed() == {video_key("a", "/a")}


def test_the_reason_of_a_video_that_ends_processes_is_lethal(workers: Workers) -> None:
    for _ in range(2):
        workers.run("killed-lethal")
    _, [line] = workers.run("killed-lethal")
    assert QuarantinedVideo("a", "/a", line.partition(" ")[2]).is_lethal

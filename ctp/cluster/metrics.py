"""What Ray's Prometheus endpoint tells of a run, each number tagged by the run's name and kind.

Ray sends on every ten seconds what was set, and at once, if it finds the time, when a process ends:
as `ray_ctp_…`, counters as `ray_ctp_…_total`. It forgets a gauge that is not set again within
twenty seconds, and keeps a counter as long as the node. Numbers that are not finite never arrive.
The sum of a histogram is Ray's guess from the buckets: take quantiles of histograms, and means of
counters.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge, Histogram

if TYPE_CHECKING:  # a run's board is to be small
    from ctp.training.config import RunConfig
    from ctp.training.run_folder import Row

TAGS = ("run", "kind")
BOUNDARIES = [digit * 10.0**power for power in range(-3, 3) for digit in (1, 2, 5)]
"""Between the buckets of every histogram: 1 ms to 500 s."""
FROM_ROWS = {
    "step": "Steps done",
    "total_steps": "Steps of the whole run",
    "loss": "Loss of the newest step, mean over workers",
    "gradient_norm": "Norm of the newest step's gradient before it was clipped",
    "learning_rate": "Learning rate of the newest step",
    "clips_per_second": "Clips trained on each second since the log line before",
    "wait_share": "Share of the time spent waiting for data, of the worker that waited longest",
    "worker_memory_gib": "Peak memory of the first worker, GiB",
    "quarantined": "Videos that could not be used",
    "iou": "Mean IoU of tracking on videos held out",
    "still_iou": "The same of boxes that stay still",
    "top1": "Share of test videos classified right",
}
"""What is a gauge of the same name: entries of log lines, some of which only some runs have."""
GAUGES = FROM_ROWS | {
    "videos": "Videos of the run",
    "not_finite": "1 if the loss or its gradient is not finite",
    "progress_time_seconds": "When the run got on last, in seconds since 1970",
}
MUST_BE_FINITE = {"loss", "gradient_norm"}


def tags_of(config: RunConfig) -> dict[str, str]:
    """The run's name, and its kind: pretrain, finetune or track."""
    kind = type(config).__name__.removesuffix("Config").lower()
    return dict(zip(TAGS, (config.name, kind), strict=True))


class RunMetrics:
    """What a run's log lines tell; one process holds it from the run's start to its end."""

    def __init__(self, tags: dict[str, str], num_videos: int):
        """The run waits for its workers.

        Args:
            tags: as `tags_of`.
            num_videos: of the run.
        """
        self._tags = tags
        self._clips: int | None = None
        self._gauges = {name: _gauge(name, about) for name, about in GAUGES.items()}
        self._starts = _counter("starts", "Starts of the run's workers; all but one are restarts")
        self._trained = _counter("clips", "Clips trained on, again after a restart too")
        self._step = _histogram("step_seconds", "Seconds of a step, mean of a log line's steps")
        self._saving = _histogram("checkpoint_seconds", "Seconds that writing a checkpoint took")
        self._now = {"videos": float(num_videos)}
        self._got_on()

    def refresh(self) -> None:
        """Set all gauges again; to be called every few seconds."""
        for name, value in self._now.items():
            self._gauges[name].set(value, self._tags)

    def start(self, first_clip: int) -> None:
        """Workers have started and go on from a clip."""
        self._clips = first_clip
        self._starts.inc(1, self._tags)
        self._got_on()

    def take(self, row: Row) -> None:
        """Take in a log line."""
        told = {name: float(value) for name, value in row.items() if not isinstance(value, str)}
        finite = {name: value for name, value in told.items() if math.isfinite(value)}
        self._now |= {name: finite[name] for name in FROM_ROWS if name in finite}
        self._now["not_finite"] = float(not finite.keys() >= MUST_BE_FINITE)
        if self._clips is not None:  # else this process was lost and is there again
            self._trained.inc(told["clips"] - self._clips, self._tags)
        self._clips = int(told["clips"])
        total_batch = told["clips"] / told["step"]
        self._step.observe(total_batch / told["clips_per_second"], self._tags)
        if "checkpoint_seconds" in told:
            self._saving.observe(told["checkpoint_seconds"], self._tags)
        self._got_on()

    def _got_on(self) -> None:
        self._now["progress_time_seconds"] = time.time()
        self.refresh()


class MakerMetrics:
    """What an actor that makes clips has to tell, a block at a time."""

    def __init__(self, tags: dict[str, str]):
        self._tags = tags
        self._made = _counter("clips_made", "Clips made, trained on or not")
        self._videos = _counter("videos_read", "Videos opened for them, again in each block")
        self._busy = _counter("making_seconds", "Seconds that actors were at it")
        self._decode = _histogram(
            "decode_seconds", "Seconds of a clip, mean of a block: read, decode, play"
        )

    def made(self, clips: int, videos: int, seconds: float) -> None:
        """A block was made of so many clips, of so many videos, in so long."""
        self._made.inc(clips, self._tags)
        self._videos.inc(videos, self._tags)
        self._busy.inc(seconds, self._tags)
        self._decode.observe(seconds / clips, self._tags)


def _gauge(name: str, about: str) -> Gauge:
    return Gauge(f"ctp_{name}", about, TAGS)


def _counter(name: str, about: str) -> Counter:
    return Counter(f"ctp_{name}", about, TAGS)


def _histogram(name: str, about: str) -> Histogram:
    return Histogram(f"ctp_{name}", about, BOUNDARIES, TAGS)

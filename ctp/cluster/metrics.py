"""Metrics of runs at Ray's Prometheus endpoint, each tagged by the run's name and kind.

Ray exports the values every ten seconds, and if possible when a process ends: as `ray_ctp_…`,
counters as `ray_ctp_…_total`. It drops a gauge that is not set again within twenty seconds, and
keeps a counter as long as the node. Values that are not finite are not exported. The sum of a
histogram is Ray's estimate from the buckets: compute quantiles from histograms, but means from
counters.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge, Histogram

from ctp.score import Score

if TYPE_CHECKING:  # the coordinator is a small process
    from ctp.cluster.s3_monitor import S3Counts
    from ctp.training.config import RunConfig
    from ctp.training.run_folder import Row

TAGS = ("run", "kind")
WORKER_TAGS = (*TAGS, "rank")
BOUNDARIES = [digit * 10.0**power for power in range(-3, 3) for digit in (1, 2, 5)]
"""Bucket boundaries of all histograms: 1 ms to 500 s."""
ROW_GAUGES = {
    "step": "Steps done",
    "total_steps": "Steps of the whole run",
    "loss": "Loss of the newest step, mean over workers",
    "gradient_norm": "Gradient norm of the newest step before clipping",
    "learning_rate": "Learning rate of the newest step",
    "clips_per_second": "Samples trained on per second since the previous log line",
    "wait_share": "Share of the time spent waiting for data, of the worker that waited longest",
    "step_skew_seconds": "Seconds between the first and the last worker with a step's batch, mean",
    "quarantined": "Videos that cannot be used",
}
"""Gauges with the values of the log line's entries of the same name."""
GAUGES = ROW_GAUGES | {
    "score": "The score that the run is judged by, e.g. tracking IoU or top-1 accuracy",
    "baseline_score": "The same score of a trivial answer",
    "videos": "Videos of the run",
    "not_finite": "1 if the loss or its gradient is not finite",
    "progress_time_seconds": "Time of the last progress, in seconds since 1970",
    "checkpoint_time_seconds": "Time of the last checkpoint, or of the first start without one, in "
    "seconds since 1970",
}
WORKER_GAUGES = {
    "worker_step_seconds": "Seconds of a worker's step, mean of some seconds",
    "worker_wait_share": "Share of its time that a worker waited for data",
    "worker_queue_steps": "Batches that were drawn ahead of a worker",
    "worker_memory_gib": "Peak memory of a worker, GiB",
}
"""Gauges with a value for each worker."""
MUST_BE_FINITE = {"loss", "gradient_norm"}


def tags_of(config: RunConfig) -> dict[str, str]:
    """Return the tags of a run: its name, and its kind (pretrain, finetune or track)."""
    return {"run": config.name, "kind": config.KIND}


class RunMetrics:
    """Metrics from a run's log lines; one process holds them from the run's start to its end."""

    def __init__(self, tags: dict[str, str], num_videos: int, score: Score):
        """Start before any worker.

        Args:
            tags: see `tags_of`.
            num_videos: videos of the run.
            score: the score that the run is judged by.
        """
        self._tags, self._score = tags, score
        self._samples: int | None = None
        self._gauges = {name: _gauge(name, about) for name, about in GAUGES.items()}
        self._worker_gauges = {
            name: Gauge(f"ctp_{name}", about, WORKER_TAGS) for name, about in WORKER_GAUGES.items()
        }
        self._starts = _counter("starts", "Starts of the run's workers; all but one are restarts")
        self._trained = _counter("clips", "Samples trained on, also repeated ones after a restart")
        self._step = _histogram("step_seconds", "Seconds of a step, mean of a log line's steps")
        self._saving = _histogram("checkpoint_seconds", "Seconds to write a checkpoint")
        self._values = {"videos": float(num_videos)}
        self._workers: dict[int, dict[str, float]] = {}
        self._record_progress()

    def refresh(self) -> None:
        """Set all gauges again; to be called every few seconds."""
        for name, value in self._values.items():
            self._gauges[name].set(value, self._tags)
        for rank, values in self._workers.items():
            for name, value in values.items():
                self._worker_gauges[name].set(value, {**self._tags, "rank": str(rank)})

    def start(self, first_sample: int) -> None:
        """Record that workers continue at a sample."""
        self._samples = first_sample
        self._starts.inc(1, self._tags)
        self._values.setdefault("checkpoint_time_seconds", time.time())
        self._workers.clear()  # there may be fewer now
        self._record_progress()

    def update_worker(self, rank: int, values: dict[str, float]) -> None:
        """Record a worker's values of `WORKER_GAUGES`."""
        self._workers[rank] = values

    def update(self, row: Row) -> None:
        """Record a log line."""
        values = {name: float(value) for name, value in row.items() if not isinstance(value, str)}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._values |= {name: finite[name] for name in ROW_GAUGES if name in finite}
        scores = {"score": self._score.key, "baseline_score": self._score.baseline_key}
        self._values |= {name: finite[key] for name, key in scores.items() if key in finite}
        self._values["not_finite"] = float(not finite.keys() >= MUST_BE_FINITE)
        if self._samples is not None:  # None if this process was lost and restarted
            self._trained.inc(values["clips"] - self._samples, self._tags)
        self._samples = int(values["clips"])
        total_batch = values["clips"] / values["step"]
        self._step.observe(total_batch / values["clips_per_second"], self._tags)
        if "checkpoint_seconds" in values:
            self._saving.observe(values["checkpoint_seconds"], self._tags)
            self._values["checkpoint_time_seconds"] = time.time()
        self._record_progress()

    def _record_progress(self) -> None:
        self._values["progress_time_seconds"] = time.time()
        self.refresh()


class SampleMetrics:
    """Metrics of an actor that draws samples."""

    def __init__(self, tags: dict[str, str]):
        self._tags = tags
        self._drawn = _counter("clips_drawn", "Samples drawn, trained on or not")
        self._videos = _counter("videos_read", "Videos opened for them, counted once a block")
        self._busy = _counter("drawing_seconds", "Seconds that actors spent on them")
        self._decode = _histogram(
            "decode_seconds", "Seconds to read, decode and draw a sample, mean of a block"
        )
        self._read = _counter("read_bytes", "Bytes read from files and objects")
        self._requests = _counter("s3_requests", "Requests to S3 that ended, also with an error")
        self._retries = _counter("s3_retries", "Repetitions of requests to S3 that failed")

    def record_block(self, samples: int, videos: int, seconds: float) -> None:
        """Record a block's samples, videos and seconds."""
        self._drawn.inc(samples, self._tags)
        self._videos.inc(videos, self._tags)
        self._busy.inc(seconds, self._tags)
        self._decode.observe(seconds / samples, self._tags)

    def record_reading(self, num_bytes: int, s3: S3Counts) -> None:
        """Record the bytes that were read since the last call, and the requests to S3."""
        counts = (
            (self._read, num_bytes),
            (self._requests, s3.requests),
            (self._retries, s3.retries),
        )
        for counter, count in counts:
            if count:  # Ray refuses to add nothing
                counter.inc(count, self._tags)


def _gauge(name: str, about: str) -> Gauge:
    return Gauge(f"ctp_{name}", about, TAGS)


def _counter(name: str, about: str) -> Counter:
    return Counter(f"ctp_{name}", about, TAGS)


def _histogram(name: str, about: str) -> Histogram:
    return Histogram(f"ctp_{name}", about, BOUNDARIES, TAGS)

"""Scoring a run's encoder by nearest neighbours while the run goes on, and without its waiting.

The first worker leaves the encoder in the run folder's `snapshots/`; a task of its own, on CPUs or
a GPU of its own, makes the score; the driver writes it to `knn.jsonl`. Nothing of it can stop the
run, and what is not scored when a run is broken off is scored when it goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from ctp.cluster.connect import Demand
from ctp.downstream.config import LabeledDataConfig
from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.knn import check_k, knn_score
from ctp.downstream.labels import LabeledVideos, open_labeled
from ctp.pretext.config import PretrainConfig
from ctp.storage import Storage, StorageError
from ctp.training import run_folder
from ctp.training.claim import newest_clips, run_storage
from ctp.video.config import ViewsConfig

POLL_SECONDS = 2.0
MAX_RETRIES = 3
"""A task whose node or process is lost is started again so often."""


class KnnScorer:
    """Scores the snapshots of a run."""

    def __init__(self, config: PretrainConfig):
        """List the labelled videos.

        Raises:
            ValueError: they do not do, as of `open_labeled`, or `knn.k` is larger than the gallery.
        """
        self._config, self._folder = config, run_storage(config)
        knn = config.knn
        data = LabeledDataConfig(uri=knn.uri, test_uri=knn.test_uri, test_share=knn.test_share)
        self._videos = open_labeled(data, config.seed)
        check_k(knn.k, self._videos)
        self._given_up: set[str] = set()
        self._broken_off = threading.Event()

    @property
    def demand(self) -> Demand:
        """What it needs besides the run itself."""
        knn = self._config.knn
        return Demand("kNN scorer", 1, knn.cpus, knn.gpus, "knn.cpus or knn.gpus")

    @contextmanager
    def beside(self) -> Iterator[None]:
        """While this lasts, a thread has snapshots scored; at its end those that are left, unless
        it ends by an error."""
        self._drop_later_rows()
        job = ray.put((self._config, self._videos))
        done = threading.Event()

        def work() -> None:
            is_last = False
            while not is_last:
                is_last = done.wait(POLL_SECONDS)
                self._score_all(job)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            self._broken_off.set()
            raise
        finally:
            done.set()
            thread.join()

    def _drop_later_rows(self) -> None:
        """Scores of steps that the run will do once more go, as their log lines do."""
        place, clips = self._folder.join(run_folder.KNN), newest_clips(self._config)
        rows = run_folder.read_rows(place)
        kept = [row for row in rows if row["clips"] <= clips]
        if kept != rows:
            place.write_bytes(run_folder.to_jsonl(kept))

    def _score_all(self, job: Any) -> None:
        """Score what there is, the oldest first; what fails is told and left."""
        try:
            for place in self._waiting():
                if self._broken_off.is_set():
                    return
                self._score(job, place)
        except StorageError as error:
            print(f"kNN scores have to wait: {error}", flush=True)

    def _waiting(self) -> list[Storage]:
        folder = self._folder.join(run_folder.SNAPSHOTS)
        names = [info.path for info in folder.list_files()]
        whole = [name for name in names if name.endswith(".safetensors")]
        return [folder.join(name) for name in whole if name not in self._given_up]

    def _score(self, job: Any, place: Storage) -> None:
        name = place.path.rpartition("/")[2]
        step = run_folder.snapshot_step(name)
        try:
            found = self._found(job, place)
        except (ValueError, RayError) as error:
            self._given_up.add(name)
            print(f"step {step} has no kNN score: {error}", flush=True)
            return
        if found is None:
            return
        self._write({"step": step, "clips": step * self._config.compute.total_batch, **found})
        place.delete_file()
        quarantined = found["knn_quarantined"]
        told = f", {quarantined} more quarantined" if quarantined else ""
        print(
            f"kNN accuracy after step {step}: {100 * found['knn_top1']:.1f}% of "
            f"{found['knn_tested']} videos{told}",
            flush=True,
        )

    def _found(self, job: Any, place: Storage) -> dict[str, float] | None:
        """The score of a snapshot; None when the run was broken off meanwhile."""
        knn = self._config.knn
        task = ray.remote(num_cpus=knn.cpus, num_gpus=knn.gpus, max_retries=MAX_RETRIES)(_score)
        reference = task.remote(job, place.uri)
        while not ray.wait([reference], timeout=POLL_SECONDS)[0]:
            if self._broken_off.is_set():
                ray.cancel(reference, force=True)
                return None
        found, error = ray.get(reference)
        if error:
            raise ValueError(error)
        return found

    def _write(self, row: dict[str, float]) -> None:
        """Add a score; one of the same step is replaced."""
        place = self._folder.join(run_folder.KNN)
        rows = [each for each in run_folder.read_rows(place) if each["step"] != row["step"]]
        rows = sorted([*rows, row], key=lambda each: each["step"])
        place.write_bytes(run_folder.to_jsonl(rows))


def knn_features(config: PretrainConfig) -> EmbedConfig:
    """The features that a run's encoder is scored by: VCOP's, of clips of the run's own size."""
    sides = sorted(config.augment.short_sides_px)
    size = config.augment.frame_size_px
    return EmbedConfig(
        encoder=f"a snapshot of run {config.name}",
        architecture=config.encoder,
        views=ViewsConfig(
            num_clips=config.knn.num_clips,
            num_frames=config.sampling.num_frames,
            interval_frames=1,
            frame_size_px=size,
            short_side_px=max(sides[len(sides) // 2], size),
        ),
        scaling={"use_gpu": config.knn.gpus > 0},  # type: ignore[arg-type]
    )


def _score(job: tuple[PretrainConfig, LabeledVideos], uri: str) -> tuple[dict[str, float], str]:
    """The score of a snapshot, or why there is none."""
    config, videos = job
    knn = config.knn
    torch.set_num_threads(max(int(knn.cpus), 1))
    try:
        encoder = Storage.of(uri).read_bytes()
        return knn_score(encoder, knn_features(config), videos, knn.k), ""
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        return {}, str(error)

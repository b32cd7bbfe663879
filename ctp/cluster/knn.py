"""Score a run's encoder by nearest neighbours, while the run continues.

The first worker writes the encoder to the run folder's `snapshots/`; a Ray task with its own CPU or
GPU computes the score; the driver writes it to `knn.jsonl`. No failure here stops the run, and
snapshots that are left when a run is interrupted are scored when it resumes.
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
from ctp.cluster.loading import ActorLoader
from ctp.cluster.losses import keep_losses
from ctp.downstream.config import LabeledVideosConfig
from ctp.downstream.embed_config import EmbedConfig, EmbedScalingConfig
from ctp.downstream.knn import check_k, knn_score
from ctp.downstream.labels import LabeledVideos, open_labeled
from ctp.lease import Attempt, SupersededError
from ctp.pretext.config import PretrainConfig
from ctp.score import Score
from ctp.storage import Storage, StorageError
from ctp.training import run_folder
from ctp.training.run_folder import folder_of, newest_sample
from ctp.video.config import ViewsConfig

POLL_SECONDS = 2.0
MAX_RETRIES = 3
"""Restarts of a task whose node or process is lost."""
SCORER_CPUS = 0.5
"""CPU cores of a task, which runs only from time to time."""
NEIGHBOURS = 5
"""Neighbours that vote for a video's class."""
TEST_SHARE = 0.25
"""Share of each class's videos to look up in the others."""


def scorer_demand(config: PretrainConfig) -> Demand:
    """Return the resources of the task that scores."""
    return Demand("kNN scorer", 1, SCORER_CPUS, config.knn.gpus, "scaling.cpus_per_worker")


KNN_SCORE = Score("knn_top1", "kNN accuracy", "knn_chance", "chance", is_percent=True)


class KnnScorer:
    """Scores the snapshots of a run."""

    def __init__(self, config: PretrainConfig):
        """List the labelled videos.

        Raises:
            ValueError: they are invalid, see `open_labeled`, or fewer than the neighbours.
        """
        self.config, self._folder = config, folder_of(config)
        knn = config.knn
        data = LabeledVideosConfig(uri=knn.uri, test_uri=knn.test_uri, test_share=TEST_SHARE)
        self._videos = open_labeled(data, config.seed, "knn")
        check_k(NEIGHBOURS, self._videos)
        self._failed: set[str] = set()
        self._interrupted = threading.Event()

    @contextmanager
    def beside(self, attempt: Attempt) -> Iterator[None]:
        """Score snapshots in a thread, for use in a `with` statement; at its end those that are
        left, unless it ends by an error.

        Args:
            attempt: checked before the run folder is written.
        """
        self._attempt = attempt
        self._drop_later_rows()
        # one record for all snapshots, so that a video that ends processes does so only twice
        inputs = ray.put((self.config, self._videos, keep_losses()))
        done = threading.Event()

        def work() -> None:
            is_last = False
            while not is_last:
                is_last = done.wait(POLL_SECONDS)
                self._score_all(inputs)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            self._interrupted.set()
            raise
        finally:
            done.set()
            thread.join()

    def _drop_later_rows(self) -> None:
        """Delete the scores of steps that the run will repeat."""
        place, clips = self._folder.join(run_folder.KNN), newest_sample(self.config)
        rows = run_folder.read_rows(place)
        kept = [row for row in rows if row["clips"] <= clips]
        if kept != rows:
            self._attempt.check()
            place.write_bytes(run_folder.to_jsonl(kept))

    def _score_all(self, inputs: Any) -> None:
        """Score the snapshots, the oldest first; print what fails and keep its snapshot."""
        try:
            for place in self._waiting():
                if self._interrupted.is_set():
                    return
                self._score(inputs, place)
        except SupersededError:
            self._interrupted.set()  # the run itself says why it ends
        except StorageError as error:
            print(f"kNN scores are delayed: {error}", flush=True)

    def _waiting(self) -> list[Storage]:
        folder = self._folder.join(run_folder.SNAPSHOTS)
        names = [info.path for info in folder.list_files()]
        whole = [name for name in names if name.endswith(".safetensors")]
        return [folder.join(name) for name in whole if name not in self._failed]

    def _score(self, inputs: Any, place: Storage) -> None:
        name = place.path.rpartition("/")[2]
        step = run_folder.snapshot_step(name)
        try:
            found = self._score_of(inputs, place)
        except (ValueError, RayError) as error:
            # its snapshot stays, and the next start of the run tries it again
            self._failed.add(name)
            print(f"step {step} has no kNN score: {error}", flush=True)
            return
        if found is None:
            return
        self._attempt.check()
        self._write({"step": step, "clips": step * self.config.compute.batch, **found})
        place.delete_file()
        quarantined = found["knn_quarantined"]
        more = f", {quarantined} more quarantined" if quarantined else ""
        row, score = found | {"tested": found["knn_tested"]}, KNN_SCORE
        print(
            f"kNN accuracy after step {step}: {score.describe_value(row)} "
            f"{score.describe_count(row)} ({score.describe_baseline(row)}){more}",
            flush=True,
        )

    def _score_of(self, inputs: Any, place: Storage) -> dict[str, float] | None:
        """Return the score of a snapshot; None if the run was interrupted."""
        task = ray.remote(
            num_cpus=SCORER_CPUS,
            num_gpus=self.config.knn.gpus,
            max_retries=MAX_RETRIES,
            scheduling_strategy="DEFAULT",  # not in the resources that Tune reserves for a trial
        )(_score)
        reference = task.remote(inputs, place.uri)
        while not ray.wait([reference], timeout=POLL_SECONDS)[0]:
            if self._interrupted.is_set():
                ray.cancel(reference, force=True)
                return None
        found, error = ray.get(reference)
        if error:
            raise ValueError(error)
        return found

    def _write(self, row: dict[str, float]) -> None:
        """Add a score, or replace that of the same step."""
        place = self._folder.join(run_folder.KNN)
        rows = [each for each in run_folder.read_rows(place) if each["step"] != row["step"]]
        rows = sorted([*rows, row], key=lambda each: each["step"])
        place.write_bytes(run_folder.to_jsonl(rows))


def knn_features(config: PretrainConfig) -> EmbedConfig:
    """Return the features that a run's encoder is scored by: VCOP's, of the run's clip size."""
    augment = config.task.augment
    return EmbedConfig(
        encoder=f"a snapshot of run {config.name}",
        architecture=config.encoder,
        views=ViewsConfig(
            num_clips=1,
            num_frames=config.task.sampling.num_frames,
            interval_frames=1,
            frame_size_px=augment.frame_size_px,
            short_side_px=augment.middle_short_side_px,
            keeps_aspect_ratio=augment.keeps_aspect_ratio,
        ),
        scaling=EmbedScalingConfig(use_gpu=config.knn.gpus > 0),
    )


def _score(
    inputs: tuple[PretrainConfig, LabeledVideos, Any], uri: str
) -> tuple[dict[str, float], str]:
    """Return the score of a snapshot, or the reason why there is none."""
    config, videos, losses = inputs
    torch.set_num_threads(1)
    load = ActorLoader.from_config(1, config.data, losses)
    try:
        encoder = Storage.from_uri(uri).read_bytes()
        return knn_score(encoder, knn_features(config), videos, NEIGHBOURS, load), ""
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        return {}, str(error)

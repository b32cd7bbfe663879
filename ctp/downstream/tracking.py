"""Tracking of annotated objects: training encoder and head, and testing them (§4)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctp.data.annotated import open_annotated
from ctp.data.catalog import check_apart
from ctp.data.stream import LoadVideos, SampleStream
from ctp.downstream.initial import resolve_weights
from ctp.downstream.learner import DownstreamLearner
from ctp.downstream.track_clips import TestClips, TrackedClips, TrackSample, VideoClips
from ctp.downstream.track_config import GOT10K_SCORES, MEAN_IOU, TrackConfig
from ctp.encoders.config import PRETRAIN_SPATIAL_STRIDE
from ctp.encoders.registry import ENCODERS, build_encoder
from ctp.encoders.weights import description
from ctp.pretext.ctp.loss import tracking_loss
from ctp.pretext.ctp.metrics import (
    ClipOverlap,
    clip_overlaps,
    mean_overlaps,
    overlap_scores,
)
from ctp.pretext.ctp.tracker import Tracker
from ctp.score import mean_error
from ctp.storage import Storage
from ctp.text import and_unread
from ctp.training.checkpoint import CheckpointStore, TrainState
from ctp.training.distributed import Worker
from ctp.training.run_folder import CHECKPOINTS, ENCODER
from ctp.training.schedule import total_steps
from ctp.training.step import LossTerms, autocast
from ctp.training.trainer import TrainingSpec
from ctp.video.augment import to_input
from ctp.video.planes import to_rgb

TRACKER = "tracker.safetensors"
"""Encoder and head of a finished run; config.yaml has their sizes."""
PREDICTED_TOGETHER = 16
"""Clips that go through the model together in a test."""
HEAD = "head."


def resolve(config: TrackConfig) -> TrackConfig:
    """Return the config with an absolute `initial` and with the encoder that it describes.

    Raises:
        ValueError: there are no such weights, no head where one is asked for, or fewer stages
            than are to be frozen.
        StorageError: their file cannot be read.
    """
    resolved = resolve_weights(config, PRETRAIN_SPATIAL_STRIDE)
    assert resolved.encoder is not None, "set by resolve_weights"
    # checked here too, because a worker would find it after the cluster has started
    ENCODERS[resolved.encoder.name].first_stages(config.frozen_stages)
    if config.with_head:
        # the head predicts offsets in units of sigma, so they belong together
        resolved = resolved.replace(sigma=_read_head(resolved.initial)[1])
        load_head(build_tracker(resolved), resolved)  # before a worker finds that it does not fit
    return resolved


def build_tracker(config: TrackConfig) -> Tracker:
    """Return a model with random weights that depend on the run's seed alone."""
    assert config.encoder is not None, "set by resolve"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = build_encoder(config.encoder)
        model = Tracker(encoder, config.head, config.sampling.num_frames, config.sigma)
    encoder.freeze_stages(config.frozen_stages)
    return model


def load_head(model: Tracker, config: TrackConfig) -> None:
    """Give a model the head of the run that `config.initial` names, from its last checkpoint.

    Raises:
        ValueError: there is no such run or checkpoint, it has no head, or one that does not fit.
        StorageError: it cannot be read.
    """
    try:
        model.head.load_state_dict(_read_head(config.initial)[0])
    except RuntimeError as error:  # names each key that does not fit
        raise ValueError(
            f"with_head: the head of {config.initial} does not fit: {error}\nGive the run's own "
            "head and sampling.num_frames"
        ) from error


def _read_head(initial: str) -> tuple[dict[str, Tensor], tuple[float, ...]]:
    """Return the head's weights and the sigma of the run that `initial` names."""
    state = _last_state(initial)
    head = {k.removeprefix(HEAD): v for k, v in state.model.items() if k.startswith(HEAD)}
    if not head:
        raise ValueError(
            f"with_head: the run of {initial} has no head; expected a run of the task ctp or of "
            "tracking"
        )
    values = json.loads(state.config)
    return head, tuple(values.get("task", values)["sigma"])  # of pretraining, or of tracking


def _last_state(initial: str) -> TrainState:
    folder = Storage.from_uri(initial).parent
    store = CheckpointStore(folder.join(CHECKPOINTS))
    newest = store.newest() if initial.endswith(f"/{ENCODER}") else None
    if newest is None:
        raise ValueError(
            f"with_head: no checkpoint of a run belongs to initial {initial!r}. Name the folder of "
            "a pretraining run, whose head is in its checkpoints"
        )
    return store.load(newest)


@torch.no_grad()
def predict(
    model: Tracker, clips: VideoClips, config: TrackConfig, device: torch.device
) -> NDArray[np.float32]:
    """Predict the boxes of clips from the first box of each.

    Args:
        model: in evaluation mode, on `device`.
        clips: n clips of a video.
        config: of the run.
        device: to compute on.

    Returns:
        float32 [n, T, 4], xyxy pixels of the clips.
    """
    predicted = []
    # a long video has hundreds of clips, more than fit into memory at once
    for start in range(0, len(clips.planes), PREDICTED_TOGETHER):
        some = slice(start, start + PREDICTED_TOGETHER)
        planes = torch.from_numpy(clips.planes[some]).to(device)
        queries = torch.from_numpy(clips.boxes[some, :1]).to(device)
        with autocast(config.compute, device):
            frames = to_input(to_rgb(planes, config.augment.frame_size_px))
            # K = 1: the object is the only query of its clip
            found = model.track(frames, queries)
        predicted.append(found[:, 0].cpu().numpy())
    return np.concatenate(predicted)


def in_picture(boxes: NDArray[np.float32], clips: VideoClips, size_px: int) -> NDArray[np.float32]:
    """Convert boxes of clips, float32 [n, T, 4], to pixels of the video."""
    left, top, side = clips.windows.T[..., None, None].astype(np.float32)
    corner = np.concatenate([left, top, left, top], axis=-1)
    moved: NDArray[np.float32] = boxes * (side / size_px) + corner
    return moved


def open_tracking(config: TrackConfig) -> TrainingSpec[TrackSample]:
    """List the run's videos.

    Args:
        config: see `resolve`.

    Raises:
        ValueError: see `open_annotated`; or videos are both trained and tested on.
        StorageError: the storage fails.
    """
    data, batch = config.data, config.compute.batch
    train = open_annotated(data.uri, "data.uri")
    test = open_annotated(data.test_uri, "data.test_uri")
    check_apart(train.catalog, test.catalog, "data.uri", "data.test_uri")
    stream = SampleStream(
        drawer=TrackedClips(config, train.tracks),
        catalog=train.catalog,
        seed=config.seed,
        total_batch=batch,
        total_steps=total_steps(config.schedule, len(train.catalog), batch),
    )
    clips = TestClips(test.catalog, config.seed, config, test.tracks)
    return TrainingSpec(config, stream, clips, TrackingLearner)


@dataclass(frozen=True)
class TrackedVideo:
    """How well a video's object was tracked.

    Attributes:
        video_id: id of the video.
        clips: overlaps of its clips.
        hidden: frames without an object.
        out_of_sight: frames whose object the clips do not show.
    """

    video_id: str
    clips: list[ClipOverlap]
    hidden: int
    out_of_sight: int

    @property
    def frames(self) -> int:
        """Return the number of frames that count."""
        return sum(int(clip.counted.sum()) for clip in self.clips)


class TrackingLearner(DownstreamLearner[TrackSample, VideoClips, TrackedVideo]):
    """Trains encoder and head to track objects."""

    model: Tracker

    def __init__(self, spec: TrainingSpec[TrackSample], worker: Worker, load: LoadVideos):
        assert isinstance(spec.config, TrackConfig)
        self.config = spec.config
        super().__init__(spec, worker, load, build_tracker(spec.config))

    def initialize(self) -> None:
        """Load the initial weights of the encoder and, if asked for, of the head."""
        super().initialize()
        if self.config.with_head:
            load_head(self.model, self.config)

    def loss(self, model: nn.Module, inputs: TrackSample) -> LossTerms:
        """Return `tracking_loss` over the frames that count."""
        planes, color, boxes, counted = inputs
        clips = to_input(to_rgb(planes, self.config.augment.frame_size_px), color)
        return tracking_loss(model(clips, boxes[:, :, 0]), boxes, self.model.sigma, counted)

    def should_evaluate(self, step: int) -> bool:
        """Return whether `step` is a multiple of `test_every_steps`."""
        return step % self.config.test_every_steps == 0

    def test(self, video: VideoClips) -> TrackedVideo:
        """Track the object of a video."""
        predicted = predict(self.model, video, self.config, self._worker.device)
        overlaps = clip_overlaps(
            torch.from_numpy(predicted),
            torch.from_numpy(video.boxes),
            torch.from_numpy(video.counted),
            self.config.augment.frame_size_px,
        )
        return TrackedVideo(video.video_id, overlaps, video.num_hidden, video.num_out_of_sight)

    def scores(self, results: Sequence[TrackedVideo]) -> dict[str, float]:
        """Return `overlap_scores` of all clips and, as "error_iou", the standard error of their
        mean over videos."""
        # by id, so that the sums round alike for any number of workers
        videos = [video.clips for video in _by_id(results)]
        found = overlap_scores([clip for clips in videos for clip in clips])
        error = mean_error([own for clips in videos if (own := mean_overlaps(clips))])
        return found | ({} if error is None else {MEAN_IOU.error_key: error})

    def details(self, results: Sequence[TrackedVideo]) -> dict[str, Any]:
        """Return how many clips and frames were scored, and the scores of each video."""
        return {
            "clips": sum(len(video.clips) for video in results),
            "frames": sum(video.frames for video in results),
            "hidden": sum(video.hidden for video in results),
            "out_of_sight": sum(video.out_of_sight for video in results),
            "initial": self.config.initial,
            "frozen_stages": self.config.frozen_stages,
            "videos": {
                video.video_id: {**overlap_scores(video.clips), "frames": video.frames}
                for video in _by_id(results)
            },
        }

    def model_files(self, about: Mapping[str, str]) -> dict[str, bytes]:
        """Return encoder with head."""
        state = {k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}
        metadata = {**description(self.model.encoder), **about}
        return {TRACKER: safetensors.torch.save(state, metadata=metadata)}


def _by_id(videos: Sequence[TrackedVideo]) -> list[TrackedVideo]:
    return sorted(videos, key=lambda video: video.video_id)


def describe_scores(scores: Mapping[str, Any]) -> str:
    """Return a line with the scores of a test."""
    if "iou" not in scores:
        return "no object is visible in any clip: there is no score"
    parts = [
        f"{each.label} {each.describe_value(scores)} ({each.format(scores[each.baseline_key])})"
        for each in (MEAN_IOU, *GOT10K_SCORES)
    ]
    return (
        f"{', '.join(parts)} over {scores['frames']} frames of {scores['tested']} videos, in "
        f"brackets for a box that stays still{and_unread(len(scores['quarantined']))}"
    )

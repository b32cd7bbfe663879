"""Tracking of annotated objects: training encoder and head, and testing them (§4)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from ctp.data.annotated import open_annotated
from ctp.data.quarantine import QuarantinedVideo
from ctp.data.stream import Batch, LoadVideos, SampleStream
from ctp.downstream.initial import resolve_encoder, resolve_initial
from ctp.downstream.track_clips import TestClips, TrackedClips, TrackSample, VideoClips
from ctp.downstream.track_config import TrackConfig
from ctp.encoders.config import PRETRAIN_SPATIAL_STRIDE
from ctp.encoders.initial import load_initial_weights
from ctp.encoders.registry import ENCODERS, build_encoder
from ctp.encoders.weights import encoder_bytes
from ctp.pretext.ctp.loss import tracking_loss
from ctp.pretext.ctp.metrics import ClipOverlap, clip_overlaps, overlap_scores
from ctp.pretext.ctp.tracker import Tracker
from ctp.storage import Storage
from ctp.training.checkpoint import CheckpointStore, TrainState
from ctp.training.distributed import Worker, gather
from ctp.training.run_folder import CHECKPOINTS, ENCODER
from ctp.training.schedule import total_steps
from ctp.training.step import LossTerms, autocast, prepare
from ctp.training.trainer import Learner, TrainingSpec
from ctp.versions import stamp
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
    initial = resolve_initial(config.initial)
    encoder = resolve_encoder(config.encoder, initial, PRETRAIN_SPATIAL_STRIDE)
    ENCODERS[encoder.name].first_stages(config.frozen_stages)  # before a worker checks it
    resolved = config.replace(initial=initial, encoder=encoder)
    if config.with_head:
        load_head(build_tracker(resolved), resolved)
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
    state = _last_state(config.initial)
    head = {k.removeprefix(HEAD): v for k, v in state.model.items() if k.startswith(HEAD)}
    values = json.loads(state.config)
    sigma = tuple(values.get("task", values).get("sigma", ()))  # of pretraining, or of tracking
    if not head or sigma != config.sigma:
        found = f"a head with sigma {sigma}" if head else "no head"
        raise ValueError(
            f"with_head: the run of {config.initial} has {found}; expected one with sigma "
            f"{config.sigma}"
        )
    try:
        model.head.load_state_dict(head)
    except RuntimeError as error:  # names each key that does not fit
        raise ValueError(
            f"with_head: the head of {config.initial} does not fit: {error}\nGive the run's own "
            "head and sampling.num_frames"
        ) from error


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
    for start in range(0, len(clips.planes), PREDICTED_TOGETHER):
        some = slice(start, start + PREDICTED_TOGETHER)
        planes = torch.from_numpy(clips.planes[some]).to(device)
        queries = torch.from_numpy(clips.boxes[some, :1]).to(device)
        with autocast(config.compute, device):
            frames = to_input(to_rgb(planes, config.augment.frame_size_px))
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
        config: as of `resolve`.

    Raises:
        ValueError: as of `open_annotated`; or videos are both trained and tested on.
        StorageError: the storage fails.
    """
    data, batch = config.data, config.compute.total_batch
    train, test = open_annotated(data.uri), open_annotated(data.test_uri)
    both = set(train.catalog.files()) & set(test.catalog.files())
    if both:
        raise ValueError(
            f"data.uri and data.test_uri both contain {sorted(both)[0]}: test videos must not be "
            "trained on. Give the parts train and val"
        )
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


@dataclass(frozen=True)
class _Tested:
    """The result of a test: videos by id, and those that could not be used."""

    videos: list[TrackedVideo]
    quarantined: list[QuarantinedVideo]

    def scores(self) -> dict[str, float]:
        return overlap_scores([clip for video in self.videos for clip in video.clips])


class TrackingLearner(Learner[TrackSample]):
    """Trains encoder and head to track objects."""

    model: Tracker

    def __init__(self, spec: TrainingSpec[TrackSample], worker: Worker, load: LoadVideos):
        assert isinstance(spec.config, TrackConfig)
        self.config, self._spec, self._worker, self._load = spec.config, spec, worker, load
        self.model = prepare(build_tracker(self.config), self.config.compute, worker.device)
        self._last: _Tested | None = None

    def initialize(self) -> None:
        """Load the initial weights of the encoder and, if asked for, of the head."""
        load_initial_weights(self.model.encoder, self.config.initial)
        if self.config.with_head:
            load_head(self.model, self.config)

    def loss(self, model: nn.Module, batch: Batch[TrackSample]) -> LossTerms:
        """Return `tracking_loss` over the frames that count."""
        planes, color, boxes, counted = batch.samples
        clips = to_input(to_rgb(planes, self.config.augment.frame_size_px), color)
        return tracking_loss(model(clips, boxes[:, :, 0]), boxes, self.model.sigma, counted)

    def should_evaluate(self, step: int) -> bool:
        """Return whether `step` is a multiple of `test_every_steps`."""
        return step % self.config.test_every_steps == 0

    def evaluate(self) -> dict[str, float]:
        """Test: track the object of each video, by one of the workers.

        Returns:
            `overlap_scores` of all clips, "tested", the number of videos, and "test_quarantined",
            how many more were meant to be tested.
        """
        tracked, self.quarantined = self._track_share()
        reports = gather((tracked, self.quarantined))
        videos = [video for some, _ in reports for video in some]
        found = [entry for _, some in reports for entry in some]
        self._last = _Tested(
            sorted(videos, key=lambda video: video.video_id),
            [*self._spec.evaluation.catalog.quarantined, *found],
        )
        return self._last.scores() | {
            "tested": len(videos),
            "test_quarantined": len(self._last.quarantined),
        }

    def export(self) -> dict[str, bytes]:
        """Return encoder, encoder with head, and scores."""
        if self._last is None:  # resumed after the last step
            self.evaluate()
        assert self._last is not None
        state = {k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}
        about = {"run": self.config.name, **stamp(self._spec.written_by)}
        return {
            ENCODER: encoder_bytes(self.model.encoder, about),
            TRACKER: safetensors.torch.save(state, metadata=about),
            self.config.RESULT: json.dumps(self._scores(self._last), indent=1).encode(),
        }

    def _scores(self, tested: _Tested) -> dict[str, Any]:
        """Return the contents of scores.json: all videos together, and each."""
        return {
            **tested.scores(),
            "tested": len(tested.videos),
            "clips": sum(len(video.clips) for video in tested.videos),
            "frames": sum(video.frames for video in tested.videos),
            "hidden": sum(video.hidden for video in tested.videos),
            "out_of_sight": sum(video.out_of_sight for video in tested.videos),
            "quarantined": [vars(entry) for entry in tested.quarantined],
            "trained_on": len(self._spec.stream.catalog),
            "initial": self.config.initial,
            "frozen_stages": self.config.frozen_stages,
            "videos": {
                video.video_id: {**overlap_scores(video.clips), "frames": video.frames}
                for video in tested.videos
            },
        }

    def _track_share(self) -> tuple[list[TrackedVideo], list[QuarantinedVideo]]:
        """Track the objects of this worker's share of the videos."""
        tracked: list[TrackedVideo] = []
        quarantined: list[QuarantinedVideo] = []
        clips = self._spec.evaluation
        share = range(len(clips.catalog))[self._worker.rank :: self._worker.world_size]
        self.model.eval()
        for some in self._load(clips, share):
            quarantined += some.quarantined
            tracked += [self._tracked(video) for video in some.items]
        self.model.train()
        return tracked, quarantined

    def _tracked(self, clips: VideoClips) -> TrackedVideo:
        predicted = predict(self.model, clips, self.config, self._worker.device)
        overlaps = clip_overlaps(
            torch.from_numpy(predicted),
            torch.from_numpy(clips.boxes),
            torch.from_numpy(clips.counted),
            self.config.augment.frame_size_px,
        )
        return TrackedVideo(clips.video_id, overlaps, clips.num_hidden, clips.num_out_of_sight)


def describe_scores(scores: Mapping[str, Any]) -> str:
    """Return a line with the scores of a test."""
    if "iou" not in scores:
        return "no object was in sight: there is no score"
    names = {"iou": "mIoU", "ao": "AO", "sr50": "SR.50", "sr75": "SR.75"}
    parts = [f"{name} {scores[k]:.3f} ({scores[f'still_{k}']:.3f})" for k, name in names.items()]
    return (
        f"{', '.join(parts)} over {scores['frames']} frames of {scores['tested']} videos, in "
        "brackets for a box that stays still; "
        f"{len(scores['quarantined'])} more could not be read"
    )

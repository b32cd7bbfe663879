"""Tracking of annotated objects: encoder and head learn to follow them, and are scored (§4)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctp.data.annotated import open_annotated
from ctp.data.catalog import Catalog
from ctp.data.quarantine import QuarantinedVideo
from ctp.downstream.initial import settled_encoder, settled_initial
from ctp.downstream.track_clips import TrackMaker, VideoClips
from ctp.downstream.track_config import TrackConfig
from ctp.encoders.initial import initialise
from ctp.encoders.weights import encoder_bytes
from ctp.pretext.ctp.loss import tracking_loss
from ctp.pretext.ctp.metrics import ClipOverlap, clip_overlaps, overlap_scores
from ctp.pretext.ctp.tracker import Tracker
from ctp.storage import Storage
from ctp.training.checkpoint import CheckpointStore, TrainState
from ctp.training.distributed import Worker, gather
from ctp.training.read_apart import read_apart
from ctp.training.run_folder import CHECKPOINTS, ENCODER
from ctp.training.step import Loss, arrange, autocast, prepare
from ctp.training.trainer import OpenMaker, Task
from ctp.video.augment import to_input
from ctp.video.planes import to_rgb

TRACKER = "tracker.safetensors"
"""Encoder and head of a finished run, sized as its config.yaml says."""
STRIDE_8 = 1
"""The last stage's spatial stride for tracking, as in pretraining (supplement D)."""
CLIPS_AT_ONCE = 16
HEAD = "head."


def settled(config: TrackConfig) -> TrackConfig:
    """The same with initial weights by an absolute name, and the encoder that they make.

    Raises:
        ValueError: there are no such weights, or no head where one is asked for.
        StorageError: their file cannot be read.
    """
    initial = settled_initial(config.initial)
    encoder = settled_encoder(config.encoder, initial)
    if config.encoder is None:
        encoder = encoder.replace(last_stage_spatial_stride=STRIDE_8)
    found = config.replace(initial=initial, encoder=encoder)
    if config.with_head:
        load_head(build_tracker(found), found)
    return found


def build_tracker(config: TrackConfig) -> Tracker:
    """A model with fresh weights that follow from the run's seed alone."""
    assert config.encoder is not None, "settled"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Tracker(
            config.encoder,
            config.head,
            config.sampling.num_frames,
            config.sigma,
            frozen_stages=config.frozen_stages,
        )


def load_head(model: Tracker, config: TrackConfig) -> None:
    """Give a model the head of the run that `config.initial` names, from its last checkpoint.

    Raises:
        ValueError: there is no such run or checkpoint, it has no head, or one that does not fit.
        StorageError: it cannot be read.
    """
    state = _last_state(config.initial)
    head = {k.removeprefix(HEAD): v for k, v in state.model.items() if k.startswith(HEAD)}
    sigma = tuple(json.loads(state.config).get("sigma", ()))
    if not head or sigma != config.sigma:
        told = f"a head with sigma {sigma}" if head else "no head"
        raise ValueError(
            f"with_head: the run of {config.initial} has {told}; wanted one with sigma "
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
    folder = Storage.of(initial).parent
    store = CheckpointStore(folder.join(CHECKPOINTS), keep=1)
    newest = store.newest() if initial.endswith(f"/{ENCODER}") else None
    if newest is None:
        raise ValueError(
            f"with_head: no checkpoint of a run belongs to initial {initial!r}. Name the folder of "
            "a pretraining run, whose head is in its checkpoints"
        )
    return store.load(newest)


def follow(
    model: Tracker, clips: VideoClips, config: TrackConfig, device: torch.device
) -> NDArray[np.float32]:
    """The boxes that a model, in evaluation mode, predicts from the first one of each clip:
    float32 [n, T, 4], xyxy pixels of the clips."""
    predicted = []
    for start in range(0, len(clips.planes), CLIPS_AT_ONCE):
        some = slice(start, start + CLIPS_AT_ONCE)
        frames = to_rgb(_on(device, clips.planes[some]), config.augment.frame_size_px)
        queries = _on(device, clips.boxes[some, :1])
        with torch.no_grad(), autocast(config.compute, device):
            found = model.track(arrange(to_input(frames), config.compute), queries)
        predicted.append(found[:, 0].cpu().numpy())
    return np.concatenate(predicted)


def in_picture(boxes: NDArray[np.float32], clips: VideoClips, size_px: int) -> NDArray[np.float32]:
    """Boxes of clips, float32 [n, T, 4], in pixels of the video instead."""
    left, top, side = clips.windows.T[..., None, None].astype(np.float32)
    corner = np.concatenate([left, top, left, top], axis=-1)
    moved: NDArray[np.float32] = boxes * (side / size_px) + corner
    return moved


@dataclass(frozen=True)
class Tracking:
    """A run of tracking.

    Attributes:
        train, test: make the clips to train on, and those to test on.
    """

    train: TrackMaker
    test: TrackMaker

    @classmethod
    def of(cls, config: TrackConfig) -> Tracking:
        """List the run's videos.

        Args:
            config: as `settled` returns it.

        Raises:
            ValueError: as `open_annotated`; or videos are both trained and tested on.
        """
        data = config.data
        train, test = open_annotated(data.uri), open_annotated(data.test_uri)
        both = set(train.catalog.files()) & set(test.catalog.files())
        if both:
            raise ValueError(
                f"data.uri and data.test_uri both hold {sorted(both)[0]}: what is tested on must "
                "not be trained on. Give the parts train and val"
            )
        return cls(*(TrackMaker(config, each.catalog, each.tracks) for each in (train, test)))

    @property
    def config(self) -> TrackConfig:
        """The run's config."""
        return self.train.config

    @property
    def catalogs(self) -> Sequence[Catalog]:
        """The videos to train on, and those to test on."""
        return self.train.catalog, self.test.catalog

    def task(self, worker: Worker, open_maker: OpenMaker) -> TrackTask:
        """What a worker trains."""
        return TrackTask(self, worker, open_maker)


@dataclass(frozen=True)
class Followed:
    """How well a video's object was followed.

    Attributes:
        video_id: which one.
        clips: its clips.
        hidden: frames in which there is no object to be found.
        out_of_sight: frames in which the clip shows nothing of it.
    """

    video_id: str
    clips: list[ClipOverlap]
    hidden: int
    out_of_sight: int

    @property
    def frames(self) -> int:
        """How many count."""
        return sum(int(clip.counted.sum()) for clip in self.clips)


@dataclass(frozen=True)
class _Tested:
    """What a test found: videos by their ids, and those that could not be used."""

    videos: list[Followed]
    quarantined: list[QuarantinedVideo]

    def scores(self) -> dict[str, float]:
        return overlap_scores([clip for video in self.videos for clip in video.clips])


class TrackTask(Task):
    """Encoder and head learn to follow objects."""

    model: Tracker

    def __init__(self, job: Tracking, worker: Worker, open_maker: OpenMaker):
        self.job, self.worker, self.config = job, worker, job.config
        self.model = prepare(build_tracker(self.config), self.config.compute, worker.device)
        self._open_maker = open_maker
        self._last: _Tested | None = None

    def initialise(self) -> None:
        """Load the initial weights, of the head too if that is asked for."""
        initialise(self.model.encoder, self.config.initial)
        if self.config.with_head:
            load_head(self.model, self.config)

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Loss:
        """`tracking_loss` on a batch of `TrackMaker.batch`, over the frames that count."""
        config, device = self.config, self.worker.device
        frames = to_rgb(_on(device, batch["planes"]), config.augment.frame_size_px)
        boxes, counted = (_on(device, batch[name]) for name in ("boxes", "counted"))
        clips = arrange(to_input(frames, torch.as_tensor(batch["color"])), config.compute)
        with autocast(config.compute, device):
            offsets = model(clips, boxes[:, :, 0])
        return tracking_loss(offsets, boxes, self.model.sigma, counted)

    def is_look_due(self, step: int) -> bool:
        """At every multiple of `test_every_steps`."""
        return step % self.config.test_every_steps == 0

    def look(self) -> dict[str, float]:
        """Test: `overlap_scores` over the clips of all videos, each video followed by one worker;
        with "tested", how many there are, and "test_quarantined", how many more there should be."""
        followed, self.quarantined = self._follow_share()
        reports = gather((followed, self.quarantined))
        videos = [video for some, _ in reports for video in some]
        self._last = _Tested(
            sorted(videos, key=lambda video: video.video_id),
            [*self.job.test.catalog.quarantined, *(entry for _, some in reports for entry in some)],
        )
        return self._last.scores() | {
            "tested": len(videos),
            "test_quarantined": len(self._last.quarantined),
        }

    def results(self) -> dict[str, bytes]:
        """Encoder, encoder with head, and scores."""
        if self._last is None:  # the run had ended before these were written
            self.look()
        assert self._last is not None
        state = {k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}
        return {
            ENCODER: encoder_bytes(self.model.encoder, {"run": self.config.name}),
            TRACKER: safetensors.torch.save(state),
            self.config.RESULT: json.dumps(self._report(self._last), indent=1).encode(),
        }

    def _report(self, tested: _Tested) -> dict[str, Any]:
        """What scores.json tells: in all, and of each video."""
        return {
            **tested.scores(),
            "tested": len(tested.videos),
            "clips": sum(len(video.clips) for video in tested.videos),
            "frames": sum(video.frames for video in tested.videos),
            "hidden": sum(video.hidden for video in tested.videos),
            "out_of_sight": sum(video.out_of_sight for video in tested.videos),
            "quarantined": [vars(entry) for entry in tested.quarantined],
            "trained_on": len(self.job.train.catalog),
            "initial": self.config.initial,
            "frozen_stages": self.config.frozen_stages,
            "videos": {
                video.video_id: {**overlap_scores(video.clips), "frames": video.frames}
                for video in tested.videos
            },
        }

    def _follow_share(self) -> tuple[list[Followed], list[QuarantinedVideo]]:
        """This worker's share of the videos."""
        followed: list[Followed] = []
        quarantined: list[QuarantinedVideo] = []
        self.model.eval()
        numbers = range(len(self.job.test.catalog))[self.worker.rank :: self.worker.world]
        for videos, quarantined in self._test_clips(numbers):
            quarantined += quarantined
            followed += [self._followed(clips) for clips in videos]
        self.model.train()
        return followed, quarantined

    def _test_clips(
        self, numbers: Sequence[int]
    ) -> Iterator[tuple[list[VideoClips], list[QuarantinedVideo]]]:
        readers = max(self.config.scaling.num_actors // self.worker.world, 1)
        return read_apart(self._open_maker, self.job.test, "test_clips", numbers, readers)

    def _followed(self, clips: VideoClips) -> Followed:
        predicted = follow(self.model, clips, self.config, self.worker.device)
        found = clip_overlaps(
            torch.from_numpy(predicted),
            torch.from_numpy(clips.boxes),
            torch.from_numpy(clips.counted),
            self.config.augment.frame_size_px,
        )
        return Followed(clips.video_id, found, clips.num_hidden, clips.num_out_of_sight)


def _on(device: torch.device, values: Any) -> Tensor:
    return torch.as_tensor(values).to(device, non_blocking=True)

"""Catch-the-Patch as a pretext task (CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctp.constant import constant
from ctp.data.annotated import read_objects
from ctp.data.object_crop import check_length
from ctp.data.stream import VideoSource, array_field
from ctp.pretext.ctp.annotated import sample_objects
from ctp.pretext.ctp.config import LOSS_PARTS, CtpConfig
from ctp.pretext.ctp.cycle import label_by_cycle
from ctp.pretext.ctp.game import Game, draw_game
from ctp.pretext.ctp.loss import tracking_loss
from ctp.pretext.ctp.metrics import TrackingTally
from ctp.pretext.ctp.paste_batch import paste_batch
from ctp.pretext.task import Mean, PretextTask, SamplePicture
from ctp.score import Score
from ctp.training.step import LossTerms
from ctp.video.augment import PRETRAINING_COLORS, sample_color, sample_crop, to_input
from ctp.video.encoded import VideoError
from ctp.video.planes import planes_size, to_rgb
from ctp.video.sampling import MIN_VIDEO_FRAMES, sample_frames

if TYPE_CHECKING:  # actors draw samples without torchvision's models, which take 0.2 GB
    from ctp.encoders.encoder import Encoder
    from ctp.video.decode import VideoReader

TRACKING_SCORE = Score("iou", "tracking IoU", "still_iou", "still box", LOSS_PARTS)


class GameSample(NamedTuple):
    """A clip and its patches, which are pasted on the device.

    Attributes:
        planes: uint8 [T, 3/2 · S²], the frames as `planes.to_rgb` takes them.
        patch_sources: uint8 [K, 3/2 · S²], pictures of other videos to cut the patches from;
            [0, …] in a run whose patches are never cut from other videos.
        has_patch_sources: bool, whether they are used.
        color: float32 [T, 4], see `augment.sample_color`.
        is_labelled: bool; False for a clip that the model itself labels: its boxes of frame 0 are
            the start of backward tracking, and its other boxes are not used.
        weights: float32 [K, T], how much each box counts in the loss.
        boxes, visible, source_frame, shape, soft_edge_start, opacity, order: see `Game`.
    """

    planes: Any
    patch_sources: Any
    has_patch_sources: Any
    color: Any
    is_labelled: Any
    weights: Any
    boxes: Any
    visible: Any
    source_frame: Any
    shape: Any
    soft_edge_start: Any
    opacity: Any
    order: Any

    @property
    def game(self) -> Game:
        """Return the patches."""
        return Game(*(getattr(self, name) for name in Game._fields))


class CtpTask(PretextTask[GameSample, CtpConfig]):
    """Track patches that move over a video, given their boxes in the first frame."""

    Config = CtpConfig
    score = TRACKING_SCORE

    def __init__(self, config: CtpConfig):
        super().__init__(config)
        self._game = config.game

    def fields(self) -> GameSample:
        """Return the dtypes and shapes of a sample."""
        frames, k = self.config.sampling.num_frames, self.config.num_patches
        size = planes_size(self.config.augment.frame_size_px)
        return GameSample(
            planes=array_field(np.uint8, frames, size),
            patch_sources=self._no_sources,
            has_patch_sources=array_field(np.bool_),
            color=array_field(np.float32, frames, 4),
            is_labelled=array_field(np.bool_),
            weights=array_field(np.float32, k, frames),
            boxes=array_field(np.float32, k, frames, 4),
            visible=array_field(np.bool_, k, frames),
            source_frame=array_field(np.int64, k),
            shape=array_field(np.int64, k),
            soft_edge_start=array_field(np.float64, k),
            opacity=array_field(np.float32, k, frames),
            order=array_field(np.int64, k),
        )

    def draw(self, videos: VideoSource, rng: np.random.Generator) -> GameSample:
        """Decode a clip and draw its patches (§3.3)."""
        config = self.config
        if config.labels == "annotated" and not videos.is_heldout:
            return self._draw_annotated(videos, rng)
        num_frames, size = config.sampling.num_frames, config.augment.frame_size_px
        with videos.open(MIN_VIDEO_FRAMES) as reader:
            planes = self._read(reader, rng, num_frames)
        sources = self._no_sources
        uses_other_clips = self.num_other_videos(videos) > 0
        if uses_other_clips:
            # each patch has its own video: patches of one picture are hard to distinguish
            sources = np.stack(
                videos.read_others(config.num_patches, self._read_one, MIN_VIDEO_FRAMES)
            )
        game = draw_game(self._game, num_frames, (size, size), rng)
        # last: another order of the draws would change the samples of a seed
        color = sample_color(
            replace(
                PRETRAINING_COLORS, half_open_key_frame_shift=self._game.half_open_key_frame_shift
            ),
            num_frames,
            rng,
        )
        is_labelled = not self._is_for_cycle(videos)
        if not is_labelled:  # no patch is pasted: the model tracks the video itself
            game = game._replace(visible=np.zeros_like(game.visible))
        weights = np.ones(game.visible.shape, np.float32)
        return GameSample(
            planes,
            sources,
            np.bool_(uses_other_clips),
            color,
            np.bool_(is_labelled),
            weights,
            *game,
        )

    def num_other_videos(self, videos: VideoSource) -> int:
        """Return K if the patches of this sample are cut from other videos, otherwise 0."""
        if self.config.labels == "annotated" and not videos.is_heldout:
            return 0
        is_other = self.config.patch_source == "other_clip"
        if self.config.curriculum is not None:
            # by a generator of its own, so that the clip is the same with and without a curriculum
            share = self.config.other_clip_share(videos.progress)
            is_other |= videos.generator("curriculum").random() < share
        return self.config.num_patches if is_other else 0

    def build(self, encoder: Encoder) -> nn.Module:
        """Return encoder and prediction head."""
        from ctp.pretext.ctp.tracker import Tracker  # brings torchvision, see above

        config = self.config
        return Tracker(encoder, config.head, config.sampling.num_frames, config.sigma)

    def loss(self, model: nn.Module, samples: GameSample) -> LossTerms:
        """Return `tracking_loss` of the pasted clips."""
        clips = to_input(self.paste(samples), samples.color)
        # from the config: `model` may be wrapped, which hides its buffers
        sigma = constant(self.config.sigma, clips.device)
        boxes, weights = samples.boxes, samples.weights
        if self.config.labels == "preset":
            return tracking_loss(model(clips, boxes[:, :, 0]), boxes, sigma)
        if self.config.labels == "cycle":
            # all clips, also those that need no labels: the same shapes in every step and worker
            own_boxes, own_weights = label_by_cycle(model, clips, boxes[:, :, 0], sigma)
            is_labelled = samples.is_labelled[:, None, None]
            boxes = torch.where(is_labelled[..., None], boxes, own_boxes)
            weights = torch.where(is_labelled, weights, own_weights)
        return tracking_loss(model(clips, boxes[:, :, 0]), boxes, sigma, weights=weights)

    def evaluate(self, model: nn.Module, batches: Iterable[GameSample]) -> Mapping[str, Mean]:
        """Return the mean IoU of tracked patches, and of boxes that stay still."""
        tally = TrackingTally()
        for samples in batches:
            tally.add(self._track(model, samples), samples.boxes, samples.visible)
        return tally.means()

    def progress_metrics(self, progress: float) -> Mapping[str, float]:
        """Return the state of the curriculum."""
        if self.config.curriculum is None:
            return {}
        return {"other_clip_share": self.config.other_clip_share(progress)}

    def describe(self) -> Mapping[str, str]:
        """Return the facts of the task, with the rules that most often differ."""
        config = self.config
        return {
            **super().describe(),
            "game": f"K = {config.num_patches}, hidden {config.hidden_prob:g}, {config.rules}",
            **({} if config.labels == "preset" else {"labels": config.labels}),
        }

    def pictures(
        self, samples: GameSample, model: nn.Module | None, *, min_side_px: int
    ) -> Sequence[SamplePicture]:
        """Draw the boxes of patches and, with a model, the predicted ones."""
        from ctp.pretext.ctp.pictures import draw_samples  # matplotlib; only a preview needs it

        predicted = None if model is None else self._track(model, samples)
        color = samples.color if model is None else None  # as the model is trained
        frames = self.paste(samples)
        return draw_samples(frames, samples, color, predicted, min_side_px)

    def paste(self, samples: GameSample) -> Tensor:
        """Convert the frames of a batch to RGB and paste the patches: uint8 [B, T, S, S, 3]."""
        size = self.config.augment.frame_size_px
        frames, sources = to_rgb(samples.planes, size), to_rgb(samples.patch_sources, size)
        blending = self._game.blending
        if frames.device.type != "cpu":
            # a run without such pictures has arrays of length 0, which would cost nothing to send
            if not sources.shape[1]:
                return paste_batch(frames, samples.game, blending=blending)
            return paste_batch(
                frames, samples.game, sources, samples.has_patch_sources, blending=blending
            )
        from ctp.pretext.ctp.paste_cpu import paste_on_cpu  # brings torch's compiler

        pasted: Tensor = paste_on_cpu(frames, sources, samples, blending)
        return pasted

    def _draw_annotated(self, videos: VideoSource, rng: np.random.Generator) -> GameSample:
        """Decode a clip of an annotated video; no patch is pasted."""
        config, entry = self.config, videos.entry
        size = config.augment.frame_size_px
        objects = read_objects(entry)
        if not objects.weights.any():
            raise VideoError(entry.id, entry.uri, "shows an object in no frame")
        frames, crop, boxes, weights = sample_objects(
            config.sampling,
            objects,
            config.num_patches,
            partial(sample_crop, config.augment),
            size,
            rng,
        )
        with videos.open(MIN_VIDEO_FRAMES) as reader:
            check_length(videos, reader, objects.tracks[0])
            planes = reader.read_square(frames.tolist(), crop, size)
        blank = GameSample(*map(np.array, self.fields()))  # hides all patches
        return blank._replace(
            planes=planes,
            color=sample_color(PRETRAINING_COLORS, len(frames), rng),
            is_labelled=np.bool_(True),
            boxes=boxes,
            weights=weights,
        )

    def _is_for_cycle(self, videos: VideoSource) -> bool:
        """Return whether the model itself is to label this sample."""
        config = self.config
        if config.labels != "cycle" or videos.is_heldout:
            return False
        # by a generator of its own, so that the clip is the same for all labels
        return bool(videos.generator("labels").random() >= config.preset_share)

    @cached_property
    def _no_sources(self) -> NDArray[np.uint8]:
        """Return black pictures as the patch sources of a clip that has none."""
        config = self.config
        may_have = config.curriculum is not None or config.patch_source == "other_clip"
        count = config.num_patches if may_have else 0
        return array_field(np.uint8, count, planes_size(config.augment.frame_size_px))

    def _track(self, model: nn.Module, samples: GameSample) -> Tensor:
        """Predict boxes, float32 [B, K, T, 4] xyxy pixels, in the clips' own colours."""
        boxes: Tensor = model.track(to_input(self.paste(samples)), samples.boxes[:, :, 0])  # type: ignore[operator]
        return boxes

    def _read(
        self, reader: VideoReader, rng: np.random.Generator, num_frames: int
    ) -> NDArray[np.uint8]:
        """Read frames of a video, cropped, scaled and flipped, uint8 [num_frames, 3/2 · S²]."""
        sampling, augment = self.config.sampling, self.config.augment
        has_jitter = self.config.rules == "official"
        frames = sample_frames(sampling, reader.num_frames, rng, temporal_jitter=has_jitter)
        crop = sample_crop(augment, rng)
        # a single picture is the first frame of a random clip
        return reader.read_square(frames[:num_frames].tolist(), crop, augment.frame_size_px)

    def _read_one(self, reader: VideoReader, rng: np.random.Generator) -> NDArray[np.uint8]:
        picture: NDArray[np.uint8] = self._read(reader, rng, 1)[0]
        return picture

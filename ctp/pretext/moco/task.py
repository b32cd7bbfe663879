"""MoCo: recognise which clip is of the same video (He et al., CVPR 2020; v2, arXiv 2003.04297).

As re-implemented for Table 4 of Catch-the-Patch. Batches are not shuffled over workers. This is not
needed: batch normalisation is over all workers, so that it does not show which clips share one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctp.data.stream import VideoSource, array_field
from ctp.pretext.clips import clip_fields, frames_to_show, to_clips
from ctp.pretext.moco.config import MocoConfig
from ctp.pretext.task import Mean, PretextTask, SamplePicture
from ctp.score import Score
from ctp.training.distributed import gather, gather_tensor
from ctp.training.step import LossTerms
from ctp.video.augment import RECOGNITION_COLORS, sample_color, sample_crop
from ctp.video.sampling import MIN_VIDEO_FRAMES, sample_frames

if TYPE_CHECKING:  # actors draw samples without torchvision's models, which take 0.2 GB
    from ctp.encoders.encoder import Encoder

TEMPERATURE = 0.2
"""Divisor of the similarities (v2 and the authors' implementation)."""
EMBEDDING_SIZE = 128
CLIPS = 2
"""Clips of a sample: the query and its key."""
GAP_PX = 4
"""White between the clips, in pictures."""


class MocoSample(NamedTuple):
    """Two clips of a video, drawn independently.

    Attributes:
        planes: uint8 [2, T, 3/2 · S²], the frames as `planes.to_rgb` takes them.
        color: float32 [2, T, 4], see `augment.sample_color`.
        video: int64, number of the video in the catalogue.
    """

    planes: Any
    color: Any
    video: Any


class MocoTask(PretextTask[MocoSample, MocoConfig]):
    """Recognise the other clip of the same video among clips of other videos."""

    Config = MocoConfig
    score = Score("retrieved", "clips retrieved", "chance", "chance", is_percent=True)

    def fields(self) -> MocoSample:
        """Return the dtypes and shapes of a sample."""
        return MocoSample(*clip_fields(self.config, CLIPS), array_field(np.int64))

    def draw(self, videos: VideoSource, rng: np.random.Generator) -> MocoSample:
        """Decode two clips, each with its own frames, crop and colours."""
        config = self.config
        size, planes, colors = config.augment.frame_size_px, [], []
        with videos.open(MIN_VIDEO_FRAMES) as reader:
            for _ in range(CLIPS):
                frames = sample_frames(
                    config.sampling, reader.num_frames, rng, temporal_jitter=True
                )
                crop = sample_crop(config.augment, rng)
                planes.append(reader.read_square(frames.tolist(), crop, size))
                colors.append(sample_color(RECOGNITION_COLORS, config.sampling.num_frames, rng))
        return MocoSample(np.stack(planes), np.stack(colors), np.asarray(videos.video))

    def build(self, encoder: Encoder) -> nn.Module:
        """Return query encoder, key encoder and queue."""
        return Moco(encoder, self.config.queue_size, self.config.key_momentum)

    def loss(self, model: nn.Module, samples: MocoSample) -> LossTerms:
        """Return the cross entropy of each query's own key against the keys of the queue."""
        _, _, logits = model(*self._clips(samples, with_color=True))
        right = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        accuracy = (logits.argmax(dim=1) == right).float().mean()
        return LossTerms(F.cross_entropy(logits, right), {"queue_accuracy": accuracy})

    def after_step(self, model: nn.Module, step: int) -> None:
        """Enqueue the keys of the step and update the key encoder."""
        assert isinstance(model, Moco)
        model.enqueue()
        model.follow()

    def evaluate(self, model: nn.Module, batches: Iterable[MocoSample]) -> Mapping[str, Mean]:
        """Return how often the key nearest to a query is of the query's video.

        The keys are those of all held-out clips on all workers. The queue is not used, because it
        holds random numbers at first.
        """
        pairs = [(*self._embed(model, samples), samples.video.cpu()) for samples in batches]
        empty = torch.zeros(0, EMBEDDING_SIZE), torch.zeros(0, EMBEDDING_SIZE), torch.zeros(0)
        queries, keys, videos = (torch.cat(each) for each in zip(empty, *pairs, strict=True))
        of_workers = gather((keys, videos))
        all_keys, all_videos = (torch.cat(each) for each in zip(*of_workers, strict=True))
        if not len(queries):
            return {}
        is_right = videos[:, None] == all_videos
        nearest = (queries @ all_keys.T).argmax(dim=1, keepdim=True)
        hits = is_right.gather(1, nearest).sum()
        return {
            "retrieved": Mean(float(hits), len(queries)),
            "chance": Mean(float(is_right.float().mean(dim=1).sum()), len(queries)),
        }

    def pictures(
        self, samples: MocoSample, model: nn.Module | None, *, min_side_px: int
    ) -> Sequence[SamplePicture]:
        """Show the query above the key; the caption has the answer among these samples."""
        from ctp.pretext.pictures import enlarge  # torchvision, see above

        color = samples.color if model is None else None
        captions = ["query above, key below"] * len(samples.video)
        if model is not None:
            queries, keys = self._embed(model, samples)
            cosines = queries @ keys.T
            captions = [
                f"{text}, cosine {cosines[row, row]:.2f}; nearest key: "
                f"{'its own' if nearest == row else f'that of sample {nearest + 1} here'}"
                for row, (text, nearest) in enumerate(
                    zip(captions, cosines.argmax(dim=1).tolist(), strict=True)
                )
            ]
        pictures = []
        for clips in frames_to_show(self.config, samples.planes, color):
            query, key = (enlarge(clip, min_side_px) for clip in clips)
            gap = torch.full_like(query[:, :GAP_PX], 255)
            pictures.append(torch.cat([query, gap, key], dim=1))
        return [
            SamplePicture(frames.cpu().numpy(), caption)
            for frames, caption in zip(pictures, captions, strict=True)
        ]

    def _embed(self, model: nn.Module, samples: MocoSample) -> tuple[Tensor, Tensor]:
        """Return queries and keys of clips in their own colours, float32 [B, 128] on the CPU."""
        query, key, _ = model(*self._clips(samples, with_color=False))
        return query.cpu(), key.cpu()

    def _clips(self, samples: MocoSample, *, with_color: bool) -> tuple[Tensor, Tensor]:
        """Return the clips of queries and of keys, each float32 [B, 3, T, S, S]."""
        query, key = (
            to_clips(self.config, samples.planes[:, clip], samples.color[:, clip])
            if with_color
            else to_clips(self.config, samples.planes[:, clip], None)
            for clip in range(CLIPS)
        )
        return query, key


class Moco(nn.Module):
    """Two encoders, each with a head, and the queue of the newest keys.

    Attributes:
        encoder, head: make the queries; trained by the optimiser.
        key_encoder, key_head: make the keys; moving averages of `encoder` and `head`.
        queue: float32 [queue_size, 128], unit vectors.
        queue_start: int64, the row that the next keys overwrite from.
    """

    queue: Tensor
    queue_start: Tensor

    def __init__(self, encoder: Encoder, queue_size: int, key_momentum: float):
        super().__init__()
        channels = encoder.out_channels
        self.key_momentum = key_momentum
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, EMBEDDING_SIZE)
        )
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, EMBEDDING_SIZE), dim=1))
        self.register_buffer("queue_start", torch.zeros((), dtype=torch.int64))
        self._new_keys: Tensor | None = None
        key_encoder = self.key_encoder

        def copy_weights(module: nn.Module, _: object) -> None:
            key_encoder.load_state_dict(module.state_dict())

        # initial weights are loaded into the encoder alone; a checkpoint then overwrites the copy,
        # because its key encoder is loaded after the encoder
        encoder.register_load_state_dict_post_hook(copy_weights)  # type: ignore[no-untyped-call]

    def forward(self, query_clips: Tensor, key_clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed clips; in training, the keys are kept for `enqueue`.

        Args:
            query_clips, key_clips: float [B, 3, T, H, W], normalised.

        Returns:
            queries and keys, unit vectors, float32 [B, 128]; the keys have no gradient. Then
            `similarities`, float32 [B, 1 + queue_size].
        """
        queries = _embed(self.encoder, self.head, query_clips)
        with torch.no_grad():
            keys = _embed(self.key_encoder, self.key_head, key_clips)
        if self.training:
            self._new_keys = keys
        return queries, keys, similarities(queries, keys, self.queue)

    @torch.no_grad()
    def enqueue(self) -> None:
        """Replace the oldest keys by those of the step, in the order of the stream."""
        assert self._new_keys is not None
        keys = gather_tensor(self._new_keys)
        rows = torch.arange(len(keys), device=keys.device)
        self.queue[(self.queue_start + rows) % len(self.queue)] = keys
        self.queue_start.add_(len(keys)).remainder_(len(self.queue))
        self._new_keys = None

    @torch.no_grad()
    def follow(self) -> None:
        """Move the parameters of key encoder and head towards those of the query's."""
        pairs = ((self.encoder, self.key_encoder), (self.head, self.key_head))
        for leader, follower in pairs:
            for new, old in zip(leader.parameters(), follower.parameters(), strict=True):
                old.lerp_(new, 1 - self.key_momentum)


def similarities(query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    """Return the logits of each query's own key, in column 0, and of the keys in the queue.

    Args:
        query, key: unit vectors, float32 [B, D].
        queue: unit vectors, float32 [K, D].

    Returns:
        float32 [B, 1 + K].
    """
    own = (query * key).sum(dim=1, keepdim=True)
    return torch.cat([own, query @ queue.T], dim=1).float() / TEMPERATURE


def _embed(encoder: nn.Module, head: nn.Module, clips: Tensor) -> Tensor:
    return F.normalize(head(encoder(clips).mean(dim=(2, 3, 4))).float(), dim=1)

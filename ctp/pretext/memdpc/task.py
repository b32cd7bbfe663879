"""MemDPC: predict the features of later and earlier blocks of a video (Han et al., ECCV 2020).

As re-implemented for Table 4 of Catch-the-Patch, but with the negatives of all workers, so that the
result does not depend on their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctp.data.stream import VideoSource, array_field
from ctp.pretext.clips import clip_fields, frames_to_show, to_clips
from ctp.pretext.dropout import draw_dropout_seed, seeded_dropout
from ctp.pretext.memdpc.config import MemdpcConfig
from ctp.pretext.task import Mean, PretextTask, SamplePicture
from ctp.score import Score
from ctp.training.distributed import gather_with_gradient
from ctp.training.step import LossTerms
from ctp.video.augment import RECOGNITION_COLORS, sample_color, sample_crop

if TYPE_CHECKING:  # actors draw samples without torchvision's models, which take 0.2 GB
    from ctp.encoders.encoder import Encoder

BLOCKS, PREDICTED = 8, 3
CONTEXT = BLOCKS - PREDICTED
CHANNELS, MEMORY_SLOTS = 256, 1024
DROPOUT, INITIAL_GAIN = 0.1, 0.1
DARK = 0.3
"""Brightness of wrongly predicted places in pictures."""


class MemdpcSample(NamedTuple):
    """Consecutive blocks of a video.

    Attributes:
        planes: uint8 [8 · T, 3/2 · S²], the frames as `planes.to_rgb` takes them.
        color: float32 [8 · T, 4], see `augment.sample_color`.
        dropout_seed: int64, the seed for `seeded_dropout`.
    """

    planes: Any
    color: Any
    dropout_seed: Any


class MemdpcTask(PretextTask[MemdpcSample, MemdpcConfig]):
    """Predict the features of three blocks from the five before or after them."""

    Config = MemdpcConfig
    score = Score("accuracy", "accuracy", "chance", "chance", is_percent=True)

    def fields(self) -> MemdpcSample:
        """Return the dtypes and shapes of a sample."""
        return MemdpcSample(*clip_fields(self.config, BLOCKS), array_field(np.int64))

    def draw(self, videos: VideoSource, rng: np.random.Generator) -> MemdpcSample:
        """Decode the blocks. Videos that are too short for them are quarantined."""
        config, (low, high) = self.config, self.config.sampling.interval_frames
        number = BLOCKS * config.sampling.num_frames
        remedy = "fewer with a smaller task.sampling.num_frames or task.sampling.interval_frames"
        with videos.open(number * high + 1, remedy) as reader:
            interval = int(rng.integers(low, high + 1))
            start = int(rng.integers(reader.num_frames - number * interval))
            frames = (start + interval * np.arange(number)).tolist()
            crop = sample_crop(config.augment, rng)
            planes = reader.read_square(frames, crop, config.augment.frame_size_px)
        color = sample_color(RECOGNITION_COLORS, number, rng)
        shape = BLOCKS, config.sampling.num_frames, -1
        seed = draw_dropout_seed(rng)
        return MemdpcSample(planes.reshape(shape), color.reshape(shape), seed)

    def build(self, encoder: Encoder) -> nn.Module:
        """Return encoder, recurrent aggregation in both directions, and memory."""
        return Memdpc(encoder)

    def loss(self, model: nn.Module, samples: MemdpcSample) -> LossTerms:
        """Return the cross entropy of the right clip, step and place; see `contrastive_loss`."""
        clips = to_clips(self.config, samples.planes, samples.color)
        true, predicted = model(clips, samples.dropout_seed)
        return LossTerms(contrastive_loss(true, predicted), {})

    def evaluate(self, model: nn.Module, batches: Iterable[MemdpcSample]) -> Mapping[str, Mean]:
        """Return how often the predicted features match their own step and place best.

        The candidates are the features of all predicted steps and places of the same clip.
        """
        correct = number = chance = 0.0
        for samples in batches:
            is_right = self._answers(model, samples)
            correct, number = correct + float(is_right.sum()), number + is_right.numel()
            chance += len(is_right) * is_right[0].numel() / is_right.shape[2]
        return {"accuracy": Mean(correct, number), "chance": Mean(chance, number)}

    def pictures(
        self, samples: MemdpcSample, model: nn.Module | None, *, min_side_px: int
    ) -> Sequence[SamplePicture]:
        """Show the blocks in time. With a model, wrongly predicted places are dark."""
        from ctp.pretext.pictures import enlarge  # torchvision, see above

        last, first = f"{CONTEXT + 1}-{BLOCKS} from 1-{CONTEXT}", f"{PREDICTED}-1 from {BLOCKS}-"
        text = f"predict block {last} and {first}{PREDICTED + 1}"
        color = samples.color if model is None else None
        clips = frames_to_show(self.config, samples.planes, color).flatten(1, 2)
        frames, captions = [enlarge(clip, min_side_px) for clip in clips], [text] * len(clips)
        if model is not None:
            is_right = self._answers(model, samples)
            frames = [darken(*each) for each in zip(frames, is_right, strict=True)]
            shares = is_right.float().mean(dim=(1, 2)).tolist()
            captions = [f"{text}: {share:.0%} of places right (bright)" for share in shares]
        return [SamplePicture(each.cpu().numpy(), caption)
                for each, caption in zip(frames, captions, strict=True)]  # fmt: skip

    def _answers(self, model: nn.Module, samples: MemdpcSample) -> Tensor:
        """Return which predictions match their own place best, bool [B, 2, steps · places]."""
        true, predicted = model(to_clips(self.config, samples.planes, None), None)
        logits = dot_products(predicted, true)
        return logits.argmax(dim=3) == torch.arange(true.shape[2], device=true.device)


class RecurrentCell(nn.Module):
    """A gated recurrent unit as in MemDPC: the reset gate acts on the state before its weights do.

    `nn.GRUCell` applies the gate after them.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.reset, self.update, self.candidate = (
            nn.Linear(2 * channels, channels) for _ in range(3)
        )

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """Return the next state, float [N, C], from new values and the state, both [N, C]."""
        both = torch.cat([values, state], dim=1)
        kept = self.reset(both).sigmoid() * state
        candidate = self.candidate(torch.cat([values, kept], dim=1)).tanh()
        return torch.lerp(state, candidate.to(state), self.update(both).sigmoid().to(state))


class Memdpc(nn.Module):
    """Encoder, recurrent aggregation in both directions, and a memory that predicts."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        encoder.halve_temporal_stride()
        self.encoder = encoder
        self.reduce = nn.Conv3d(encoder.out_channels, CHANNELS, 1)
        self.forward_gru, self.backward_gru = RecurrentCell(CHANNELS), RecurrentCell(CHANNELS)
        self.address = nn.Sequential(
            nn.Linear(CHANNELS, CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, MEMORY_SLOTS)
        )
        self.memory = nn.Parameter(torch.randn(MEMORY_SLOTS, CHANNELS))
        for part in (self.reduce, self.forward_gru, self.backward_gru, self.address):
            for name, value in part.named_parameters():
                if "bias" in name:
                    nn.init.zeros_(value)
                else:
                    nn.init.orthogonal_(value, INITIAL_GAIN)

    def forward(self, blocks: Tensor, seeds: Tensor | None) -> tuple[Tensor, Tensor]:
        """Predict the features of three blocks in either direction.

        Args:
            blocks: float [B · 8, 3, T, H, W], normalised; those of a sample in a row.
            seeds: int64 [B], of dropout; None: no dropout.

        Returns:
            true and predicted features, each float32 [B, 2, steps · places, 256].
        """
        features = self.reduce(self.encoder(blocks)).mean(dim=2).float()
        maps = features.flatten(2).transpose(1, 2).unflatten(0, (-1, BLOCKS))
        true, predicted = [], []
        for direction, gru in enumerate((self.forward_gru, self.backward_gru)):
            ordered = maps.flip(1) if direction else maps
            true.append(ordered[:, -PREDICTED:].flatten(1, 2))
            predicted.append(self._predict(gru, ordered, seeds, direction))
        return torch.stack(true, 1), torch.stack(predicted, 1)

    def _predict(self, gru: nn.Module, maps: Tensor, seeds: Tensor | None, turn: int) -> Tensor:
        batch, _, places, _ = maps.shape
        state = maps.new_zeros(batch * places, CHANNELS)
        found: list[Tensor] = []
        for step in range(BLOCKS - 1):
            seen = maps[:, step] if step < CONTEXT else found[-1]
            state = gru(F.relu(seen).flatten(0, 1), state)
            if seeds is not None:
                own = seeds + (turn * BLOCKS + step)
                state = seeded_dropout(state.unflatten(0, (batch, -1)), own, DROPOUT).flatten(0, 1)
            if step >= CONTEXT - 1:
                read = self.address(state).float().softmax(dim=1) @ self.memory
                found.append(read.float().unflatten(0, (batch, places)))
        return torch.stack(found, 1).flatten(1, 2)


def darken(frames: Tensor, is_right: Tensor) -> Tensor:
    """Darken the wrongly predicted places of blocks.

    Args:
        frames: uint8 [8 · T, H, W, 3], those of the blocks in time.
        is_right: bool [2, steps · places], of both directions; the second goes back in time.

    Returns:
        uint8 [8 · T, H, W, 3].
    """
    forward, backward = is_right.view(2, PREDICTED, -1).float()
    # both predict the blocks at the ends; those between are context alone
    blocks = torch.ones(BLOCKS, forward.shape[1], device=frames.device)
    blocks[CONTEXT:], blocks[:PREDICTED] = forward, backward.flip(0)
    side = math.isqrt(blocks.shape[1])
    places = F.interpolate(blocks.view(BLOCKS, 1, side, side), frames.shape[1:3])
    bright = places[:, 0, :, :, None].repeat_interleave(len(frames) // BLOCKS, dim=0)
    return (frames * (DARK + (1 - DARK) * bright)).to(torch.uint8)


def contrastive_loss(true: Tensor, predicted: Tensor) -> Tensor:
    """Return the cross entropy of the right clip, step and place, summed over both directions.

    The logits are dot products with the true features of all workers' clips, steps and places.

    Args:
        true, predicted: float32 [B, 2, steps · places, C].
    """
    total = predicted.new_zeros(())
    for direction in range(2):
        own = predicted[:, direction].flatten(0, 1)
        candidates, first = gather_with_gradient(true[:, direction].flatten(0, 1).contiguous())
        right = first + torch.arange(len(own), device=own.device)
        total = total + F.cross_entropy(dot_products(own, candidates), right)
    return total


def dot_products(rows: Tensor, others: Tensor) -> Tensor:
    """Return the dot products of rows, float32 [..., M, N] of [..., M, C] and [..., N, C].

    They are in float32 under autocast, too: near 50, bfloat16 has steps of .25.
    """
    with torch.autocast("cuda" if rows.is_cuda else "cpu", enabled=False):
        return rows @ others.transpose(-1, -2)

"""Features of the views of videos (supplement A)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ctp.downstream.embed_config import EmbedConfig
from ctp.encoders.config import (
    CHECKPOINT_SUFFIXES,
    DOWNSTREAM_SPATIAL_STRIDE,
    NAMED_WEIGHTS,
    EncoderConfig,
)
from ctp.encoders.encoder import Encoder
from ctp.encoders.initial import load_initial_weights
from ctp.encoders.registry import build_encoder
from ctp.encoders.weights import encoder_bytes, find_encoder, read_encoder, stored_config
from ctp.training.config import ComputeConfig
from ctp.training.step import autocast, prepare
from ctp.video.augment import to_input
from ctp.video.planes import to_rgb

POOLED_SHAPE = (2, 3, 3)
"""Time, height and width of VCOP's features (supplement A)."""
VCOP_KERNEL = (1, 2, 2)
"""Kernel and stride of the max pooling in VCOP's code."""


class FeatureExtractor(nn.Module):
    """An encoder with pooling, which returns a vector for each clip.

    Attributes:
        out_size: D, the length of a feature.
    """

    def __init__(self, encoder: Encoder, *poolings: str):
        """Set the encoder and the poolings, as in `FeatureConfig.poolings`."""
        super().__init__()
        self.encoder, self.poolings = encoder, poolings
        cells = sum(1 if each == "global" else math.prod(POOLED_SHAPE) for each in poolings)
        self.out_size = encoder.out_channels * cells

    def forward(self, clips: Tensor) -> Tensor:
        """Compute the features of clips.

        Args:
            clips: float [B, 3, T, H, W], normalised.

        Returns:
            float [B, D], of each pooling in the order channels, time, height, width.

        Raises:
            ValueError: the encoder's output has a shape that VCOP's pooling does not fit.
        """
        output = self.encoder(clips)
        return torch.cat([_pool(output, each).flatten(1) for each in self.poolings], dim=1)


def _pool(output: Tensor, pooling: str) -> Tensor:
    """Pool the encoder's output [B, C, T', H', W']."""
    if pooling == "max":
        return F.adaptive_max_pool3d(output, POOLED_SHAPE)
    if pooling == "average":
        return F.adaptive_avg_pool3d(output, POOLED_SHAPE)
    if pooling == "global":
        return output.mean(dim=(2, 3, 4))
    _check_vcop_pooling(output.shape[2:])
    return F.max_pool3d(output, VCOP_KERNEL)


def _check_vcop_pooling(shape: Sequence[int]) -> None:
    pooled = tuple(length // kernel for length, kernel in zip(shape, VCOP_KERNEL, strict=True))
    if pooled != POOLED_SHAPE:
        raise ValueError(
            f"VCOP's pooling makes {pooled} cells of {tuple(shape)}; expected {POOLED_SHAPE}, "
            "as with R3D and 16 frames of 112 px. Set --features.pooling max"
        )


class Embedder:
    """Computes features from the pixels of views, on the CPU or the GPU.

    Attributes:
        out_size: D, the length of a feature.
        dtype: data type of the features.
    """

    def __init__(self, encoder: Encoder, config: EmbedConfig):
        """Move the encoder to the device and set it to evaluation mode."""
        self.dtype = np.dtype(config.features.dtype)
        self._config, self._compute = config, ComputeConfig(precision=config.features.precision)
        self._device = torch.device("cuda" if config.scaling.use_gpu else "cpu")
        extractor = FeatureExtractor(encoder, *config.features.poolings)
        self.out_size = extractor.out_size
        self._extractor = prepare(extractor, self._compute, self._device).eval()

    def embed(self, planes: NDArray[np.uint8]) -> NDArray[np.floating]:
        """Return the features of the views of videos.

        Args:
            planes: uint8 [n, num_clips, T, 3/2 · S²], see `views.read_view_planes`.

        Returns:
            [n, num_clips, D] of `dtype`.

        Raises:
            FloatingPointError: a feature is not finite.
        """
        clips = torch.from_numpy(planes).flatten(0, 1)
        # over the clips of all videos together, so that batches are full
        batches = torch.split(clips, self._config.scaling.clips_at_once)
        found = np.concatenate([self._encode(batch) for batch in batches])
        with np.errstate(over="ignore"):  # reported below
            features = found.astype(self.dtype)
        if not np.isfinite(features).all():
            raise FloatingPointError(
                f"a feature is not finite in {self.dtype}; the largest output of the encoder is "
                f"{np.abs(found).max():g}. Check the encoder's weights, or set --features.dtype "
                "float32 and --features.precision fp32"
            )
        return features.reshape(*planes.shape[:2], -1)

    @torch.inference_mode()
    def _encode(self, planes: Tensor) -> NDArray[np.float32]:
        frames = to_rgb(planes.to(self._device), self._config.views.frame_size_px)
        with autocast(self._compute, self._device):
            features = self._extractor(to_input(frames))
        found: NDArray[np.float32] = features.float().cpu().numpy()
        return found


def read_encoder_file(config: EmbedConfig) -> tuple[bytes, str]:
    """Return the encoder of a config as the bytes of an encoder.safetensors that describes it, and
    a line about its origin.

    Raises:
        ValueError: there is no such encoder, or its weights do not fit `config.architecture`;
            names each key.
        StorageError: it cannot be read.
    """
    source = config.encoder
    if source not in NAMED_WEIGHTS and not source.endswith(CHECKPOINT_SUFFIXES):
        place = find_encoder(source)
        data = place.read_bytes()
        if stored_config(data, place.uri) is not None:
            return data, place.uri
        source = place.uri
    # the seed decides random weights, and the caller's generator does not change
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = build_encoder(config.architecture)
    origin = load_initial_weights(encoder, source)
    return encoder_bytes(encoder, {}), origin


def check_poolings(config: EmbedConfig, architecture: EncoderConfig) -> None:
    """Check that the poolings of a config fit the encoder's output for its views.

    Raises:
        ValueError: it cannot.
    """
    if "vcop" in config.features.poolings:
        with torch.device("meta"):  # no weights: only the stride is asked for
            stride = build_encoder(architecture).stride
        size = config.views.frame_size_px
        clip = config.views.num_frames, size, size
        _check_vcop_pooling([-(-length // by) for length, by in zip(clip, stride, strict=True)])


def open_embedder(config: EmbedConfig, encoder: bytes) -> Embedder:
    """Return an embedder with the encoder of `read_encoder_file`.

    Raises:
        ValueError: the weights do not fit the file's description; names each key.
    """
    stride = DOWNSTREAM_SPATIAL_STRIDE
    return Embedder(read_encoder(encoder, config.encoder, spatial_stride=stride), config)

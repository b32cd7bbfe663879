"""What an encoder makes of the views of a video (supplement A)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ctp.downstream.embed_config import EmbedConfig
from ctp.encoders.config import IMAGENET, KINETICS, RANDOM
from ctp.encoders.initial import initialise
from ctp.encoders.resnet3d import ResNet3d
from ctp.encoders.weights import encoder_bytes, read_encoder, stored_config
from ctp.storage import Storage
from ctp.training import run_folder
from ctp.training.config import ComputeConfig
from ctp.training.step import autocast, prepare
from ctp.video.augment import to_input
from ctp.video.planes import to_rgb

POOLED_SHAPE = (2, 3, 3)
"""Time, height and width of what VCOP compares (supplement A)."""
CHECKPOINT_SUFFIXES = (".pth", ".pt")


class FeatureExtractor(nn.Module):
    """An encoder whose output is pooled to a vector for each clip.

    Attributes:
        out_size: D, numbers of a feature.
    """

    def __init__(self, encoder: ResNet3d, pooling: Literal["max", "average", "global"]):
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        cells = 1 if pooling == "global" else int(np.prod(POOLED_SHAPE))
        self.out_size = encoder.out_channels * cells

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips.

        Args:
            clips: float [B, 3, T, H, W], normalised.

        Returns:
            float [B, D]; channels first, then time, height and width, where these are kept.
        """
        output: Tensor = self.encoder(clips)
        if self.pooling == "max":
            output = F.adaptive_max_pool3d(output, POOLED_SHAPE)
        elif self.pooling == "average":
            output = F.adaptive_avg_pool3d(output, POOLED_SHAPE)
        else:
            output = output.mean(dim=(2, 3, 4))
        return output.flatten(1)


class Embedder:
    """Makes features of the pixels of views, on the GPU if it is to.

    Attributes:
        out_size: D, numbers of a feature.
        dtype: of what is made.
    """

    def __init__(self, encoder: ResNet3d, config: EmbedConfig):
        """Take over an encoder; it is moved to the device and set to evaluation mode."""
        self.dtype = np.dtype(config.features.dtype)
        self._config, self._compute = config, ComputeConfig(precision=config.features.precision)
        self._device = torch.device("cuda" if config.scaling.use_gpu else "cpu")
        extractor = FeatureExtractor(encoder, config.features.pooling)
        self.out_size = extractor.out_size
        self._extractor = prepare(extractor, self._compute, self._device).eval()

    def __call__(self, planes: NDArray[np.uint8]) -> NDArray[np.floating]:
        """Features of views.

        Args:
            planes: uint8 [N, T, 3/2 · S²], of `views.read_view_planes`.

        Returns:
            [N, D] of `dtype`.

        Raises:
            FloatingPointError: one is infinite or no number.
        """
        batches = torch.split(torch.from_numpy(planes), self._config.scaling.clips_at_once)
        found = np.concatenate([self._encode(batch) for batch in batches])
        with np.errstate(over="ignore"):  # it is told of below
            features = found.astype(self.dtype)
        if not np.isfinite(features).all():
            raise FloatingPointError(
                f"a feature is infinite or no number in {self.dtype} (the encoder gave up to "
                f"{np.abs(found).max():g}). Check the encoder's weights, or take --features.dtype "
                "float32 and --features.precision fp32"
            )
        return features

    @torch.inference_mode()
    def _encode(self, planes: Tensor) -> NDArray[np.float32]:
        frames = to_rgb(planes.to(self._device), self._config.views.frame_size_px)
        with autocast(self._compute, self._device):
            features = self._extractor(to_input(frames))
        found: NDArray[np.float32] = features.float().cpu().numpy()
        return found


def read_encoder_file(config: EmbedConfig) -> tuple[bytes, str]:
    """The encoder of a config as the bytes of an encoder.safetensors that tells what it holds, and
    a line that says what it is.

    Raises:
        ValueError: there is no such encoder, or it does not fit `config.architecture`; names each
            key that does not.
        StorageError: it cannot be read.
    """
    source = config.encoder
    if not source:
        raise ValueError("--encoder is missing: a run's folder, an encoder.safetensors, or random")
    if source not in {RANDOM, KINETICS, IMAGENET} and not source.endswith(CHECKPOINT_SUFFIXES):
        place = _encoder_place(source)
        data = place.read_bytes()
        if stored_config(data, place.uri) is not None:
            return data, place.uri
        source = place.uri
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder = ResNet3d(config.architecture)
    said = initialise(encoder, source)
    return encoder_bytes(encoder, {}), said


def open_embedder(config: EmbedConfig, encoder: bytes) -> Embedder:
    """What makes features by the encoder of `read_encoder_file`.

    Raises:
        ValueError: the file's weights do not fit what it tells; names each key that does not.
    """
    stride = config.features.last_stage_spatial_stride
    name = config.encoder
    return Embedder(read_encoder(encoder, name, last_stage_spatial_stride=stride), config)


def _encoder_place(source: str) -> Storage:
    """The encoder.safetensors that a path or URI names, itself or as its run's folder."""
    place = Storage.of(source)
    if place.is_file():
        return place
    inside = place.join(run_folder.ENCODER)
    if inside.is_file():
        return inside
    raise ValueError(
        f"no encoder at {place.uri}: neither a file nor a folder with {run_folder.ENCODER}, which "
        "a run writes at its end"
    )

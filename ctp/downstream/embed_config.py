"""The complete config of features of a collection of videos (supplement A)."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from ctp.config import Config
from ctp.data.catalog import Sources
from ctp.encoders.config import EncoderConfig
from ctp.video.config import ViewsConfig


class FeatureConfig(Config):
    """What a feature is."""

    pooling: Literal["max", "average", "global"] = "max"
    """What becomes of the encoder's output: adaptive max pooling to 2 × 3 × 3, VCOP's kind;
    adaptive average pooling to the same; or the average of all."""
    last_stage_spatial_stride: Annotated[int, Ge(1), Le(2)] = 2
    """2 makes the encoder's total spatial stride 16, that of downstream tasks; 1 makes it 8, that
    of pretraining (supplement D)."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """What the encoder computes in."""
    dtype: Literal["float32", "float16"] = "float32"
    """What features are stored as."""


class EmbedDataConfig(Config):
    """Where the videos are."""

    uri: Sources = ()
    """A folder (local or s3://), a glob, a .txt list, corpus:NUMBER, or several of them."""
    max_seconds_per_video: Annotated[float, Gt(0)] = 60.0
    """A video that the decoder works on for longer is given up: it hangs."""
    read_ahead: Annotated[int, Ge(0)] = 8
    """Videos that each actor reads ahead of the one it decodes."""


class EmbedScalingConfig(Config):
    """What computes the features. It may change when they are gone on with."""

    num_readers: Annotated[int, Ge(1)] = 1
    """Actors that decode videos."""
    cpus_per_reader: Annotated[float, Gt(0)] = 1.0
    """CPU cores of each."""
    num_encoders: Annotated[int, Ge(1)] = 1
    """Actors that encode what was decoded."""
    cpus_per_encoder: Annotated[float, Gt(0)] = 1.0
    """CPU cores of each."""
    use_gpu: bool = False
    """Whether each encoder has a GPU."""
    clips_at_once: Annotated[int, Ge(1)] = 32
    """Clips that go through the encoder together."""


class EmbedConfig(Config):
    """Features of a collection of videos. The defaults are the paper's (supplement A)."""

    encoder: str = ""
    """A run's folder, an encoder.safetensors, a .pth of the authors' code, local or s3://; or
    random, kinetics400 or imagenet."""
    architecture: EncoderConfig = EncoderConfig()
    """What the encoder is, where its file does not tell."""
    seed: Annotated[int, Ge(0)] = 0
    """Random weights follow from it."""
    out: str = ""
    """Folder or URI for the features. The same one goes on where it was broken off."""
    data: EmbedDataConfig = EmbedDataConfig()
    """Where the videos are."""
    views: ViewsConfig = ViewsConfig()
    """Which clips of each are encoded."""
    features: FeatureConfig = FeatureConfig()
    """What a feature is."""
    videos_per_part: Annotated[int, Ge(1)] = 16
    """Videos in a file. Their pixels are in memory at the same time, 3 MB each as a rule."""
    scaling: EmbedScalingConfig = EmbedScalingConfig()
    """What computes them."""

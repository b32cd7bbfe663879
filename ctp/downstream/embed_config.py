"""The config of features of videos (supplement A)."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from ctp.config import Config, NotAnOption
from ctp.data.sources import Sources
from ctp.encoders.config import DEFAULT_ENCODER, AnyEncoderConfig
from ctp.training.config import AUTO, AutoNumber
from ctp.video.config import MaxMegapixels, ViewsConfig
from ctp.video.limits import DEFAULT_MAX_MEGAPIXELS

RETRIEVAL_KS = (1, 5, 10, 20, 50)
"""Numbers of neighbours in the protocol of retrieval."""


class FeatureConfig(Config):
    """How features are computed and stored."""

    pooling: Literal["max", "vcop", "both", "average", "global"] = "max"
    """Pooling of the encoder's output: max: adaptive maximum, to 2 × 3 × 3; vcop: maximum of 2 × 2
    cells, which drops the last row and column of 7 (VCOP's code); both: max, then vcop; average:
    adaptive average, to 2 × 3 × 3; global: average of all."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Number format of the encoder."""
    dtype: Literal["float32", "float16"] = "float32"
    """Data type of stored features."""

    @property
    def poolings(self) -> tuple[str, ...]:
        """Return the poolings whose results a feature consists of, in order."""
        return ("max", "vcop") if self.pooling == "both" else (self.pooling,)


class EmbedDataConfig(Config):
    """The videos."""

    uri: Sources = ()
    """A folder (local or s3://), a glob, a .txt list, corpus:NUMBER, or several of them."""
    max_seconds_per_video: Annotated[float, Gt(0)] = 60.0
    """A video that takes longer to decode is quarantined."""
    max_megapixels: MaxMegapixels = DEFAULT_MAX_MEGAPIXELS
    """Quarantine a video whose pictures have more pixels than this many million; 36 is enough for
    8K."""


class EmbedScalingConfig(Config):
    """The resources. They may change when an interrupted job continues."""

    num_readers: AutoNumber = 1
    """Actors that decode videos. auto: as many as the CPU cores that the encoders leave free
    allow."""
    cpus_per_reader: Annotated[float, Gt(0)] = 1.0
    """CPU cores of each."""
    num_encoders: Annotated[int, Ge(1)] = 1
    """Actors that run the encoder."""
    cpus_per_encoder: Annotated[float, Gt(0)] = 1.0
    """CPU cores of each."""
    use_gpu: bool = False
    """Give each encoder a GPU."""
    clips_at_once: Annotated[int, Ge(1)] = 32
    """Clips of a forward pass."""

    @property
    def readers(self) -> int:
        """Return `num_readers`; 1, the least, if the number is not chosen yet."""
        return 1 if self.num_readers == AUTO else self.num_readers

    def choose(self, cpus: float) -> EmbedScalingConfig:
        """Return the resources with a number of readers in place of "auto".

        Args:
            cpus: what the job may use.
        """
        if self.num_readers != AUTO:
            return self
        free = cpus - self.num_encoders * self.cpus_per_encoder
        return self.replace(num_readers=max(int(free / self.cpus_per_reader), 1))


class EmbedConfig(Config):
    """Features of a collection of videos. The paper's retrieval (supplement A) is the recipe
    retrieval; the defaults differ from it in the clips: every second frame, aspect ratio kept."""

    recipe: Annotated[str, NotAnOption()] = ""
    """Recipe that the options started from."""
    encoder: str = ""
    """A run (its name or folder), an encoder.safetensors, a .pth of the authors' code, ctp-small (a
    small encoder that is part of ctp), random, kinetics400 or imagenet."""
    architecture: AnyEncoderConfig = DEFAULT_ENCODER
    """The encoder, if its file does not describe it."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of random weights."""
    out: str = ""
    """Folder or URI for the features. If it contains a part of them, the rest is computed."""
    data: EmbedDataConfig = EmbedDataConfig()
    """The videos."""
    views: ViewsConfig = ViewsConfig()
    """The clips of each video."""
    features: FeatureConfig = FeatureConfig()
    """How features are computed and stored."""
    videos_per_part: Annotated[int, Ge(1)] = 16
    """Videos in a file. Their pixels are in memory together, usually 3 MB each."""
    scaling: EmbedScalingConfig = EmbedScalingConfig()
    """The resources."""

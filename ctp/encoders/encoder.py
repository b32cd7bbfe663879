"""The base class of encoders."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctp.encoders.config import EncoderConfig
from ctp.video.config import ClipFormat

if TYPE_CHECKING:  # needs PyAV, which a machine that only trains may lack
    from ctp.video.transform import ClipTransform

State = Mapping[str, Tensor]
Renaming = tuple[tuple[str, str], ...]
"""Regular expressions and their replacements, applied in this order."""


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that torchvision publishes.

    Attributes:
        weights: their name for `torchvision.models.get_weight`; {field} in it is replaced by the
            value of that option of the encoder.
        convert: takes the published state dict and the encoder's own, and returns the published
            weights under the encoder's names and in its shapes.
    """

    weights: str
    convert: Callable[[State, State], State] = lambda published, own: published


class Encoder(nn.Module):
    """Base of every encoder: clips in, features out.

    Attributes:
        Config: class of its config.
        stages: names of the submodules, in order from the input; together they hold all weights.
        published_weights: name of initial weights -> the weights that torchvision publishes.
        published_norm_eps: ε of batch normalisation of torchvision's weights.
        checkpoint_names: renames the parameters of the authors' checkpoints to this encoder's.
        config: the config that it was built from.
        clip_format: the clips that it was trained on; None if unknown.
        out_channels: channels of the features.
        stride: input size over output size in time, height and width, rounded up.
    """

    Config: ClassVar[type[EncoderConfig]]
    stages: ClassVar[tuple[str, ...]]
    published_weights: ClassVar[Mapping[str, PublishedWeights]] = {}
    published_norm_eps: ClassVar[float] = 1e-5
    checkpoint_names: ClassVar[Renaming] = ()

    out_channels: int
    stride: tuple[int, int, int]

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.clip_format: ClipFormat | None = None
        self._frozen: tuple[str, ...] = ()

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips by the stages, one after the other; some encoders have layers between them.

        Args:
            clips: float [B, 3, T, H, W].

        Returns:
            float [B, `out_channels`, ⌈T/t⌉, ⌈H/h⌉, ⌈W/w⌉] with t, h, w = `stride`.
        """
        features = clips
        for stage in self.stages:
            features = self.get_submodule(stage)(features)
        return features

    def pooled(self, clips: Tensor) -> Tensor:
        """Return the features of clips, averaged over time and space.

        Args:
            clips: float [B, 3, T, H, W].

        Returns:
            float [B, `out_channels`].

        Raises:
            ValueError: `clips` has another number of dimensions.
        """
        if clips.dim() != 5:
            raise ValueError(
                f"clips have the shape {list(clips.shape)}, expected [B, 3, T, H, W]; clip[None] "
                "makes a batch of one clip"
            )
        features: Tensor = self(clips)
        return features.mean(dim=(2, 3, 4))

    @property
    def transform(self) -> ClipTransform:
        """Return what makes the clips that the encoder was trained on from videos.

        Raises:
            ValueError: its file does not record these clips.
        """
        from ctp.video.transform import ClipTransform

        if self.clip_format is None:
            raise ValueError(
                "it is not known on which clips the encoder was trained: its file does not record "
                "them. Use ctp.video.transform.ClipTransform with their format"
            )
        return ClipTransform(self.clip_format)

    def freeze_stages(self, number: int) -> None:
        """Freeze the first `number` stages: weights and running statistics stay as they are.

        Raises:
            ValueError: the encoder has fewer stages.
        """
        self._frozen = self.first_stages(number)
        for stage in self._frozen:
            self.get_submodule(stage).requires_grad_(False)
        # applies the evaluation mode of frozen stages at once
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; frozen stages stay in evaluation mode."""
        # requires_grad alone would not stop batch normalisation from updating its running
        # statistics
        super().train(mode)
        for stage in self._frozen:
            self.get_submodule(stage).eval()
        return self

    def halve_temporal_stride(self) -> None:
        """Halve the stride in time, in place; weights and config stay the same.

        Raises:
            ValueError: the encoder does not support this.
        """
        raise ValueError(
            f"the encoder {self.config.name} cannot halve its temporal stride; choose another"
        )

    def set_norm_eps(self, eps: float) -> None:
        """Set ε of all batch normalisation, in the config too."""
        self.config = self.config.replace(norm_eps=eps)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eps = eps

    def mismatch_hint(self, state: State) -> str:
        """Return which option would make `state` fit, for an error message; "" if unknown."""
        return ""

    @classmethod
    def first_stages(cls, number: int) -> tuple[str, ...]:
        """Return the names of the first `number` stages.

        Raises:
            ValueError: there are fewer.
        """
        if number > len(cls.stages):
            raise ValueError(
                f"{number} frozen stages, but {cls.__name__} has {len(cls.stages)}: "
                f"{', '.join(cls.stages)}"
            )
        return cls.stages[:number]

    @classmethod
    def rename(cls, key: str) -> str:
        """Return the name that this encoder gives to a parameter of the authors' checkpoints."""
        for pattern, name in cls.checkpoint_names:
            key = re.sub(pattern, name, key)
        return key

    @classmethod
    def owns(cls, key: str) -> bool:
        """Return whether a key of a state dict belongs to one of `stages`."""
        return key.startswith(tuple(f"{stage}." for stage in cls.stages))

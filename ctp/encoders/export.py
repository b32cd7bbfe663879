"""An encoder without its code: a torch.export program, or ONNX. Both take any number of clips."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ctp.encoders.resnet3d import ResNet3d
from ctp.rng import generator

Pooling = Literal["average", "off"]
INPUT, OUTPUT = "clips", "features"
ABOUT = "encoder.json"
"""Where a program keeps what it is; ONNX has it as metadata `encoder`."""
ANY_NUMBER = ({0: torch.export.Dim("batch")},)
TRACED_CLIPS = 2
"""A size of 1 would be taken for a constant."""
CHECKED_CLIPS = (1, 3)
TOLERANCE = 1e-4
"""Greatest difference that is rounding, as a share of the greatest feature."""


class ExportError(RuntimeError):
    """An encoder that cannot be exported, or whose export makes other features."""


@dataclass(frozen=True)
class Exported:
    """An exported encoder.

    Attributes:
        data: the file.
        greatest_difference: of its features from the encoder's, as a share of the greatest one.
        feature_shape: of one clip's features.
    """

    data: bytes
    greatest_difference: float
    feature_shape: tuple[int, ...]


class Features(nn.Module):
    """What is exported: an encoder in evaluation mode, and how its features are pooled."""

    def __init__(self, encoder: ResNet3d, pooling: Pooling):
        super().__init__()
        self.encoder = copy.deepcopy(encoder).cpu()
        self.pooling = pooling
        self.eval()

    def forward(self, clips: Tensor) -> Tensor:
        """Features of clips.

        Args:
            clips: float32 [B, 3, T, H, W], normalised by ImageNet's mean and deviation.

        Returns:
            float32 [B, C] for pooling `average`, else [B, C, T', H', W'] as of the encoder.
        """
        features: Tensor = self.encoder(clips)
        return features.mean(dim=(2, 3, 4)) if self.pooling == "average" else features


def export_program(
    encoder: ResNet3d, clip_size: tuple[int, int, int], pooling: Pooling
) -> Exported:
    """An encoder as a program: `torch.export.load(file).module()(clips)`.

    Args:
        encoder: stays as it is.
        clip_size: T, H, W of the clips that it shall take.
        pooling: whether features are averaged over a clip.

    Raises:
        ExportError: the program makes other features than the encoder.
    """
    features = Features(encoder, pooling)
    clips = _random_clips(TRACED_CLIPS, clip_size)
    with torch.no_grad():
        program = torch.export.export(features, (clips,), dynamic_shapes=ANY_NUMBER)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={ABOUT: _about(features, clip_size)})
    data = file.getvalue()
    saved: Any = torch.export.load(io.BytesIO(data)).module()
    return _checked(data, saved, features, clip_size, "the program")


def export_onnx(encoder: ResNet3d, clip_size: tuple[int, int, int], pooling: Pooling) -> Exported:
    """An encoder as ONNX, with input `clips` and output `features`. Arguments as above.

    Raises:
        ExportError: it makes other features than the encoder, or a package is missing.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise ExportError(
            f"ONNX needs package {error.name}; install ctp with its extra: pip install -e '.[onnx]'"
        ) from error
    features = Features(encoder, pooling)
    program = torch.onnx.export(
        features,
        (_random_clips(TRACED_CLIPS, clip_size),),
        dynamic_shapes=ANY_NUMBER,
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["encoder"] = _about(features, clip_size)
    data = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(clips: Tensor) -> Tensor:
        return torch.as_tensor(session.run([OUTPUT], {INPUT: clips.numpy()})[0])

    return _checked(data, run, features, clip_size, "ONNX")


def _about(features: Features, clip_size: tuple[int, int, int]) -> str:
    config = features.encoder.config.model_dump()
    return json.dumps({"encoder": config, "clip_size": clip_size, "pooling": features.pooling})


@torch.no_grad()
def _checked(
    data: bytes,
    run: Callable[[Tensor], Tensor],
    features: Features,
    clip_size: tuple[int, int, int],
    name: str,
) -> Exported:
    """The export, if it makes the encoder's features of random clips."""
    greatest = 0.0
    for number in CHECKED_CLIPS:
        clips = _random_clips(number, clip_size)
        wanted, came = features(clips), run(clips)
        difference = float((came - wanted).abs().max() / wanted.abs().max())
        if not difference <= TOLERANCE:  # so that NaN is refused, too
            raise ExportError(
                f"{name} makes other features than the encoder: they differ by "
                f"{difference:.2g} of the greatest one, and {TOLERANCE:g} is allowed. Are its "
                "weights finite? If so, try other versions of torch and onnxruntime"
            )
        greatest = max(greatest, difference)
    return Exported(data, greatest, tuple(wanted.shape[1:]))


def _random_clips(number: int, clip_size: tuple[int, int, int]) -> Tensor:
    rng = generator(0, "export", number)
    return torch.as_tensor(rng.standard_normal((number, 3, *clip_size), dtype=np.float32))

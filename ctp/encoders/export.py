"""Export an encoder without its code: a torch.export program, or ONNX. The batch size is free."""

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

from ctp.encoders.encoder import Encoder
from ctp.rng import generator
from ctp.versions import FORMAT_VERSION, written_by

Pooling = Literal["average", "off"]
INPUT, OUTPUT = "clips", "features"
METADATA_FILE = "encoder.json"
"""File in a program that describes it; ONNX has the same as metadata `encoder`."""
DYNAMIC_SHAPES = ({0: torch.export.Dim("batch")},)
TRACED_BATCH = 2  # torch.export takes a size of 1 for a constant
VERIFIED_BATCHES = (1, 3)
TOLERANCE = 1e-4
"""Largest difference that counts as rounding, relative to the largest feature."""


class ExportError(ValueError):
    """The encoder cannot be exported, or its export gives other features."""


@dataclass(frozen=True)
class Exported:
    """An exported encoder.

    Attributes:
        data: the file.
        max_difference: largest difference from the encoder's features, relative to the largest.
        feature_shape: shape of one clip's features.
    """

    data: bytes
    max_difference: float
    feature_shape: tuple[int, ...]


class PooledEncoder(nn.Module):
    """The module that is exported: a copy of an encoder in evaluation mode, and pooling."""

    def __init__(self, encoder: Encoder, pooling: Pooling):
        super().__init__()
        # a copy, since the caller may train the encoder further
        self.encoder = copy.deepcopy(encoder).cpu()
        self.pooling = pooling
        self.eval()

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips.

        Args:
            clips: float32 [B, 3, T, H, W], normalised by ImageNet's mean and deviation.

        Returns:
            float32 [B, C] for pooling `average`, else [B, C, T', H', W'].
        """
        features: Tensor = self.encoder(clips)
        return features.mean(dim=(2, 3, 4)) if self.pooling == "average" else features


def export_program(encoder: Encoder, clip_size: tuple[int, int, int], pooling: Pooling) -> Exported:
    """Export an encoder as a program: `torch.export.load(file).module()(clips)`.

    Args:
        encoder: is not changed.
        clip_size: T, H, W of the clips that the program takes.
        pooling: whether features are averaged over a clip.

    Raises:
        ExportError: the program gives other features than the encoder.
    """
    module = PooledEncoder(encoder, pooling)
    clips = _random_clips(TRACED_BATCH, clip_size)
    with torch.no_grad():
        program = torch.export.export(module, (clips,), dynamic_shapes=DYNAMIC_SHAPES)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA_FILE: _metadata(module, clip_size)})
    data = file.getvalue()
    loaded: Any = torch.export.load(io.BytesIO(data)).module()
    return _verify(data, loaded, module, clip_size, "the program")


def export_onnx(encoder: Encoder, clip_size: tuple[int, int, int], pooling: Pooling) -> Exported:
    """Export an encoder as ONNX, with input `clips` and output `features`.

    Args:
        encoder, clip_size, pooling: as in `export_program`.

    Raises:
        ExportError: it gives other features than the encoder, or a package is missing.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise ExportError(
            f"ONNX needs package {error.name}; install ctp with its extra: pip install -e '.[onnx]'"
        ) from error
    module = PooledEncoder(encoder, pooling)
    program = torch.onnx.export(
        module,
        (_random_clips(TRACED_BATCH, clip_size),),
        dynamic_shapes=DYNAMIC_SHAPES,
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["encoder"] = _metadata(module, clip_size)
    data = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(clips: Tensor) -> Tensor:
        return torch.as_tensor(session.run([OUTPUT], {INPUT: clips.numpy()})[0])

    return _verify(data, run, module, clip_size, "ONNX")


def _metadata(module: PooledEncoder, clip_size: tuple[int, int, int]) -> str:
    return json.dumps(
        {
            "encoder": module.encoder.config.model_dump(),
            "clip_size": clip_size,
            "pooling": module.pooling,
            "format_version": FORMAT_VERSION,
            "written_by": dict(written_by()),
        }
    )


@torch.no_grad()
def _verify(
    data: bytes,
    run: Callable[[Tensor], Tensor],
    module: PooledEncoder,
    clip_size: tuple[int, int, int],
    name: str,
) -> Exported:
    """Return the export if `run`, which runs it, gives the module's features of random clips."""
    max_difference = 0.0
    # other sizes than the traced one, to check that the size of a batch is free
    for batch in VERIFIED_BATCHES:
        clips = _random_clips(batch, clip_size)
        expected, got = module(clips), run(clips)
        # relative to the largest: features near 0 have no meaningful ratio
        difference = float((got - expected).abs().max() / expected.abs().max())
        if not difference <= TOLERANCE:  # true for NaN, too
            raise ExportError(
                f"{name} gives other features than the encoder: they differ by {difference:.2g} "
                f"of the largest feature, and {TOLERANCE:g} is allowed. Check that the weights are "
                "finite; if they are, try other versions of torch and onnxruntime"
            )
        max_difference = max(max_difference, difference)
    return Exported(data, max_difference, tuple(expected.shape[1:]))


def _random_clips(batch: int, clip_size: tuple[int, int, int]) -> Tensor:
    rng = generator(0, "export", batch)
    return torch.as_tensor(rng.standard_normal((batch, 3, *clip_size), dtype=np.float32))

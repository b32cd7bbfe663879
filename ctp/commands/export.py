"""Export an encoder for programs without ctp."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from ctp.cli import CommandLine
from ctp.config import Config

ABOUT = """Export an encoder as a torch.export program, encoder.pt2, or as ONNX, encoder.onnx.

Each takes any number of clips, float32 [B, 3, T, H, W] normalised by ImageNet's mean and deviation,
and is written only if it gives the encoder's features of random clips. ONNX needs the extra onnx.

  ctp export --run my-run                                  beside the run's encoder.safetensors
  ctp export --run my-run --format both --spatial_stride 16
  ctp export --encoder s3://bucket/runs/a/encoder.safetensors --out exported"""


class ExportConfig(Config):
    """Export one vector for each clip, at the spatial stride of the training (default)."""

    run: str = ""
    """Name of a run below `storage`, or path or URI of its folder or of a file in it."""
    encoder: str = ""
    """Path or URI of an encoder.safetensors, to export it instead of a run's."""
    storage: str = "runs"
    """Folder or URI of the run folders."""
    format: Literal["program", "onnx", "both"] = "program"
    """File format, or both."""
    pooling: Literal["average", "off"] = "average"
    """average: features of a clip are averaged, [B, C]; off: [B, C, T', H', W']."""
    spatial_stride: Literal["as-trained", "8", "16"] = "as-trained"
    """Height of a clip over height of its features: 8 for pretraining, 16 downstream."""
    num_frames: Annotated[int, Ge(1)] | None = None
    """Frames of a clip; none: as in the run's training, 16 if unknown."""
    frame_size_px: Annotated[int, Ge(8)] | None = None
    """Height and width of a clip; none: as in the run's training, 112 if unknown."""
    out: str = ""
    """Folder or URI to write to; none: the encoder's folder."""


COMMAND = CommandLine({"as-trained": ExportConfig}, "as-trained", ABOUT)


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, export, and print what was written."""
    COMMAND.run(_run, argv)


def _run(config: ExportConfig) -> None:
    from ctp.commands.work.export import run  # torch: --help needs none

    run(config)

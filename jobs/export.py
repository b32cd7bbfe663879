"""Export the encoder of a run, so that other programs use it without ctp."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import yaml
from annotated_types import Ge
from pydantic import BaseModel, ValidationError

from ctp.cli import CommandLine
from ctp.config import Config
from ctp.encoders.export import ExportError, Pooling, export_onnx, export_program
from ctp.encoders.weights import read_encoder
from ctp.storage import Storage, StorageError
from ctp.training import run_folder
from ctp.video.config import AugmentConfig, SamplingConfig

ABOUT = """Export an encoder as a torch.export program, encoder.pt2, or as ONNX, encoder.onnx.

Each takes any number of clips, float32 [B, 3, T, H, W] normalised by ImageNet's mean and deviation,
and is written only if it makes the encoder's features of random clips. ONNX needs the extra onnx.

  export.py --run my-run                                  beside the run's encoder.safetensors
  export.py --run my-run --format both --spatial_stride 16
  export.py --encoder s3://bucket/runs/a/encoder.safetensors --out exported"""
FORMATS = {"program": ("encoder.pt2", export_program), "onnx": ("encoder.onnx", export_onnx)}


class ExportConfig(Config):
    """What to export, and how."""

    run: str = ""
    """The run: its name below `storage`, or its folder's path or URI."""
    encoder: str = ""
    """An encoder.safetensors to export instead of a run's, local or s3://."""
    storage: str = "runs"
    """Where run folders lie."""
    format: Literal["program", "onnx", "both"] = "program"
    """What to write."""
    pooling: Pooling = "average"
    """Whether features are averaged over a clip, to [B, C], or not, [B, C, T', H', W']."""
    spatial_stride: Literal["as-trained", "8", "16"] = "as-trained"
    """Size of a clip over that of its features: 8 in pretraining, 16 downstream (supplement D)."""
    num_frames: Annotated[int, Ge(1)] | None = None
    """Frames of a clip; none: those that the run was trained on, 16 if it is not known."""
    frame_size_px: Annotated[int, Ge(8)] | None = None
    """Height and width of a clip; none: those that the run was trained on, 112 if not known."""
    out: str = ""
    """Folder to write to, local or s3://; none: that of the encoder."""


class TrainedClips(BaseModel):
    """What the config of a run, of any kind, says of its clips; the paper's where it does not."""

    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()


def as_trained() -> ExportConfig:
    """The encoder as it was trained, a vector for each clip (default)."""
    return ExportConfig()


def main(argv: list[str] | None = None) -> None:
    """Parse, export, and say what came out."""
    _, config = CommandLine({"as-trained": as_trained}, "as-trained", ABOUT).parse(argv)
    try:
        _run(config)
    except (ValueError, StorageError, ExportError) as error:
        sys.exit(f"error: {error}")


def _run(config: ExportConfig) -> None:
    place = _find_encoder(config)
    stride = config.spatial_stride
    changes = {} if stride == "as-trained" else {"last_stage_spatial_stride": int(stride) // 8}
    encoder = read_encoder(place.read_bytes(), place.uri, **changes)
    num_frames, side = _clip_size(config, place.parent.join(run_folder.CONFIG))
    out = Storage.of(config.out) if config.out else place.parent
    out.check_writable()
    for name in FORMATS if config.format == "both" else (config.format,):
        file, export = FORMATS[name]
        exported = export(encoder, (num_frames, side, side), config.pooling)
        out.join(file).write_bytes(exported.data)
        shape = ", ".join(map(str, exported.feature_shape))
        print(
            f"{out.join(file).uri} ({len(exported.data) / 1e6:.1f} MB): clips "
            f"[B, 3, {num_frames}, {side}, {side}] to features [B, {shape}]; greatest difference "
            f"from the encoder's {exported.greatest_difference:.1g} of the greatest feature"
        )


def _find_encoder(config: ExportConfig) -> Storage:
    """The encoder.safetensors that is asked for.

    Raises:
        ValueError: it is not there, or not one thing is asked for; names the runs that there are.
    """
    if bool(config.run) == bool(config.encoder):
        raise ValueError("wanted either --run NAME or --encoder URI")
    if config.encoder:
        return Storage.of(config.encoder)
    folder = run_folder.find_run(config.run, config.storage)
    place = folder.join(run_folder.ENCODER)
    if not place.exists():
        raise ValueError(f"run {folder.uri} has no {run_folder.ENCODER} yet; it gets it at its end")
    return place


def _clip_size(config: ExportConfig, run_config: Storage) -> tuple[int, int]:
    """Frames and side of a clip: as asked for, else as the run's config says, else the paper's."""
    trained = TrainedClips()
    if not (config.num_frames and config.frame_size_px) and run_config.exists():
        try:
            trained = TrainedClips.model_validate(yaml.safe_load(run_config.read_bytes()))
        except (yaml.YAMLError, ValidationError) as error:
            raise ValueError(
                f"{run_config.uri} is not the config of a run; say --num_frames and --frame_size_px"
            ) from error
    return (
        config.num_frames or trained.sampling.num_frames,
        config.frame_size_px or trained.augment.frame_size_px,
    )


if __name__ == "__main__":
    main()

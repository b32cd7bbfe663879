"""Export the encoder of a run for programs that do not have ctp."""

from __future__ import annotations

from ctp.commands.export import ExportConfig
from ctp.commands.next_step import after_export
from ctp.encoders.encoder import Encoder
from ctp.encoders.export import ExportError, export_onnx, export_program
from ctp.encoders.weights import find_encoder, read_encoder
from ctp.report.runs import RUN_CONFIGS
from ctp.storage import Storage
from ctp.training import run_folder

PAPER_CLIP_SIZE = 16, 112
FORMATS = {"program": ("encoder.pt2", export_program), "onnx": ("encoder.onnx", export_onnx)}


def run(config: ExportConfig) -> None:
    """Export an encoder, and print what was written.

    Raises:
        ValueError: there is no such encoder, or an option does not fit it.
        ExportError: it cannot be exported, or the export gives other features.
        StorageError: something cannot be read or written.
    """
    place = _find_encoder(config)
    stride = config.spatial_stride
    changes = {} if stride == "as-trained" else {"spatial_stride": int(stride)}
    encoder = read_encoder(place.read_bytes(), place.uri, **changes)
    if changes and encoder.config.spatial_stride != int(stride):
        raise ExportError(
            f"the encoder {encoder.config.describe()} has no spatial stride of {stride}; expected "
            f"--spatial_stride {encoder.config.spatial_stride}, or leave the option out"
        )
    num_frames, side = _clip_size(config, encoder, place.parent)
    out = Storage.from_uri(config.out) if config.out else place.parent
    # before the export, which takes long
    out.check_output()
    for name in FORMATS if config.format == "both" else (config.format,):
        file, export = FORMATS[name]
        exported = export(encoder, (num_frames, side, side), config.pooling)
        out.join(file).write_bytes(exported.data)
        shape = ", ".join(map(str, exported.feature_shape))
        print(
            f"{out.join(file).uri} ({len(exported.data) / 1e6:.1f} MB): clips "
            f"[B, 3, {num_frames}, {side}, {side}] to features [B, {shape}]; largest difference "
            f"from the encoder's {exported.max_difference:.1g} of the largest feature"
        )
    program = out.join(FORMATS["program"][0])
    if out.is_local and program.exists():
        after_export(program.path)


def _find_encoder(config: ExportConfig) -> Storage:
    """Return the place of the encoder.safetensors to export.

    Raises:
        ValueError: not one of `run` and `encoder` is given, or there is no such run.
    """
    if bool(config.run) == bool(config.encoder):
        raise ValueError("expected either --run NAME or --encoder URI")
    return find_encoder(config.run or config.encoder, config.storage)


def _clip_size(config: ExportConfig, encoder: Encoder, run: Storage) -> tuple[int, int]:
    """Return frames and side of a clip: from the options, else the encoder's file, else the run's
    config, else the paper."""
    if config.num_frames and config.frame_size_px:
        return config.num_frames, config.frame_size_px
    clips = encoder.clip_format
    if clips is None and run.join(run_folder.CONFIG).exists():  # a file of an older version
        try:
            kinds = RUN_CONFIGS.values()
            clips = run_folder.read_config(run, *kinds, may_lack=True).clip_format
        except ValueError as error:
            raise ValueError(f"{error}. Or give --num_frames and --frame_size_px") from error
    num_frames, side = (clips.num_frames, clips.frame_size_px) if clips else PAPER_CLIP_SIZE
    return config.num_frames or num_frames, config.frame_size_px or side

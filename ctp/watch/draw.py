"""Draw the answers of a run's model at some of its steps: the process that `AnswerPictures` starts.

    python -m ctp.watch.draw FOLDER OUT CHECKPOINT …

For each checkpoint, of which "" is the model before training, OUT gets a file NAME.webp with a row
for each clip and a column for each frame, and NAME.json with the rest of `Sprite`.
"""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import torch
from PIL import Image

from ctp.pretext.config import PretrainConfig
from ctp.pretext.task import SamplePicture
from ctp.report.answers import (
    choose_samples,
    draw_samples,
    heldout_samples,
    load_samples,
    model_of,
)
from ctp.storage import Storage, StorageError
from ctp.training import run_folder
from ctp.training.checkpoint import CheckpointStore
from ctp.watch.answer_pictures import NUM_CLIPS, SIZE_PX, Sprite, sprite_name

MAX_FRAMES = 32
"""Frames of a clip that are shown, evenly chosen."""
QUALITY = 80


@torch.no_grad()
def draw(folder: Storage, out: Storage, checkpoints: list[str]) -> None:
    """Draw the answers at each checkpoint to the same clips.

    Args:
        folder: of the run.
        out: folder for the files.
        checkpoints: names of checkpoints, or "" for the model before training.

    Raises:
        ValueError: the run has no held-out videos, or they cannot be used.
        StorageError: something cannot be read or written.
    """
    torch.set_num_threads(1)
    config = run_folder.read_config(folder, PretrainConfig, may_lack=True)
    videos = heldout_samples(config, None)
    found = load_samples(videos, choose_samples(config, len(videos.catalog), NUM_CLIPS, seed=0))
    store = CheckpointStore(folder.join(run_folder.CHECKPOINTS))
    for name in checkpoints:
        model = model_of(config, store.load(name) if name else None)
        _write(out, name, draw_samples(config, found, model, SIZE_PX))


def _write(out: Storage, checkpoint: str, pictures: list[SamplePicture]) -> None:
    num_frames = min(len(picture.frames) for picture in pictures)
    shown = np.linspace(0, num_frames - 1, min(num_frames, MAX_FRAMES)).round().astype(int)
    rows = [np.concatenate([*picture.frames[shown]], axis=1) for picture in pictures]
    height, width = pictures[0].frames.shape[1:3]
    name = sprite_name(checkpoint)
    sprite = Sprite(len(shown), width, height, [picture.caption for picture in pictures])
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(buffer, "WEBP", quality=QUALITY)
    out.join(f"{name}.webp").write_bytes(buffer.getvalue())
    # last: it completes the picture
    out.join(f"{name}.json").write_bytes(json.dumps(sprite._asdict()).encode())


if __name__ == "__main__":
    try:
        draw(Storage.from_uri(sys.argv[1]), Storage.from_uri(sys.argv[2]), sys.argv[3:])
    except (ValueError, StorageError) as error:
        sys.exit(str(error))

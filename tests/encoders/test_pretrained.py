"""The encoder that is part of ctp: it is small, loads by its name, and its features tell motion."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ctp import load_encoder
from ctp.data import corpus
from ctp.encoders.encoder import Encoder
from ctp.encoders.registry import build_encoder
from ctp.run_names import PRETRAINED, find_run_folder

NAMES = sorted(path.name for path in PRETRAINED.iterdir())
GALLERY, QUERIES = corpus.video_names(80), corpus.video_names(110)[80:]
UNSEEN_SEED = 1
"""Of the videos; pretraining used those of `corpus.CORPUS_SEED`."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """A clip of each video of the gallery and then of the queries, as the encoder was trained."""
    transform = load_encoder("ctp-small").transform
    file = tmp_path_factory.mktemp("videos") / "video.mp4"
    made = []
    for name in (*GALLERY, *QUERIES):
        file.write_bytes(corpus.render_video(name, seed=UNSEEN_SEED))
        made.append(transform(file))
    return torch.stack(made)


@torch.no_grad()
def accuracy(encoder: Encoder, clips: Tensor) -> float:
    """The share of queries whose nearest video of the gallery has the same motion."""
    features = F.normalize(encoder.pooled(clips), dim=1)
    nearest = (features[len(GALLERY) :] @ features[: len(GALLERY)].T).argmax(dim=1)
    right = [
        corpus.label_of(query) == corpus.label_of(GALLERY[found])
        for query, found in zip(QUERIES, nearest.tolist(), strict=True)
    ]
    return sum(right) / len(right)


def test_features_find_videos_of_the_same_motion(clips: Tensor) -> None:
    """Of ten classes, so that a guess is right in one of ten cases."""
    encoder = load_encoder("ctp-small")
    torch.manual_seed(0)
    untrained = build_encoder(encoder.config).eval()
    assert accuracy(encoder, clips) > 0.5
    assert accuracy(untrained, clips) < 0.35


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_described(name: str) -> None:
    folder = PRETRAINED / name
    assert (folder / "encoder.safetensors").stat().st_size < 1e6
    assert "python jobs/pretrain.py" in (folder / "README.md").read_text()


def test_a_run_of_the_user_with_its_name_comes_first(tmp_path) -> None:
    files = ("encoder.safetensors",)
    assert find_run_folder("ctp-small", str(tmp_path), files).path == str(PRETRAINED / "ctp-small")
    (tmp_path / "ctp-small").mkdir()
    (tmp_path / "ctp-small" / "encoder.safetensors").write_bytes(b"x")
    found = find_run_folder("ctp-small", str(tmp_path), files)
    assert found.path == str(tmp_path / "ctp-small")

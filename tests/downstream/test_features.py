"""Features: what the encoder makes of views, pooled as the protocol says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from ctp.downstream.embed_config import EmbedConfig
from ctp.downstream.features import Embedder, FeatureExtractor, open_embedder, read_encoder_file
from ctp.encoders.config import EncoderConfig
from ctp.encoders.resnet3d import ResNet3d
from ctp.encoders.weights import encoder_bytes, read_encoder, stored_config
from ctp.video.augment import to_input
from ctp.video.encoded import EncodedVideo
from ctp.video.views import read_view_planes, read_views

TINY = EncoderConfig(width=4, blocks_per_stage=(1, 1, 1, 1), last_stage_spatial_stride=2)


class Ramp(nn.Module):
    """Stands where an encoder does, and gives numbers that are known: [B, 2, 2, 7, 7]."""

    out_channels = 2

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        one = torch.arange(2 * 2 * 7 * 7, dtype=torch.float32).reshape(1, 2, 2, 7, 7)
        return one + 1000 * torch.arange(len(clips)).view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("pooling", ["max", "average", "global"])
def test_pooling_by_hand(pooling: str) -> None:
    extractor = FeatureExtractor(Ramp(), pooling)  # type: ignore[arg-type]
    features = extractor(torch.zeros(2, 3, 16, 112, 112)).numpy()
    output = Ramp()(torch.zeros(2, 1)).numpy()
    if pooling == "global":
        expected = output.mean(axis=(2, 3, 4))
    else:
        # 7 rows in three parts that overlap: 0-2, 2-4, 4-6
        take = np.max if pooling == "max" else np.mean
        rows = [take(output[..., start : start + 3, :], axis=-2) for start in (0, 2, 4)]
        cells = [
            [take(row[..., start : start + 3], axis=-1) for start in (0, 2, 4)] for row in rows
        ]
        expected = np.moveaxis(np.array(cells), (0, 1), (-2, -1)).reshape(2, -1)
    assert features.shape == (2, extractor.out_size)
    np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_the_papers_feature_is_512_x_2_x_3_x_3() -> None:
    with torch.device("meta"):
        encoder = ResNet3d(EncoderConfig(last_stage_spatial_stride=2))
    assert FeatureExtractor(encoder, "max").out_size == 512 * 2 * 3 * 3


@pytest.fixture
def planes(small_embedding: EmbedConfig, encode_video: Callable[..., bytes]) -> np.ndarray:
    """Three clips of a video."""
    return read_view_planes(small_embedding.views, EncodedVideo("a", "a.mp4", encode_video(20)))


def embedder(config: EmbedConfig) -> Embedder:
    encoder, _ = read_encoder_file(config)
    return open_embedder(config, encoder)


def test_a_feature_is_what_the_encoder_makes_of_the_pixels(
    small_embedding: EmbedConfig, encode_video: Callable[..., bytes], planes: np.ndarray
) -> None:
    features = embedder(small_embedding)(planes)
    data, _ = read_encoder_file(small_embedding)
    encoder = read_encoder(data, "it", last_stage_spatial_stride=2)
    frames = read_views(small_embedding.views, EncodedVideo("a", "a.mp4", encode_video(20)))
    with torch.no_grad():
        output = encoder(to_input(torch.from_numpy(frames)))
    expected = nn.functional.adaptive_max_pool3d(output, (2, 3, 3)).flatten(1)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_how_many_go_through_together_changes_nothing(
    small_embedding: EmbedConfig, planes: np.ndarray
) -> None:
    together = embedder(small_embedding)(planes)
    alone = embedder(small_embedding.replace(scaling={"clips_at_once": 1}))(planes)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_the_stride_is_that_of_downstream_tasks_unless_asked(
    small_embedding: EmbedConfig, planes: np.ndarray
) -> None:
    found = [
        embedder(small_embedding.replace(features={"last_stage_spatial_stride": stride}))(planes)
        for stride in (1, 2)
    ]
    assert found[0].shape == found[1].shape
    assert not np.allclose(*found)
    default = embedder(small_embedding)(planes)
    np.testing.assert_array_equal(default, found[1])


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_other_precisions_are_near(
    small_embedding: EmbedConfig, planes: np.ndarray, precision: str
) -> None:
    exact = embedder(small_embedding)(planes)
    near = embedder(small_embedding.replace(features={"precision": precision}))(planes)
    assert np.abs(near - exact).max() < 0.05 * np.abs(exact).max()


def test_a_number_too_large_to_store_is_an_error(
    small_embedding: EmbedConfig, planes: np.ndarray
) -> None:
    encoder = ResNet3d(TINY)
    with torch.no_grad():
        encoder.layer4[0].conv2[1].weight.fill_(1e6)
    stored_as = {"dtype": "float16"}
    with pytest.raises(FloatingPointError, match=r"float16 \(the encoder gave up to"):
        Embedder(encoder.eval(), small_embedding.replace(features=stored_as))(planes)


def test_a_run_is_named_by_its_folder_or_its_file(
    small_embedding: EmbedConfig, tmp_path: Path
) -> None:
    data = encoder_bytes(ResNet3d(TINY), {"run": "mine"})
    (tmp_path / "encoder.safetensors").write_bytes(data)
    for name in (tmp_path, tmp_path / "encoder.safetensors"):
        config = small_embedding.replace(encoder=str(name), architecture=EncoderConfig())
        found, said = read_encoder_file(config)
        assert found == data  # as it lies there, so that its sha256 is the file's
        assert said == str(tmp_path / "encoder.safetensors")


def test_random_weights_are_the_seeds(small_embedding: EmbedConfig) -> None:
    first, said = read_encoder_file(small_embedding)
    torch.rand(1)
    assert read_encoder_file(small_embedding)[0] == first
    assert read_encoder_file(small_embedding.replace(seed=1))[0] != first
    assert said == "random weights"


def test_weights_that_do_not_tell_what_they_are_fill_what_is_said(
    small_embedding: EmbedConfig, tmp_path: Path
) -> None:
    file = tmp_path / "bare.safetensors"
    safetensors.torch.save_file(ResNet3d(TINY).state_dict(), file)
    config = small_embedding.replace(encoder=str(file))
    data, _ = read_encoder_file(config)
    stored = stored_config(data, "it")
    assert stored is not None
    assert stored.width == 4
    wide = config.replace(architecture=TINY.replace(width=8))
    with pytest.raises(ValueError, match=r"stem\.0\.weight: \(4, 3, 3, 7, 7\) where \(8,"):
        read_encoder_file(wide)


def test_what_is_no_encoder_is_said(small_embedding: EmbedConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--encoder is missing"):
        read_encoder_file(small_embedding.replace(encoder=""))
    with pytest.raises(ValueError, match=r"neither a file nor a folder with encoder\.safetensors"):
        read_encoder_file(small_embedding.replace(encoder=str(tmp_path)))

"""Features: the encoder's output for the views of a video, pooled by the protocol."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from ctp.downstream.embed_config import EmbedConfig, FeatureConfig
from ctp.downstream.feature_folder import VideoFeatures, by_pooling
from ctp.downstream.features import Embedder, FeatureExtractor, open_embedder, read_encoder_file
from ctp.encoders.config import R3dConfig
from ctp.encoders.resnet3d import R3d
from ctp.encoders.weights import encoder_bytes, read_encoder, stored_config
from ctp.video.augment import to_input
from ctp.video.decode import VideoReader
from ctp.video.encoded import EncodedVideo
from ctp.video.planes import to_rgb
from ctp.video.views import read_view_planes

TINY = R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1), spatial_stride=16)


class Ramp(nn.Module):
    """An encoder with a known output, [B, 2, 2, 7, 7]."""

    out_channels = 2

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        one = torch.arange(2 * 2 * 7 * 7, dtype=torch.float32).reshape(1, 2, 2, 7, 7)
        return one + 1000 * torch.arange(len(clips)).view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("pooling", ["max", "vcop", "average", "global"])
def test_pooling_by_hand(pooling: str) -> None:
    extractor = FeatureExtractor(Ramp(), pooling)  # type: ignore[arg-type]
    features = extractor(torch.zeros(2, 3, 16, 112, 112)).numpy()
    output = Ramp()(torch.zeros(2, 1)).numpy()
    if pooling == "global":
        expected = output.mean(axis=(2, 3, 4))
    else:
        # 7 rows in three parts: 0-2, 2-4 and 4-6 overlap; VCOP has 0-1, 2-3 and 4-5
        take, size = np.mean if pooling == "average" else np.max, 2 if pooling == "vcop" else 3
        rows = [take(output[..., start : start + size, :], axis=-2) for start in (0, 2, 4)]
        cells = [
            [take(row[..., start : start + size], axis=-1) for start in (0, 2, 4)] for row in rows
        ]
        expected = np.moveaxis(np.array(cells), (0, 1), (-2, -1)).reshape(2, -1)
    assert features.shape == (2, extractor.out_size)
    np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_a_feature_of_both_poolings_is_one_after_the_other() -> None:
    config = FeatureConfig(pooling="both")
    extract = FeatureExtractor(Ramp(), *config.poolings)  # type: ignore[arg-type]
    clips = torch.zeros(2, 3, 16, 112, 112)
    together = extract(clips).numpy()
    assert together.shape == (2, extract.out_size)
    parts = by_pooling(VideoFeatures(["a", "b"], [None, None], together), config)
    assert list(parts) == ["max", "vcop"]
    for name, part in parts.items():
        alone = FeatureExtractor(Ramp(), name)(clips).numpy()  # type: ignore[arg-type]
        np.testing.assert_array_equal(part.features, alone)


def test_vcops_pooling_needs_clips_of_the_protocol(
    small_embedding: EmbedConfig, planes: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r"\(1, 1, 1\) cells of \(1, 2, 2\); expected \(2, 3, 3\)"):
        embed(small_embedding.replace(features={"pooling": "vcop"}), planes)


def test_the_papers_feature_is_512_x_2_x_3_x_3() -> None:
    with torch.device("meta"):
        encoder = R3d(R3dConfig(spatial_stride=16))
    assert FeatureExtractor(encoder, "max").out_size == 512 * 2 * 3 * 3


@pytest.fixture
def planes(small_embedding: EmbedConfig, encode_video: Callable[..., bytes]) -> np.ndarray:
    """Three clips of a video."""
    with VideoReader(EncodedVideo("a", "a.mp4", encode_video(20))) as reader:
        return read_view_planes(small_embedding.views, reader)


def embed(config: EmbedConfig, planes: np.ndarray) -> np.ndarray:
    """Return features of the clips of a video, [num_clips, D]."""
    encoder, _ = read_encoder_file(config)
    return open_embedder(config, encoder).embed(planes[None])[0]


def test_a_feature_is_the_pooled_output_of_the_encoder(
    small_embedding: EmbedConfig, planes: np.ndarray
) -> None:
    features = embed(small_embedding, planes)
    data, _ = read_encoder_file(small_embedding)
    encoder = read_encoder(data, "it", spatial_stride=16)
    frames = to_rgb(torch.from_numpy(planes), small_embedding.views.frame_size_px)
    with torch.no_grad():
        output = encoder(to_input(frames))
    expected = nn.functional.adaptive_max_pool3d(output, (2, 3, 3)).flatten(1)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_the_clips_in_a_batch(
    small_embedding: EmbedConfig, planes: np.ndarray
) -> None:
    together = embed(small_embedding, planes)
    alone = embed(small_embedding.replace(scaling={"clips_at_once": 1}), planes)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_the_stride_is_16_whatever_the_encoder_was_trained_at(
    small_embedding: EmbedConfig, planes: np.ndarray
) -> None:
    architecture = small_embedding.architecture
    assert architecture.spatial_stride == 8
    at_16 = small_embedding.replace(architecture=architecture.replace(spatial_stride=16))
    np.testing.assert_array_equal(embed(small_embedding, planes), embed(at_16, planes))


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_other_precisions_give_similar_features(
    small_embedding: EmbedConfig, planes: np.ndarray, precision: str
) -> None:
    exact = embed(small_embedding, planes)
    near = embed(small_embedding.replace(features={"precision": precision}), planes)
    assert np.abs(near - exact).max() < 0.05 * np.abs(exact).max()


def test_a_feature_too_large_for_its_dtype_is_an_error(
    small_embedding: EmbedConfig, planes: np.ndarray
) -> None:
    encoder = R3d(TINY)
    with torch.no_grad():
        encoder.layer4[0].conv2[1].weight.fill_(1e6)
    stored_as = {"dtype": "float16"}
    with pytest.raises(FloatingPointError, match="float16"):
        Embedder(encoder.eval(), small_embedding.replace(features=stored_as)).embed(planes[None])


def test_an_encoder_is_named_by_its_folder_or_its_file(
    small_embedding: EmbedConfig, tmp_path: Path
) -> None:
    data = encoder_bytes(R3d(TINY), {"run": "mine"})
    (tmp_path / "encoder.safetensors").write_bytes(data)
    for name in (tmp_path, tmp_path / "encoder.safetensors"):
        config = small_embedding.replace(encoder=str(name), architecture=R3dConfig())
        found, source = read_encoder_file(config)
        assert found == data  # unchanged, so that its sha256 is the file's
        assert source == str(tmp_path / "encoder.safetensors")


def test_random_weights_depend_on_the_seed_alone(small_embedding: EmbedConfig) -> None:
    first, _ = read_encoder_file(small_embedding)
    torch.rand(1)
    assert read_encoder_file(small_embedding)[0] == first
    assert read_encoder_file(small_embedding.replace(seed=1))[0] != first


def test_weights_without_a_config_are_loaded_into_the_architecture_asked_for(
    small_embedding: EmbedConfig, tmp_path: Path
) -> None:
    file = tmp_path / "bare.safetensors"
    safetensors.torch.save_file(R3d(TINY).state_dict(), file)
    config = small_embedding.replace(encoder=str(file))
    data, _ = read_encoder_file(config)
    stored = stored_config(data, "it")
    assert stored is not None
    assert stored.width == 4
    wide = config.replace(architecture=TINY.replace(width=8))
    with pytest.raises(ValueError, match=r"stem\.0\.weight.*\(4, 3, 3, 7, 7\).*\(8, 3, 3, 7, 7\)"):
        read_encoder_file(wide)


@pytest.mark.parametrize("encoder", ["{folder}"])
def test_a_missing_encoder_is_refused_by_name(
    small_embedding: EmbedConfig, tmp_path: Path, encoder: str
) -> None:
    name = encoder.format(folder=tmp_path)
    with pytest.raises(ValueError, match=re.escape(name or "--encoder")):
        read_encoder_file(small_embedding.replace(encoder=name))

"""Weights on disk."""

import json
import struct

import pytest
import safetensors.torch
import torch
from torchvision.models.video import r3d_18

from ctp.encoders.config import EncoderConfig
from ctp.encoders.resnet3d import ResNet3d
from ctp.encoders.weights import encoder_bytes, load_encoder, read_encoder, stored_config

SMALL = EncoderConfig(width=4, blocks_per_stage=(1, 1, 1, 1))


def metadata_of(data):
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])["__metadata__"]


@pytest.mark.parametrize("arch", ["r3d", "r2plus1d"])
def test_round_trip(arch):
    config = SMALL.replace(arch=arch)
    saved, loaded = ResNet3d(config), ResNet3d(config)
    saved(torch.randn(2, 3, 8, 32, 32))  # moves the running statistics
    load_encoder(loaded, encoder_bytes(saved, {}), "weights")
    state = saved.state_dict()
    assert state["stem.1.num_batches_tracked"] == 1
    assert list(loaded.state_dict()) == list(state)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_metadata_names_the_encoder():
    metadata = metadata_of(encoder_bytes(ResNet3d(SMALL), {"run": "tiny"}))
    assert metadata["run"] == "tiny"
    assert EncoderConfig.model_validate_json(metadata["encoder"]) == SMALL


def test_another_spatial_stride_takes_them():
    saved, loaded = ResNet3d(SMALL), ResNet3d(SMALL.replace(last_stage_spatial_stride=2))
    load_encoder(loaded, encoder_bytes(saved, {}), "weights")
    assert torch.equal(loaded.layer4[0].conv1[0].weight, saved.layer4[0].conv1[0].weight)
    assert loaded(torch.zeros(1, 3, 8, 32, 32)).shape[-2:] == (2, 2)


@pytest.mark.parametrize("arch", ["r3d", "r2plus1d"])
def test_an_encoder_is_read_from_its_file_alone(arch):
    config = SMALL.replace(arch=arch, norm_eps=1e-5)
    saved = ResNet3d(config)
    clips = torch.randn(2, 3, 8, 32, 32)
    saved(clips)
    data = encoder_bytes(saved, {"run": "tiny"})
    assert stored_config(data, "weights") == config
    encoder = read_encoder(data, "weights")
    assert encoder.config == config
    assert not encoder.training
    assert torch.equal(encoder(clips), saved.eval()(clips))
    assert read_encoder(data, "weights", last_stage_spatial_stride=2).spatial_stride == 16


def test_a_file_that_does_not_tell_its_encoder_is_loaded_but_not_read():
    saved = ResNet3d(SMALL)
    data = safetensors.torch.save(saved.state_dict())
    load_encoder(ResNet3d(SMALL), data, "theirs")
    assert stored_config(data, "theirs") is None
    with pytest.raises(ValueError, match=r"^theirs does not tell what encoder it holds"):
        read_encoder(data, "theirs")


def test_an_encoder_of_another_kind_is_named():
    metadata = {"encoder": '{"arch": "c3d"}'}
    data = safetensors.torch.save({"stem": torch.zeros(2)}, metadata=metadata)
    with pytest.raises(
        ValueError, match=r'^theirs holds an encoder .* known here: {"arch": "c3d"}'
    ):
        stored_config(data, "theirs")


def test_every_unmatched_key_is_named():
    state = ResNet3d(SMALL).state_dict()
    del state["stem.0.weight"], state["layer1.0.conv1.1.bias"]
    state["fc.weight"] = torch.zeros(2, 2)
    state["layer4.0.conv2.1.weight"] = torch.zeros(5)
    encoder = ResNet3d(SMALL)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=r"^theirs does not fit the encoder r3d of") as error:
        load_encoder(encoder, safetensors.torch.save(state), "theirs")
    assert str(error.value).splitlines()[1:] == [
        "  stem.0.weight: missing",
        "  layer1.0.conv1.1.bias: missing",
        "  fc.weight: not in this encoder",
        "  layer4.0.conv2.1.weight: (5,) where (32,) is needed",
    ]
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("data", [b"", b"not a safetensors file at all", b"\x80\x02}q\x00."])
def test_not_a_safetensors_file(data):
    with pytest.raises(ValueError, match=r"weights\.pt is not a safetensors file"):
        load_encoder(ResNet3d(SMALL), data, "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt is not a safetensors file"):
        stored_config(data, "weights.pt")


def test_torchvision_takes_them_and_misses_fc_alone():
    saved = ResNet3d(EncoderConfig())
    theirs = r3d_18(weights=None)
    weights = safetensors.torch.load(encoder_bytes(saved, {}))
    unmatched = theirs.load_state_dict(weights, strict=False)
    assert sorted(unmatched.missing_keys) == ["fc.bias", "fc.weight"]
    assert unmatched.unexpected_keys == []
    assert torch.equal(theirs.layer4[1].conv2[0].weight, saved.layer4[1].conv2[0].weight)

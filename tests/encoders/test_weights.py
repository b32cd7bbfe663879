"""Weights on disk."""

import json
import struct

import pytest
import safetensors.torch
import torch
from torchvision.models.video import r3d_18

from ctp.encoders.config import ANY_ENCODER_CONFIG, R2plus1dConfig, R3dConfig
from ctp.encoders.registry import build_encoder
from ctp.encoders.resnet3d import R3d
from ctp.encoders.weights import (
    encoder_bytes,
    load_encoder,
    load_state,
    read_encoder,
    read_state,
    stored_clip_format,
    stored_config,
    stored_metadata,
)
from ctp.storage import Storage
from ctp.versions import FORMAT_VERSION, stamp, written_by
from ctp.video.config import AugmentConfig, ClipFormat, SamplingConfig

CLIPS = ClipFormat.from_training(
    SamplingConfig(num_frames=4), AugmentConfig(frame_size_px=32, short_sides_px=(32,))
)
SMALL = R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1))
SMALL_2PLUS1 = R2plus1dConfig(width=4, blocks_per_stage=(1, 1, 1, 1))


def load(encoder, data, name):
    load_state(encoder, read_state(data, name), name)


def metadata_of(data):
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])["__metadata__"]


@pytest.mark.parametrize("config", [SMALL, SMALL_2PLUS1])
def test_round_trip(config):
    saved, loaded = build_encoder(config), build_encoder(config)
    saved(torch.randn(2, 3, 8, 32, 32))  # moves the running statistics
    load(loaded, encoder_bytes(saved, {}), "weights")
    state = saved.state_dict()
    assert state["stem.1.num_batches_tracked"] == 1
    assert list(loaded.state_dict()) == list(state)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_metadata_names_the_encoder():
    metadata = metadata_of(encoder_bytes(R3d(SMALL), {"run": "tiny"}))
    assert metadata["run"] == "tiny"
    assert ANY_ENCODER_CONFIG.validate_json(metadata["encoder"]) == SMALL


def test_another_spatial_stride_takes_them():
    saved, loaded = R3d(SMALL), R3d(SMALL.replace(spatial_stride=16))
    load(loaded, encoder_bytes(saved, {}), "weights")
    assert torch.equal(loaded.layer4[0].conv1[0].weight, saved.layer4[0].conv1[0].weight)
    assert loaded(torch.zeros(1, 3, 8, 32, 32)).shape[-2:] == (2, 2)


@pytest.mark.parametrize("config", [SMALL, SMALL_2PLUS1])
def test_an_encoder_is_read_from_its_file_alone(config):
    config = config.replace(norm_eps=1e-5)
    saved = build_encoder(config)
    clips = torch.randn(2, 3, 8, 32, 32)
    saved(clips)
    data = encoder_bytes(saved, {"run": "tiny"})
    assert stored_config(data, "weights") == config
    encoder = read_encoder(data, "weights")
    assert encoder.config == config
    assert not encoder.training
    assert torch.equal(encoder(clips), saved.eval()(clips))
    assert read_encoder(data, "weights", spatial_stride=16).stride == (8, 16, 16)


def test_a_file_records_the_clips_of_the_training(tmp_path):
    saved = R3d(SMALL)
    saved.clip_format = CLIPS
    data = encoder_bytes(saved, {})
    assert stored_clip_format(data, "it") == CLIPS
    (tmp_path / "encoder.safetensors").write_bytes(data)
    loaded = load_encoder(str(tmp_path))
    clip = loaded.transform(torch.zeros(4, 40, 60, 3, dtype=torch.uint8))
    assert clip.shape == (3, 4, 32, 32)
    features = loaded(clip[None])
    assert torch.allclose(loaded.pooled(clip[None]), features.flatten(2).mean(dim=2))


def test_a_file_of_an_older_version_has_no_record_of_its_clips():
    data = encoder_bytes(R3d(SMALL), {})
    assert stored_clip_format(data, "old") is None
    with pytest.raises(ValueError, match="does not record"):
        _ = read_encoder(data, "old").transform


def test_a_record_of_clips_of_another_version_is_named_with_that_version():
    changed = CLIPS.model_dump(mode="json") | {"frames_per_second": 8}
    data = encoder_bytes(R3d(SMALL), {"clip_format": json.dumps(changed), **stamp(written_by())})
    with pytest.raises(ValueError, match=r"^new .*frames_per_second.*ctp \d"):
        stored_clip_format(data, "new")


def test_a_file_without_a_config_is_loaded_but_not_read():
    saved = R3d(SMALL)
    data = safetensors.torch.save(saved.state_dict())
    load(R3d(SMALL), data, "theirs")
    assert stored_config(data, "theirs") is None
    with pytest.raises(ValueError, match=r"^theirs does not describe its encoder"):
        read_encoder(data, "theirs")


def test_an_encoder_of_another_kind_is_named():
    metadata = {"encoder": '{"name": "c5d"}'}
    data = safetensors.torch.save({"stem": torch.zeros(2)}, metadata=metadata)
    with pytest.raises(
        ValueError, match=r'^theirs holds an encoder .* known here: {"name": "c5d"}'
    ):
        stored_config(data, "theirs")


def test_a_file_of_an_older_version_is_named_as_such():
    metadata = {"encoder": '{"arch": "r3d", "width": 4}'}
    data = safetensors.torch.save({"stem": torch.zeros(2)}, metadata=metadata)
    with pytest.raises(ValueError, match=r"^old holds .*written by an older version"):
        stored_config(data, "old")


def test_a_file_names_the_format_and_the_versions_that_wrote_it():
    metadata = stored_metadata(encoder_bytes(R3d(SMALL), stamp(written_by())), "mine")
    assert metadata["format_version"] == str(FORMAT_VERSION)
    assert json.loads(metadata["written_by"]) == written_by()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"wdith": 4}, r"no option wdith .did you mean width"),
        ({"width": None}, "no value of width"),
        ({"width": None, "channels": 4}, "no option channels"),
        ({"width": "wide"}, "width"),
    ],
)
def test_fields_of_another_version_are_named_with_that_version(change, expected):
    values = {**SMALL.model_dump(mode="json"), **change}
    config = json.dumps({name: value for name, value in values.items() if value is not None})
    writer = {"ctp": "0.9.1", "commit": "abc1234", "torch": "3.1", "ray": "2.99"}
    metadata = {"encoder": config, **stamp(writer)}
    data = safetensors.torch.save({"stem": torch.zeros(2)}, metadata=metadata)
    with pytest.raises(ValueError, match=rf"(?s)^theirs .*{expected}.*ctp 0\.9\.1 .*abc1234"):
        stored_config(data, "theirs")


def test_a_later_format_is_refused():
    metadata = {"encoder": SMALL.model_dump_json(), "format_version": str(FORMAT_VERSION + 1)}
    data = safetensors.torch.save({"stem": torch.zeros(2)}, metadata=metadata)
    with pytest.raises(ValueError, match=rf"^theirs has format version {FORMAT_VERSION + 1}"):
        stored_config(data, "theirs")


@pytest.mark.parametrize("name", ["", "encoder.safetensors"])
def test_load_encoder_takes_a_run_folder_or_a_file(tmp_path, name):
    saved = R3d(SMALL)
    clips = torch.randn(2, 3, 8, 32, 32)
    saved(clips)  # moves the running statistics
    (tmp_path / "encoder.safetensors").write_bytes(encoder_bytes(saved, {}))
    encoder = load_encoder(str(tmp_path / name))
    assert not encoder.training
    assert torch.equal(encoder(clips), saved.eval()(clips))


def test_load_encoder_from_s3(s3_bucket):
    place = Storage.from_uri(s3_bucket).join("run", "encoder.safetensors")
    place.write_bytes(encoder_bytes(R3d(SMALL), {}))
    assert load_encoder(place.parent.uri).config == SMALL


def test_load_encoder_names_the_place_where_there_is_none(tmp_path):
    with pytest.raises(ValueError, match=f"no run .*{tmp_path} has no encoder.safetensors"):
        load_encoder(str(tmp_path))


def test_every_unmatched_key_is_named():
    state = R3d(SMALL).state_dict()
    del state["stem.0.weight"], state["layer1.0.conv1.1.bias"]
    state["fc.weight"] = torch.zeros(2, 2)
    state["layer4.0.conv2.1.weight"] = torch.zeros(5)
    encoder = R3d(SMALL)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=r"^theirs does not fit the encoder r3d, width 4") as error:
        load(encoder, safetensors.torch.save(state), "theirs")
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
        load(R3d(SMALL), data, "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt is not a safetensors file"):
        stored_config(data, "weights.pt")


def test_torchvision_takes_them_and_misses_fc_alone():
    saved = R3d(R3dConfig())
    theirs = r3d_18(weights=None)
    weights = safetensors.torch.load(encoder_bytes(saved, {}))
    unmatched = theirs.load_state_dict(weights, strict=False)
    assert sorted(unmatched.missing_keys) == ["fc.bias", "fc.weight"]
    assert unmatched.unexpected_keys == []
    assert torch.equal(theirs.layer4[1].conv2[0].weight, saved.layer4[1].conv2[0].weight)

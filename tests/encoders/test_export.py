"""Exported encoders, loaded again as a user would and held to the encoder."""

import io
import json
import sys

import onnxruntime
import pytest
import torch

from ctp.encoders.config import ANY_ENCODER_CONFIG, R2plus1dConfig, R3dConfig
from ctp.encoders.export import ExportError, export_onnx, export_program
from ctp.encoders.registry import build_encoder
from ctp.encoders.resnet3d import R3d

SMALL = R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1))
SIZE = (8, 32, 48)


def build(config):
    """An encoder whose running statistics have moved, left in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = build_encoder(config)
        with torch.no_grad():
            encoder(torch.randn(4, 3, *SIZE))
    return encoder


def run_program(data):
    return torch.export.load(io.BytesIO(data)).module()


def run_onnx(data):
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda clips: torch.as_tensor(session.run(["features"], {"clips": clips.numpy()})[0])


def about_program(data):
    files = {"encoder.json": ""}
    torch.export.load(io.BytesIO(data), extra_files=files)
    return files["encoder.json"]


def about_onnx(data):
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map["encoder"]


FORMATS = {
    "program": (export_program, run_program, about_program),
    "onnx": (export_onnx, run_onnx, about_onnx),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("kind", "stride", "pooling"), [(R3dConfig, 8, "off"), (R2plus1dConfig, 16, "average")]
)
def test_features_are_the_encoders_for_any_number_of_clips(name, kind, stride, pooling):
    export, run_of, about_of = FORMATS[name]
    config = kind(width=4, blocks_per_stage=(1, 1, 1, 1), spatial_stride=stride)
    encoder = build(config)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    exported = export(encoder, SIZE, pooling)

    assert encoder.training  # as it was
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
    run = run_of(exported.data)
    for number in (1, 2, 5):
        clips = torch.randn(number, 3, *SIZE, generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            expected, came = encoder.eval()(clips), run(clips)
        if pooling == "average":
            expected = expected.flatten(2).mean(dim=2)
        assert expected.std() > 0.01
        assert (came - expected).abs().max() <= 1e-5 * expected.max()
        assert exported.feature_shape == expected.shape[1:]
    assert 0 <= exported.max_difference < 1e-5
    about = json.loads(about_of(exported.data))
    assert ANY_ENCODER_CONFIG.validate_python(about["encoder"]) == config
    assert (about["clip_size"], about["pooling"]) == (list(SIZE), pooling)


class Drifting(R3d):
    """An encoder that an export cannot hold: each call makes other features."""

    calls = 0

    def forward(self, clips):
        self.calls += 1
        return super().forward(clips) * (1 + 1e-3 * self.calls)


@pytest.mark.parametrize("name", FORMATS)
def test_other_features_are_refused(name):
    message = r"they differ by 0\.0\d+ .* 0\.0001 is allowed"
    with pytest.raises(ExportError, match=message):
        FORMATS[name][0](Drifting(SMALL), SIZE, "average")


@pytest.mark.parametrize("name", FORMATS)
def test_weights_that_are_not_finite_are_refused(name):
    encoder = build(SMALL)
    encoder.layer4[0].conv2[0].weight.data[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ExportError, match=r"differ by nan .* weights are finite"):
        FORMATS[name][0](encoder, SIZE, "average")


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_the_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ExportError, match=rf"package {package}; .*pip install -e '\.\[onnx\]'"):
        export_onnx(build(SMALL), SIZE, "average")

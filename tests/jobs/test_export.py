"""The export job from its command line to its files."""

import io
import os

import onnxruntime
import pytest
import safetensors.torch
import torch
import yaml

from ctp import recipes
from ctp.encoders.config import R3dConfig
from ctp.encoders.resnet3d import R3d
from ctp.encoders.weights import encoder_bytes, read_encoder
from ctp.storage import Storage

ENCODER = "encoder.safetensors"


@pytest.fixture(scope="module")
def export(load_job):
    return load_job("export")


@pytest.fixture
def encoder():
    """An encoder of recipe tiny, whose clips have 8 frames of 48×48."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return R3d(recipes.tiny().encoder).eval()


def make_run(folder, encoder):
    """A run folder of recipe tiny, as far as it matters here."""
    config = recipes.tiny()
    values = {"kind": config.KIND, **config.model_dump(mode="json")}
    folder.join("config.yaml").write_bytes(yaml.safe_dump(values).encode())
    folder.join(ENCODER).write_bytes(encoder_bytes(encoder, {}))
    return folder


@pytest.fixture
def run(tmp_path, encoder):
    return make_run(Storage.from_uri(tmp_path / "runs" / "a-run"), encoder)


def load_program(folder):
    data = folder.join("encoder.pt2").read_bytes()
    return torch.export.load(io.BytesIO(data)).module()


def load_onnx(folder):
    data = folder.join("encoder.onnx").read_bytes()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def clips(*size):
    return torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def assert_alike(features, encoder, batch):
    expected = encoder(batch)
    expected = expected if features.ndim == 5 else expected.mean(dim=(2, 3, 4))
    assert (features - expected).abs().max() <= 1e-5 * expected.max()


@pytest.mark.parametrize("by_name", [True, False])
def test_of_a_run_for_clips_as_it_was_trained_on(export, run, encoder, capsys, by_name):
    options = ["--storage", run.parent.uri, "--run", "a-run"] if by_name else ["--run", run.uri]
    export.main(options)
    batch = clips(8, 48, 48)
    with torch.no_grad():
        assert_alike(load_program(run)(batch), encoder, batch)
    assert not run.join("encoder.onnx").exists()
    line, then = capsys.readouterr().out.splitlines()
    assert then.startswith("next: python -c ")
    assert line.startswith(f"{run.uri}/encoder.pt2 (")
    assert "clips [B, 3, 8, 48, 48] to features [B, 64]; largest difference" in line


def test_both_at_another_stride_and_size_elsewhere(export, run, tmp_path, capsys):
    out = Storage.from_uri(tmp_path / "out")
    export.main([
        "--run", run.uri, "--format", "both", "--spatial_stride", "16", "--pooling", "off",
        "--num_frames", "16", "--frame_size_px", "64", "--out", out.uri,
    ])  # fmt: skip
    encoder = read_encoder(run.join(ENCODER).read_bytes(), "it", spatial_stride=16)
    batch = clips(16, 64, 64)
    with torch.no_grad():
        features = load_program(out)(batch)
    assert features.shape == (3, 64, 2, 4, 4)
    assert_alike(features, encoder, batch)
    (features,) = load_onnx(out).run(["features"], {"clips": batch.numpy()})
    assert_alike(torch.as_tensor(features), encoder, batch)
    assert not run.join("encoder.pt2").exists()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == [
        f"{out.uri}/encoder.pt2", f"{out.uri}/encoder.onnx", "next:",
    ]  # fmt: skip


def test_an_encoder_without_a_run_takes_the_papers_clips(export, tmp_path, encoder, capsys):
    (tmp_path / "theirs.safetensors").write_bytes(encoder_bytes(encoder, {}))
    options = ["--encoder", str(tmp_path / "theirs.safetensors"), "--format", "onnx"]
    export.main(options)
    assert load_onnx(Storage.from_uri(tmp_path)).get_inputs()[0].shape == ["batch", 3, 16, 112, 112]
    assert "[B, 3, 16, 112, 112]" in capsys.readouterr().out

    (tmp_path / "config.yaml").write_text("of something else")
    export.main([*options, "--num_frames", "8", "--frame_size_px", "32"])
    assert "[B, 3, 8, 32, 32]" in capsys.readouterr().out


def test_from_s3_to_s3(export, s3_bucket, encoder):
    run = make_run(Storage.from_uri(s3_bucket).join("runs", "a-run"), encoder)
    export.main(["--storage", run.parent.uri, "--run", "a-run"])
    batch = clips(8, 48, 48)
    with torch.no_grad():
        assert_alike(load_program(run)(batch), encoder, batch)


@pytest.mark.slow
def test_a_program_is_used_without_ctp(export, run, encoder, run_python):
    export.main(["--run", run.uri])
    batch = clips(8, 48, 48)
    torch.save(batch, run.join("clips.pt").path)
    code = (
        "import sys, torch\n"
        "sys.modules['ctp'] = None\n"
        "folder = sys.argv[1]\n"
        "module = torch.export.load(f'{folder}/encoder.pt2').module()\n"
        "features = module(torch.load(f'{folder}/clips.pt'))\n"
        "torch.save(features.detach(), f'{folder}/features.pt')\n"
    )
    run_python("-c", code, run.path)
    assert_alike(torch.load(run.join("features.pt").path), encoder, batch)


def error_of(export, capsys, options):
    with pytest.raises(SystemExit) as stopped:
        export.main(options)
    assert stopped.value.code not in (0, None)
    said = str(stopped.value)  # the message, or the status of a command line that is invalid
    return said if said.startswith("error") else f"{said}{capsys.readouterr().err}"


def test_a_missing_run_is_reported_with_the_existing_runs(export, run, capsys):
    message = error_of(export, capsys, ["--storage", run.parent.uri, "--run", "b-run"])
    assert message.startswith("error: no run 'b-run' (did you mean a-run?)")
    assert f"{run.parent.uri} (runs there: a-run)" in message


def test_a_run_without_an_encoder_is_not_done(export, run, capsys):
    os.remove(run.join(ENCODER).path)
    message = error_of(export, capsys, ["--run", run.uri])
    assert f"run {run.uri} has no {ENCODER} yet" in message


def test_weights_without_a_config(export, tmp_path, capsys):
    state = R3d(R3dConfig(width=4)).state_dict()
    (tmp_path / ENCODER).write_bytes(safetensors.torch.save(state))
    message = error_of(export, capsys, ["--encoder", str(tmp_path / ENCODER)])
    assert "does not describe its encoder" in message
    assert "\n" not in message


def test_weights_that_are_not_finite_are_not_written(export, tmp_path, encoder, capsys):
    encoder.stem[0].weight.data[0] = torch.nan
    run = make_run(Storage.from_uri(tmp_path), encoder)
    message = error_of(export, capsys, ["--run", run.uri])
    assert "differ by nan" in message
    assert "\n" not in message
    assert not run.join("encoder.pt2").exists()


@pytest.mark.parametrize("text", ["sampling: 3", "a: [", "- 1", "sampling: {num_frames: many}"])
def test_another_config_beside_it_is_no_source_of_sizes(export, tmp_path, encoder, capsys, text):
    (tmp_path / ENCODER).write_bytes(encoder_bytes(encoder, {}))
    (tmp_path / "config.yaml").write_text(text)
    message = error_of(export, capsys, ["--encoder", str(tmp_path / ENCODER)])
    assert "config.yaml: " in message
    assert "give --num_frames and --frame_size_px" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected either --run NAME or --encoder URI"),
        (["--run", "a", "--encoder", "b"], "expected either --run NAME or --encoder URI"),
        (["--encoder", "no/such/file"], "no/such/file"),
        (["--encoder", "a", "--formt", "onnx"], "did you mean --format"),
        (["--encoder", "a", "--format", "onx"], "'program', 'onnx' or 'both'"),
    ],
)
def test_what_does_not_fit_is_one_error(export, capsys, options, message):
    assert message in error_of(export, capsys, options)

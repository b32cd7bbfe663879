"""Encoders with batch normalisation give two workers with half of a batch each the results of one
worker with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ctp.encoders.config import C3dConfig, S3dConfig, TsmConfig
from ctp.encoders.registry import build_encoder

ROOT = Path(__file__).parents[2]
CONFIGS = {"c3d": C3dConfig(width=4), "tsm": TsmConfig(width=8), "s3d": S3dConfig()}


@pytest.fixture(scope="module")
def examples():
    """Clips of each encoder, whose halves differ, and the gradient of its features."""
    found = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, config in CONFIGS.items():
            encoder, clips = build_encoder(config), torch.randn(4, 3, 4, 32, 32)
            clips[2:] = 2 * clips[2:] + 1
            found[name] = {
                "config": config.model_dump_json(),
                "state": {key: value.clone() for key, value in encoder.state_dict().items()},
                "clips": clips,
                "cotangents": torch.randn_like(encoder.eval()(clips)),
            }
    return found


@pytest.fixture(scope="module")
def workers(examples, tmp_path_factory):
    """Return the results of both workers, by encoder."""
    folder = tmp_path_factory.mktemp("encoders")
    torch.save(examples, folder / "examples.pt")
    script, outs = Path(__file__).with_name("sync_worker.py"), [folder / "0.pt", folder / "1.pt"]
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), folder / "store", folder / "examples.pt", out],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for rank, out in enumerate(outs)
    ]
    try:
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0, 0]
    return [torch.load(out) for out in outs]


def difference(found, expected):
    """The norm of the difference over that of what is expected."""
    return float((found - expected).double().norm() / expected.double().norm())


@pytest.mark.parametrize("name", CONFIGS)
def test_features_gradients_and_statistics_are_those_of_the_whole_batch(examples, workers, name):
    example = examples[name]
    encoder = build_encoder(CONFIGS[name])
    encoder.load_state_dict(example["state"])
    features = encoder(example["clips"])
    (features * example["cotangents"]).sum().backward()
    found = [worker[name] for worker in workers]
    assert difference(torch.cat([each["features"] for each in found]), features.detach()) < 1e-3
    for each in found:
        for key, parameter in encoder.named_parameters():
            # rounding lets a few units of a ReLU or max pool switch, on the way to the first layers
            assert difference(each["gradients"][key], parameter.grad) < 0.05, key
        for key, buffer in encoder.named_buffers():
            assert difference(each["buffers"][key], buffer) < 1e-3, key

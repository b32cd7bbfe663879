"""Two workers with half a batch each equal one worker with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ctp.training.distributed import group_of_one
from ctp.training.sync_norm import synchronise_norms

ROOT = Path(__file__).parents[2]
CHANNELS = 5


@pytest.fixture(scope="module")
def example():
    generator = torch.Generator().manual_seed(0)
    shape = (2, 4, CHANNELS, 2, 3, 3)  # two steps of four clips
    spread = torch.arange(1, CHANNELS + 1).view(CHANNELS, 1, 1, 1)
    clips = torch.randn(shape, generator=generator) * spread + spread
    clips[:, 2:] += 2  # the halves differ, or moments of one half would be correct
    norm = nn.BatchNorm3d(CHANNELS)
    nn.init.uniform_(norm.weight, 0.5, 2, generator=generator)
    nn.init.normal_(norm.bias, generator=generator)
    cotangents = torch.randn(shape, generator=generator)
    return {"clips": clips, "cotangents": cotangents, "norm": norm.state_dict()}


@pytest.fixture(scope="module")
def workers(example, tmp_path_factory):
    """Return the results of both workers."""
    folder = tmp_path_factory.mktemp("sync_norm")
    torch.save(example, folder / "example.pt")
    script = Path(__file__).with_name("sync_norm_worker.py")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    outs = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), folder / "store", folder / "example.pt", out],
            env=env,
        )
        for rank, out in enumerate(outs)
    ]
    try:
        codes = [process.wait(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0, 0]
    return [torch.load(out) for out in outs]


@pytest.fixture(scope="module")
def whole(example):
    """Return the results of nn.BatchNorm3d for the same two steps on the whole batch."""
    net = nn.Sequential(nn.Identity(), nn.BatchNorm3d(CHANNELS, eps=1e-3))
    net[1].load_state_dict(example["norm"])
    outputs, clips_grads = [], []
    for clips, cotangents in zip(example["clips"], example["cotangents"], strict=True):
        leaf = clips.clone().requires_grad_()
        output = net(leaf)
        (output * cotangents).sum().backward()
        outputs.append(output.detach())
        clips_grads.append(leaf.grad)
    return {
        "outputs": outputs,
        "clips_grads": clips_grads,
        "weight_grads": {key: value.grad for key, value in net.named_parameters()},
        "state": {key: value.clone() for key, value in net.state_dict().items()},
        "evaluated": net.eval()(example["clips"][0]).detach(),
    }


def close(first, second):
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def test_outputs_and_input_gradients_are_those_of_the_whole_batch(workers, whole):
    for name in ("outputs", "clips_grads"):
        for step in range(2):
            close(torch.cat([worker[name][step] for worker in workers]), whole[name][step])


def test_weight_gradients_add_up(workers, whole):
    for key, expected in whole["weight_grads"].items():
        close(sum(worker["weight_grads"][key] for worker in workers), expected)


def test_running_statistics_and_their_names(workers, whole):
    for worker in workers:
        assert worker["kind"] == "SyncBatchNorm3d"
        assert list(worker["state"]) == list(whole["state"])
        assert worker["state"]["1.num_batches_tracked"] == 2
        for key, expected in whole["state"].items():
            close(worker["state"][key], expected)
        close(worker["evaluated"], whole["evaluated"])


def test_moments_of_half_a_batch_give_other_results(example, whole):
    apart = nn.BatchNorm3d(CHANNELS, eps=1e-3)
    apart.load_state_dict(example["norm"])
    halves = torch.cat([apart(half) for half in example["clips"][0].chunk(2)])
    assert (halves - whole["outputs"][0]).abs().max() > 0.1


def test_bfloat16_stays_bfloat16_with_moments_in_float(example, workers, whole):
    half = torch.cat([worker["half"] for worker in workers])
    assert half.dtype == torch.bfloat16
    assert (half.float() - whole["outputs"][0]).abs().max() < 0.05


def test_one_worker_changes_nothing():
    net = nn.Sequential(nn.BatchNorm3d(CHANNELS))
    synchronise_norms(net)
    assert type(net[0]) is nn.BatchNorm3d


def test_in_a_group_of_one_it_is_the_plain_norm_and_keeps_more(example, whole):
    """What `compute.total_batch auto` measures for several workers: saved copies in float32."""
    sizes = {}
    for also_alone in (False, True):
        net = nn.Sequential(nn.BatchNorm3d(CHANNELS, eps=1e-3))
        net[0].load_state_dict(example["norm"])
        saved: list[torch.Tensor] = []

        def keep(value: torch.Tensor, saved: list[torch.Tensor] = saved) -> torch.Tensor:
            saved.append(value)
            return value

        with group_of_one("gloo"), torch.autograd.graph.saved_tensors_hooks(keep, lambda v: v):
            synchronise_norms(net, also_alone=also_alone)
            found = net(example["clips"][0].bfloat16())
        assert (found.float() - whole["outputs"][0]).abs().max() < 0.05
        sizes[also_alone] = sum(value.nbytes for value in saved)
    assert sizes[True] > 1.5 * sizes[False]
    assert not dist.is_initialized()

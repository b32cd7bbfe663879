"""One of two workers of test_sync_norm.py: `python sync_norm_worker.py RANK STORE IN OUT`."""

import sys

import torch
import torch.distributed as dist
from torch import nn

from ctp.training.sync_norm import synchronise_norms


def main(rank: int, store: str, given: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    example = torch.load(given)
    net = nn.Sequential(nn.Identity(), nn.BatchNorm3d(len(example["norm"]["weight"]), eps=1e-3))
    net[1].load_state_dict(example["norm"])
    synchronise_norms(net)
    outputs, clips_grads = [], []
    for step in range(2):
        clips = example["clips"][step].chunk(2)[rank].clone().requires_grad_()
        output = net(clips)
        (output * example["cotangents"][step].chunk(2)[rank]).sum().backward()
        outputs.append(output.detach())
        clips_grads.append(clips.grad)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    evaluated = net.eval()(example["clips"][0]).detach()
    half = net.train()(example["clips"][0].chunk(2)[rank].bfloat16()).detach()
    torch.save(
        {
            "kind": type(net[1]).__name__,
            "outputs": outputs,
            "clips_grads": clips_grads,
            "weight_grads": {key: value.grad for key, value in net.named_parameters()},
            "state": state,
            "evaluated": evaluated,
            "half": half,
        },
        out,
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])

"""One of two workers of test_two_workers.py: `python sync_worker.py RANK STORE IN OUT`."""

import sys

import torch
import torch.distributed as dist

from ctp.encoders.config import ANY_ENCODER_CONFIG
from ctp.encoders.registry import build_encoder
from ctp.training.sync_norm import synchronise_norms


def main(rank: int, store: str, given: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results = {}
    for name, example in torch.load(given).items():
        encoder = build_encoder(ANY_ENCODER_CONFIG.validate_json(example["config"]))
        encoder.load_state_dict(example["state"])
        synchronise_norms(encoder)
        features = encoder(example["clips"].chunk(2)[rank])
        (features * example["cotangents"].chunk(2)[rank]).sum().backward()
        gradients = {key: each.grad for key, each in encoder.named_parameters()}
        for gradient in gradients.values():
            dist.all_reduce(gradient)
        buffers = {key: each.clone() for key, each in encoder.named_buffers()}
        results[name] = {"features": features.detach(), "gradients": gradients, "buffers": buffers}
    torch.save(results, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])

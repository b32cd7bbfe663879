"""Constants on a device."""

from __future__ import annotations

import torch
from torch import Tensor

_SENT: dict[tuple[tuple[float, ...], torch.device], Tensor] = {}
"""Not an lru_cache, which torch.compile warns of."""


def keep_while_compiling() -> None:
    """Let torch.compile take constants as they are; to be called before it compiles."""
    # not a decorator: it imports 0.1 GB, also in processes that only draw samples
    torch.compiler.assume_constant_result(_send_once)  # type: ignore[no-untyped-call]


def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return values as float32 [N] on a device; not to be changed.

    They are sent once: in every step, the copy would make the host wait for the GPU.
    """
    found: Tensor = _send_once(values, device)
    return found


def _send_once(values: tuple[float, ...], device: torch.device) -> Tensor:
    if (values, device) not in _SENT:
        with torch.inference_mode(False):  # or it could not be used where there are gradients
            _SENT[values, device] = torch.tensor(values, device=device)
    return _SENT[values, device]

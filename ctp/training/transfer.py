"""Send the arrays of samples to a device: packed into one buffer, by one copy."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctp.data.stream import S

ALIGNMENT_BYTES = 64
"""Arrays in the packed buffer start at multiples of this, so that every dtype is aligned."""


class Place(NamedTuple):
    """Where an array is in a packed buffer.

    Attributes:
        start: first byte.
        dtype, shape: of the array.
    """

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def plan_places(arrays: Sequence[NDArray[Any]]) -> tuple[list[Place], int]:
    """Return the places of arrays in one buffer, and the bytes of the buffer."""
    places, end = [], 0
    for array in arrays:
        dtype = torch.from_numpy(np.zeros(0, array.dtype)).dtype
        places.append(Place(end, dtype, array.shape))
        end += -(-array.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return places, end


def unpack(buffer: Tensor, places: Sequence[Place]) -> list[Tensor]:
    """Return the arrays in a buffer, uint8 [bytes], as views of it."""
    found = []
    for start, dtype, shape in places:
        end = start + prod(shape) * dtype.itemsize
        found.append(buffer[start:end].view(dtype).view(shape))
    return found


def to_device(samples: S, device: torch.device) -> S:
    """Return the arrays of samples as tensors on a device, by one copy for all."""
    if device.type == "cpu":
        return type(samples)(*map(torch.as_tensor, samples))
    places, size = plan_places(samples)
    return _send(samples, places, torch.empty(size, dtype=torch.uint8), device)


def _send(samples: S, places: Sequence[Place], host: Tensor, device: torch.device) -> S:
    for own, array in zip(unpack(host, places), samples, strict=True):
        own.numpy()[...] = array
    # non_blocking has an effect for pinned memory alone
    return type(samples)(*unpack(host.to(device, non_blocking=True), places))


class Sender:
    """Sends the samples of a step to the device of a worker.

    To a GPU, they are packed into pinned memory and sent by one copy on a stream of its own. The
    host does not wait for it, so that it takes place while the GPU computes the step before.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = (
            torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        )
        self._buffers: list[tuple[Tensor, torch.cuda.Event]] = []

    def send(self, samples: S) -> S:
        """Return the arrays of samples as tensors on the device."""
        if self._stream is None:
            return to_device(samples, self._device)
        places, size = plan_places(samples)
        with torch.cuda.stream(self._stream):
            host, sent = self._take_buffer(size)
            on_device = _send(samples, places, host, self._device)
            sent.record(self._stream)
        current = torch.cuda.current_stream(self._device)
        current.wait_event(sent)
        for tensor in on_device:
            # or its memory would be given away while the step still reads it
            tensor.record_stream(current)
        return on_device

    def _take_buffer(self, size: int) -> tuple[Tensor, torch.cuda.Event]:
        """Return the one of two buffers that was used longest ago, once its copy is done."""
        if len(self._buffers) < 2:
            buffer, sent = torch.empty(0, dtype=torch.uint8), torch.cuda.Event()  # type: ignore[no-untyped-call]
        else:
            buffer, sent = self._buffers.pop(0)
            sent.synchronize()  # it is of two steps ago, so that this rarely waits
        if len(buffer) != size:
            buffer = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        self._buffers.append((buffer, sent))
        return buffer, sent

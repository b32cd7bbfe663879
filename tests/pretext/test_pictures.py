"""Frames in the pictures of samples."""

from __future__ import annotations

import torch

from ctp.pretext.pictures import enlarge


def test_frames_are_scaled_up_by_their_shorter_side_and_never_down() -> None:
    assert enlarge(torch.zeros((2, 10, 20, 3), dtype=torch.uint8), 30).shape == (2, 30, 60, 3)
    generator = torch.Generator().manual_seed(0)
    large = torch.randint(256, (2, 40, 50, 3), dtype=torch.uint8, generator=generator)
    torch.testing.assert_close(enlarge(large, 30), large, rtol=0, atol=0)

"""MemDPC: the loss against a plain loop, which videos and encoders it takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ctp.data.sources import open_catalog
from ctp.data.stream import SampleStream
from ctp.encoders.config import R2plus1dConfig, R3dConfig
from ctp.encoders.registry import ENCODERS, build_encoder
from ctp.pretext.config import PretrainConfig
from ctp.pretext.memdpc.config import MemdpcConfig
from ctp.pretext.memdpc.task import (
    Memdpc,
    MemdpcTask,
    RecurrentCell,
    contrastive_loss,
    darken,
    dot_products,
)


def test_the_loss_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    true, predicted = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)  # clips, ways, places
    expected = 0.0
    for way in range(2):
        for clip in range(2):
            for place in range(3):
                query = predicted[clip, way, place]
                dots = torch.stack([each @ query for each in true[:, way].reshape(6, 4)])
                expected -= float(dots[3 * clip + place] - dots.logsumexp(0)) / 6
    assert float(contrastive_loss(true, predicted)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_and_the_answers_are_in_float32_under_autocast() -> None:
    """Near 64, bfloat16 has steps of .25: it would often take another place for the best."""
    torch.manual_seed(0)
    true = 2 + 0.1 * torch.randn(2, 2, 12, 16)
    with torch.autocast("cpu", torch.bfloat16):
        logits, loss = dot_products(true, true), contrastive_loss(true, true)
    assert torch.equal(logits, true @ true.transpose(-1, -2))
    assert torch.equal(loss, contrastive_loss(true, true))


def test_all_weights_but_the_memory_are_orthogonal_at_first() -> None:
    """Gain .1 and biases 0, as the authors' `_initialize_weights` (memdpc_model.py)."""
    model = Memdpc(build_encoder(R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1))))
    names = []
    for name, value in model.named_parameters():
        if name.startswith("encoder") or name == "memory":
            continue
        names.append(name)
        if "bias" in name:
            assert not value.any(), name
        else:
            gains = torch.linalg.svdvals(value.detach().flatten(1))
            torch.testing.assert_close(gains, torch.full_like(gains, 0.1))
    assert len(names) == 2 * (1 + 2 * 3 + 2)


def test_a_step_of_the_memory_of_context_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    cell, values, state = RecurrentCell(3), torch.randn(2, 3), torch.randn(2, 3)
    w = {name: value.detach() for name, value in cell.named_parameters()}

    def gate(name: str, row: torch.Tensor, unit: int) -> float:
        return float(w[f"{name}.weight"][unit] @ row + w[f"{name}.bias"][unit])

    expected = torch.empty(2, 3)
    for row, (value, old) in enumerate(zip(values, state, strict=True)):
        both = torch.cat([value, old])
        reset = torch.tensor([gate("reset", both, unit) for unit in range(3)]).sigmoid()
        kept = torch.cat([value, reset * old])
        for unit in range(3):
            update = 1 / (1 + math.exp(-gate("update", both, unit)))
            new = math.tanh(gate("candidate", kept, unit))
            expected[row, unit] = (1 - update) * old[unit] + update * new
    torch.testing.assert_close(cell(values, state).detach(), expected)


@pytest.mark.parametrize("kind", [R3dConfig, R2plus1dConfig])
def test_a_block_of_five_frames_has_two_steps_of_features(kind: Any) -> None:
    config = kind(width=4, blocks_per_stage=(1, 1, 1, 1), spatial_stride=16)
    encoder = build_encoder(config)
    before = {key: value.shape for key, value in encoder.state_dict().items()}
    model = Memdpc(encoder)
    assert encoder(torch.zeros(1, 3, 5, 32, 32)).shape == (1, 32, 2, 2, 2)
    assert {key: value.shape for key, value in encoder.state_dict().items()} == before
    true, predicted = model(torch.randn(8, 3, 5, 32, 32), None)
    assert true.shape == predicted.shape == (1, 2, 12, 256)


def test_the_papers_blocks_need_121_frames(
    tmp_path: Path, encode_video: Callable[..., bytes]
) -> None:
    """8 blocks of 5 frames, 3 apart; the authors leave out videos of 120 frames."""
    for number in (120, 121):
        (tmp_path / f"{number}.mp4").write_bytes(encode_video(number))
    stream: SampleStream[Any] = SampleStream(
        MemdpcTask(MemdpcConfig()), open_catalog(str(tmp_path)), 0, 2, 1
    )
    samples = [stream.draw(position) for position in range(2)]
    assert {each.video_id for each in samples} == {"121.mp4"}
    [(video, reason)] = {(q.video_id, q.reason) for each in samples for q in each.quarantined}
    assert video == "120.mp4"
    assert reason.startswith("has 120 frame(s), 121 are needed")
    assert "task.sampling.num_frames" in reason


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_refused_unless_its_temporal_stride_can_be_halved(name: str) -> None:
    if name in {"r3d", "r2plus1d"}:
        assert PretrainConfig(task="memdpc", encoder=name).encoder.name == name
        return
    with pytest.raises(ValueError, match=rf"the encoder {name} cannot .* choose r3d or r2plus1d"):
        PretrainConfig(task="memdpc", encoder=name)


def test_places_that_were_not_told_are_dark() -> None:
    is_right = torch.zeros(2, 12, dtype=torch.bool)  # three steps of 2 × 2 places
    is_right[0, 1] = True  # forwards: the first step is block 5; top right
    is_right[1, 10] = True  # backwards: the last step is block 0; bottom left
    frames = darken(torch.full((16, 4, 4, 3), 100, dtype=torch.uint8), is_right)
    expected = torch.full((8, 4, 4), 30)
    expected[3:5] = 100  # context in both directions
    expected[5, :2, 2:] = 100
    expected[0, 2:, :2] = 100
    assert torch.equal(
        frames.long(), expected.repeat_interleave(2, dim=0)[..., None].expand(-1, -1, -1, 3)
    )

"""The attentive probe: its formula, its start, and what it can learn that an average cannot."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctp.downstream.attentive import AttentivePooler
from ctp.downstream.classification import Classifier
from ctp.downstream.gradcam import explain
from ctp.encoders.config import EncoderConfig, R3dConfig
from ctp.encoders.encoder import Encoder
from ctp.encoders.resnet3d import R3d

SIDE = 3
"""Cells of the toy's feature map in height and width; each is a class."""
CELL_PX = 4


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("channels", "num_heads"), [(128, 2), (64, 1), (48, 3)])
def test_is_a_block_of_cross_attention(channels: int, num_heads: int) -> None:
    """V-JEPA's block, written with its layers: heads of at most 64 channels."""
    pooler, features = AttentivePooler(channels), drawn(2, channels, 2, 3, 4)
    for parameter in pooler.parameters():  # no bias of 0 and no norm of 1 that hides an error
        nn.init.normal_(parameter, std=0.3)
    weights = dict(pooler.named_parameters())
    query_in, key_in, value_in = weights["attention.in_proj_weight"].chunk(3)
    query_bias, key_bias, value_bias = weights["attention.in_proj_bias"].chunk(3)

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    expected = []
    for clip in features:
        tokens = norm(torch.stack([clip[:, t, y, x] for t, y, x in cells(2, 3, 4)]), "norm1")
        query = weights["query"][0]
        heads = zip(
            (query @ query_in.T + query_bias).chunk(num_heads, dim=1),
            (tokens @ key_in.T + key_bias).chunk(num_heads, dim=1),
            (tokens @ value_in.T + value_bias).chunk(num_heads, dim=1),
            strict=True,
        )
        size = channels // num_heads
        mixed = torch.cat([(q @ k.T / size**0.5).softmax(dim=1) @ v for q, k, v in heads], dim=1)
        projected = mixed @ weights["attention.out_proj.weight"].T
        pooled = query + projected + weights["attention.out_proj.bias"]
        hidden = F.gelu(
            norm(pooled, "norm2") @ weights["mlp.fc1.weight"].T + weights["mlp.fc1.bias"]
        )
        assert hidden.shape == (1, 4 * channels)
        expected.append(pooled + hidden @ weights["mlp.fc2.weight"].T + weights["mlp.fc2.bias"])
    torch.testing.assert_close(pooler(features), torch.cat(expected), rtol=1e-4, atol=1e-4)


def cells(*sizes: int) -> list[list[int]]:
    return torch.cartesian_prod(*map(torch.arange, sizes)).tolist()


def test_its_weights_are_drawn_as_v_jepas() -> None:
    torch.manual_seed(0)
    weights = dict(AttentivePooler(256).named_parameters())
    for name, parameter in weights.items():
        if name.startswith("norm") and name.endswith("weight"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            # the last layer of a branch is scaled down by the root of 2
            std = 0.02 / 2**0.5 if name in {"attention.out_proj.weight", "mlp.fc2.weight"} else 0.02
            rel = 0.15 if name == "query" else 0.02
            assert float(parameter.detach().std()) == pytest.approx(std, rel=rel), name


def test_a_frozen_encoder_does_not_learn_and_all_else_does() -> None:
    encoder = R3d(R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1)))
    model = Classifier(encoder, 3, frozen=True, is_attentive=True).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model(drawn(2, 3, 4, 32, 32))[:, 0].sum().backward()
    learning = {name for name, each in model.named_parameters() if each.grad is not None}
    assert learning == {n for n, _ in model.named_parameters() if not n.startswith("encoder.")}
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_grad_cam_explains_it() -> None:
    encoder = R3d(R3dConfig(width=4, blocks_per_stage=(1, 1, 1, 1)))
    model = Classifier(encoder, 3, is_attentive=True).eval()
    nn.init.normal_(model.fc.weight)
    found = [explain(model, drawn(1, 3, 8, 32, 32), target) for target in range(3)]
    assert all(each.cam.shape == (8, 32, 32) for each in found)
    assert max(each.cam.max() for each in found) == 1


class GridConfig(EncoderConfig):
    name: Literal["grid"] = "grid"


class Grid(Encoder):
    """The brightness of each cell of a clip, and the cell's number as one of 9 channels."""

    Config = GridConfig
    stages = ("brightness",)

    def __init__(self) -> None:
        super().__init__(GridConfig())
        self.out_channels, self.stride = 1 + SIDE**2, (1, CELL_PX, CELL_PX)
        self.brightness = nn.Sequential(nn.AvgPool3d(self.stride))

    def forward(self, clips: Tensor) -> Tensor:
        brightness = self.brightness(clips[:, :1])
        numbers = torch.eye(SIDE**2).view(SIDE**2, 1, SIDE, SIDE)
        return torch.cat(
            [brightness, numbers.expand(*brightness.shape[:1], -1, *brightness.shape[2:])], 1
        )


def test_learns_where_a_square_is_which_an_average_does_not_show() -> None:
    clips = torch.zeros(SIDE**2, 3, 1, SIDE * CELL_PX, SIDE * CELL_PX)
    for number, (row, column) in enumerate(cells(SIDE, SIDE)):
        rows, columns = (slice(n * CELL_PX, (n + 1) * CELL_PX) for n in (row, column))
        clips[number, :, :, rows, columns] = 4
    averages = Grid()(clips).mean(dim=(2, 3, 4))
    assert torch.equal(averages, averages[:1].expand_as(averages))

    torch.manual_seed(0)
    model, labels = (
        Classifier(Grid(), SIDE**2, frozen=True, is_attentive=True),
        torch.arange(SIDE**2),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(clips), labels).backward()
        optimizer.step()
    assert torch.equal(model(clips).argmax(dim=1), labels)

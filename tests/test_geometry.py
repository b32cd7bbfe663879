"""Boxes and offsets, by hand and against torchvision."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou as torchvision_box_iou

from ctp.geometry import apply_offsets, box_iou, box_offsets

SIGMA = torch.tensor([0.8, 0.8, 0.04, 0.04])
PROPERTY = settings(deadline=None, derandomize=True, max_examples=50)


def numbers(least, greatest):
    return st.floats(least, greatest, width=32)


BOXES = st.tuples(*2 * [numbers(-100, 100)], *2 * [numbers(1, 100)]).map(
    lambda box: torch.tensor([box[0], box[1], box[0] + box[2], box[1] + box[3]])
)
ANY_BOXES = st.tuples(*4 * [numbers(-100, 100)]).map(torch.tensor)  # empty and reversed ones too


def random_boxes(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * 80
    size = 2 + torch.rand(*shape, 2, generator=generator) * 60
    return torch.cat([corner, corner + size], dim=-1)


def test_iou_by_hand():
    first = torch.tensor([[0.0, 0, 4, 2], [0, 0, 4, 4], [0, 0, 1, 1], [2, 2, 6, 6]])
    second = torch.tensor([[2.0, 0, 6, 2], [1, 1, 3, 3], [1, 0, 2, 1], [2, 2, 6, 6]])
    assert torch.allclose(box_iou(first, second), torch.tensor([1 / 3, 1 / 4, 0, 1]))


def test_iou_equals_torchvision():
    first, second = random_boxes(40), random_boxes(30, seed=1)
    ours = box_iou(first[:, None], second)
    assert ours.shape == (40, 30)
    assert torch.allclose(ours, torchvision_box_iou(first, second), atol=1e-6)
    assert ((ours > 0.3).any(), (ours == 0).any()) == (True, True)


def test_iou_of_empty_boxes_is_zero():
    empty, turned = torch.tensor([3.0, 3, 3, 3]), torch.tensor([5.0, 5, 1, 1])
    whole = torch.tensor([0.0, 0, 6, 6])
    for first, second in ((empty, empty), (empty, whole), (turned, turned), (turned, whole)):
        assert box_iou(first, second).item() == 0
        assert box_iou(second, first).item() == 0


def test_offsets_by_hand():
    query = torch.tensor([10.0, 20, 30, 60])  # centre (20, 40), 20×40
    box = torch.tensor([18.0, 26, 58, 46])  # centre (38, 36), 40×20
    expected = [18 / 0.8, -4 / 0.8, math.log(2) / 0.04, -math.log(2) / 0.04]
    assert torch.allclose(box_offsets(query, box, SIGMA), torch.tensor(expected))
    assert torch.allclose(apply_offsets(query, torch.tensor(expected), SIGMA), box, atol=1e-4)


@PROPERTY
@given(first=ANY_BOXES, second=ANY_BOXES)
def test_iou_is_symmetric_and_in_0_to_1(first, second):
    iou = box_iou(first, second)
    assert iou == box_iou(second, first)
    assert 0 <= iou <= 1


@PROPERTY
@given(box=BOXES)
def test_a_box_has_iou_1_and_no_offset_with_itself(box):
    assert box_iou(box, box) == 1
    assert torch.equal(box_offsets(box, box, SIGMA), torch.zeros(4))


@PROPERTY
@given(query=BOXES, box=BOXES)
def test_applying_the_offsets_gives_the_box(query, box):
    offsets = box_offsets(query, box, SIGMA)
    assert torch.allclose(apply_offsets(query, offsets, SIGMA), box, atol=1e-2)


def test_offsets_and_boxes_are_inverse_and_broadcast():
    query, boxes = random_boxes(2, 3, 1), random_boxes(2, 3, 7, seed=1)
    offsets = box_offsets(query, boxes, SIGMA)
    assert offsets.shape == (2, 3, 7, 4)
    assert offsets.abs().max() > 10
    assert torch.allclose(apply_offsets(query, offsets, SIGMA), boxes, atol=1e-3)
    offsets = torch.randn(2, 3, 7, 4, generator=torch.Generator().manual_seed(2)) * 10
    back = box_offsets(query, apply_offsets(query, offsets, SIGMA), SIGMA)
    assert torch.allclose(back, offsets, atol=1e-3)


def test_decoding_equals_a_numpy_reference():
    query, offsets = random_boxes(5, 1), torch.randn(5, 16, 4, generator=torch.manual_seed(0)) * 8
    x1, y1, x2, y2 = np.moveaxis(query.double().numpy(), -1, 0)
    tx, ty, tw, th = np.moveaxis(offsets.double().numpy(), -1, 0)
    x, y = (x1 + x2) / 2 + 0.8 * tx, (y1 + y2) / 2 + 0.8 * ty
    w, h = (x2 - x1) * np.exp(0.04 * tw), (y2 - y1) * np.exp(0.04 * th)
    expected = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=-1)
    decoded = apply_offsets(query, offsets, SIGMA).numpy()
    np.testing.assert_allclose(decoded, expected, rtol=1e-5, atol=1e-5)


def test_sizes_are_at_least_one_pixel():
    query = torch.tensor([4.0, 4, 4, 4])
    box = torch.tensor([4.0, 4, 6, 4.5])
    offsets = box_offsets(query, box, torch.ones(4))
    assert torch.allclose(offsets, torch.tensor([1, 0.25, math.log(2), 0]))
    assert torch.isfinite(box_offsets(box, query, torch.ones(4))).all()

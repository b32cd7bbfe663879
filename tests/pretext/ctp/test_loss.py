"""The tracking loss, held to a float64 NumPy reference."""

import numpy as np
import pytest
import torch

from ctp.pretext.ctp.loss import tracking_loss

SIGMA = (0.8, 0.8, 0.04, 0.04)


def example(*, seed=0, noise=1.5):
    """Boxes float32 [2, 3, 5, 4] and offsets that are right except for noise."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 80, (2, 3, 5, 2)), rng.uniform(4, 60, (2, 3, 5, 2))
    boxes = np.concatenate([corner, corner + size], axis=-1)
    offsets = reference_targets(boxes) + noise * rng.normal(size=boxes.shape)
    return torch.from_numpy(offsets).float(), torch.from_numpy(boxes).float()


def reference_targets(boxes):
    x, y = (boxes[..., 0] + boxes[..., 2]) / 2, (boxes[..., 1] + boxes[..., 3]) / 2
    w, h = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    moved = [x - x[:, :, :1], y - y[:, :, :1], np.log(w / w[:, :, :1]), np.log(h / h[:, :, :1])]
    return np.stack([value / scale for value, scale in zip(moved, SIGMA, strict=True)], axis=-1)


def test_equals_the_reference():
    offsets, boxes = example()
    error = np.abs(offsets.double().numpy() - reference_targets(boxes.double().numpy()))
    smooth = np.where(error < 1, 0.5 * error**2, error - 0.5)
    assert (error < 1).any()
    assert (error > 1).any()
    center, size = smooth[..., :2].sum(axis=-1).mean(), smooth[..., 2:].sum(axis=-1).mean()
    terms = tracking_loss(offsets, boxes, torch.tensor(SIGMA))
    assert terms.metrics["loss_center"].item() == pytest.approx(center, rel=1e-5)
    assert terms.metrics["loss_size"].item() == pytest.approx(size, rel=1e-5)
    assert terms.total.item() == pytest.approx(center + size, rel=1e-5)


def test_two_frames_worked_by_hand():
    boxes = torch.tensor([0.0, 0, 10, 10]).repeat(1, 1, 2, 1)
    boxes[0, 0, 1] += torch.tensor([4.0, 0, 4, 0])  # 5 σ along x
    offsets = torch.zeros(1, 1, 2, 4)
    offsets[0, 0, 0, 2] = 0.5
    terms = tracking_loss(offsets, boxes, torch.tensor(SIGMA))
    assert terms.metrics["loss_center"].item() == pytest.approx((5 - 0.5) / 2)
    assert terms.metrics["loss_size"].item() == pytest.approx(0.5 * 0.5**2 / 2)
    assert terms.total.item() == pytest.approx(2.25 + 0.0625)


def test_correct_offsets_have_no_loss_and_gradients_are_bounded():
    offsets, boxes = example(noise=0)
    assert tracking_loss(offsets, boxes, torch.tensor(SIGMA)).total.item() < 1e-6
    far = (offsets + 100).requires_grad_()
    tracking_loss(far, boxes, torch.tensor(SIGMA)).total.backward()
    assert torch.allclose(far.grad, torch.full_like(far, 1 / 30))  # 2 clips × 3 boxes × 5 frames


def test_the_mean_is_over_the_frames_that_count():
    offsets, boxes = example()
    counted = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(1)) < 0.6
    counted[..., 0] = True
    sigma = torch.tensor(SIGMA)
    error = np.abs(offsets.double().numpy() - reference_targets(boxes.double().numpy()))
    smooth = np.where(error < 1, 0.5 * error**2, error - 0.5).sum(axis=-1)
    of_boxes = [row[mask].mean() for row, mask in zip(
        smooth.reshape(6, 5), counted.numpy().reshape(6, 5), strict=True
    )]  # fmt: skip
    found = tracking_loss(offsets, boxes, sigma, counted)
    assert found.total.item() == pytest.approx(np.mean(of_boxes), rel=1e-5)
    other = torch.where(counted[..., None], boxes, torch.zeros(4))
    assert tracking_loss(offsets, other, sigma, counted).total.item() == found.total.item()
    everything = tracking_loss(offsets, boxes, sigma, torch.ones_like(counted))
    assert everything.total.item() == tracking_loss(offsets, boxes, sigma).total.item()


def test_the_loss_of_a_clip_without_targets_is_zero():
    offsets, boxes = example()
    nothing = torch.zeros(2, 3, 5, dtype=torch.bool)
    assert tracking_loss(offsets, boxes, torch.tensor(SIGMA), nothing).total.item() == 0


def test_weights_give_a_weighted_mean_over_the_batch():
    offsets, boxes = example()
    weights = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(2))
    weights[0] = 0
    error = np.abs(offsets.double().numpy() - reference_targets(boxes.double().numpy()))
    smooth = np.where(error < 1, 0.5 * error**2, error - 0.5).sum(axis=-1)
    expected = (smooth * weights.numpy()).sum() / weights.numpy().sum()
    sigma = torch.tensor(SIGMA)
    found = tracking_loss(offsets, boxes, sigma, weights=weights)
    assert found.total.item() == pytest.approx(expected, rel=1e-5)
    ones = tracking_loss(offsets, boxes, sigma, weights=torch.ones(2, 3, 5))
    assert ones.total.item() == pytest.approx(tracking_loss(offsets, boxes, sigma).total.item())
    nothing = tracking_loss(offsets, boxes, sigma, weights=torch.zeros(2, 3, 5))
    assert nothing.total.item() == 0

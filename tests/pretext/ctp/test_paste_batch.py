"""The game in one batch: the same pixels as the game clip by clip, to 1/255."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctp.pretext.ctp.config import GameConfig, official, paper
from ctp.pretext.ctp.game import Round, draw_round, play_round
from ctp.pretext.ctp.paste_batch import Rounds, paste_batch, stack_rounds

NUM_FRAMES, HEIGHT, WIDTH = 6, 40, 56
SMALL = {"min_box_size_px": 6, "max_box_size_px": 30}
RULES: dict[str, GameConfig] = {
    "paper": paper().replace(**SMALL),
    "official": official().replace(box_sizes_px=(8, 14, 28), **SMALL),
    "hard shapes": paper().replace(shape_probs=(0.0, 0.5, 0.5), **SMALL),
    "soft edges": paper().replace(shape_probs=(0.4, 0.3, 0.3), soft_edge_prob=1.0, **SMALL),
    "one patch, often hidden": paper().replace(num_patches=1, hidden_prob=0.8, **SMALL),
}


def draw(config: GameConfig, num_clips: int, seed: int) -> list[Round]:
    return [
        draw_round(config, NUM_FRAMES, (WIDTH, HEIGHT), np.random.default_rng((seed, clip)))
        for clip in range(num_clips)
    ]


def rounds_of(drawn: list[Round], device: str = "cpu") -> Rounds:
    return Rounds.on(torch.device(device), stack_rounds(drawn))


def noise(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def check_alike(batch: torch.Tensor, clips: list[np.ndarray]) -> None:
    difference = np.abs(batch.numpy().astype(int) - np.stack(clips))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4  # ties of rounding, nothing more


@pytest.mark.parametrize("rules", RULES)
def test_the_same_pixels_as_clip_by_clip(rules: str) -> None:
    for seed in range(8):
        drawn = draw(RULES[rules], 5, seed)
        frames = noise(5, NUM_FRAMES, HEIGHT, WIDTH, 3, seed=seed)
        before = frames.copy()
        pasted = paste_batch(torch.from_numpy(frames), rounds_of(drawn))
        clips = [play_round(*each) for each in zip(frames, drawn, strict=True)]
        check_alike(pasted, clips)
        assert not np.array_equal(pasted.numpy(), frames)
        np.testing.assert_array_equal(frames, before)


def test_donors_where_there_are_any() -> None:
    drawn = draw(RULES["official"], 4, 3)
    frames = noise(4, NUM_FRAMES, HEIGHT, WIDTH, 3, seed=0)
    donors = noise(4, 3, HEIGHT, WIDTH, 3, seed=1)
    has_donors = np.array([True, False, False, True])
    tensors = [torch.from_numpy(each) for each in (frames, donors, has_donors)]
    mixed = paste_batch(tensors[0], rounds_of(drawn), *tensors[1:])
    clips = [
        play_round(frames[i], drawn[i], donors[i] if has_donors[i] else None) for i in range(4)
    ]
    check_alike(mixed, clips)
    every = paste_batch(tensors[0], rounds_of(drawn), tensors[1])
    check_alike(every, [play_round(*each) for each in zip(frames, drawn, donors, strict=True)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_same_pixels_on_a_gpu() -> None:
    drawn = draw(RULES["official"], 8, 0)
    frames = noise(8, NUM_FRAMES, HEIGHT, WIDTH, 3, seed=0)
    pasted = paste_batch(torch.from_numpy(frames).cuda(), rounds_of(drawn, "cuda"))
    check_alike(pasted.cpu(), [play_round(*each) for each in zip(frames, drawn, strict=True)])

"""Pasting a whole batch: the same pixels as clip by clip, to 1/255."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctp.pretext.ctp.config import OFFICIAL, PAPER, GameConfig
from ctp.pretext.ctp.game import Game, draw_game
from ctp.pretext.ctp.paste import paste
from ctp.pretext.ctp.paste_batch import paste_batch

T, H, W = 6, 40, 56
PROPERTY = settings(deadline=None, derandomize=True, max_examples=30)
SMALL = {"box_size_px": (6.0, 30.0)}
RULES: dict[str, GameConfig] = {
    "paper": PAPER.replace(**SMALL),
    "official": OFFICIAL.replace(box_sizes_px=(8, 14, 28), **SMALL),
    "hard shapes": PAPER.replace(shape_probs=(0.0, 0.5, 0.5), **SMALL),
    "soft edges": PAPER.replace(shape_probs=(0.4, 0.3, 0.3), soft_edge_prob=1.0, **SMALL),
}


def draw(config: GameConfig, num_clips: int, seed: int) -> list[Game]:
    return [
        draw_game(config, T, (W, H), np.random.default_rng((seed, clip)))
        for clip in range(num_clips)
    ]


def stack(games: list[Game], device: str = "cpu") -> Game:
    arrays = map(np.stack, zip(*games, strict=True))
    return Game(*(torch.from_numpy(array).to(device) for array in arrays))


def noise(*shape: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def assert_alike(
    batch: torch.Tensor, clips: list[NDArray[np.uint8]], max_share: float = 1e-4
) -> None:
    difference = np.abs(batch.numpy().astype(int) - np.stack(clips))
    assert difference.max() <= 1
    assert (difference > 0).mean() < max_share  # ties of rounding, nothing more


@PROPERTY
@given(
    rules=st.sampled_from(list(RULES)),
    num_patches=st.integers(1, 4),
    hidden_prob=st.floats(0, 1),
    has_sources=st.none() | st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 2**32),
)
def test_a_batch_has_the_pixels_of_its_clips(
    rules: str,
    num_patches: int,
    hidden_prob: float,
    has_sources: tuple[bool, bool] | None,
    seed: int,
) -> None:
    config = RULES[rules].replace(num_patches=num_patches, hidden_prob=hidden_prob)
    games, frames = draw(config, 2, seed), noise(2, T, H, W, 3, seed=seed)
    sources, before = noise(2, num_patches, H, W, 3, seed=seed + 1), frames.copy()
    own = [sources[i] if has_sources and has_sources[i] else None for i in range(2)]
    given_sources = (
        () if has_sources is None else (torch.from_numpy(sources), torch.tensor(has_sources))
    )
    for blending in ("exact", config.blending):
        pasted = paste_batch(
            torch.from_numpy(frames), stack(games), *given_sources, blending=blending
        )
        clips = zip(frames, games, own, strict=True)
        # where patch and background are equal, once in 256 in noise, their mix is a whole number
        # but for rounding errors, and truncation takes it either way
        max_share = 1e-4 if blending == "exact" else 1 / 256
        expected = [paste(*each, blending=blending) for each in clips]
        assert_alike(pasted, expected, max_share)
    np.testing.assert_array_equal(frames, before)


def test_all_clips_have_sources_by_default() -> None:
    games, frames = draw(RULES["official"], 4, 3), noise(4, T, H, W, 3, seed=0)
    sources = noise(4, 3, H, W, 3, seed=1)
    pasted = paste_batch(torch.from_numpy(frames), stack(games), torch.from_numpy(sources))
    assert_alike(pasted, [paste(*each) for each in zip(frames, games, sources, strict=True)])
    assert not np.array_equal(pasted.numpy(), frames)


def test_a_placeholder_does_no_harm_to_its_batch() -> None:
    games, frames = draw(RULES["paper"], 2, 0), noise(2, T, H, W, 3, seed=0)
    empty = Game(*(np.zeros_like(array) for array in games[1]))
    pasted = paste_batch(torch.from_numpy(frames), stack([games[0], empty]))
    assert_alike(pasted[:1], [paste(frames[0], games[0])])
    assert torch.equal(pasted[1], torch.from_numpy(frames[1]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_has_the_same_pixels() -> None:
    games, frames = draw(RULES["official"], 8, 0), noise(8, T, H, W, 3, seed=0)
    pasted = paste_batch(torch.from_numpy(frames).cuda(), stack(games, "cuda"))
    assert_alike(pasted.cpu(), [paste(*each) for each in zip(frames, games, strict=True)])

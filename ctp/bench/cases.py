"""Small parts of loading, on one core: the game of Catch-the-Patch, and looking up the plan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ctp.bench.config import BenchConfig
from ctp.bench.timing import Case, Timing, measure, one_thread
from ctp.data.plan import Plan
from ctp.pretext.ctp.config import RULES
from ctp.pretext.ctp.game import draw_game
from ctp.pretext.ctp.paste import paste
from ctp.rng import generator

PLAN_SIZES = (10_000, 1_000_000_000)
LOOKUPS_PER_CLIP = 200
SCATTER = 7919
"""Distance between positions that are looked up, a prime."""


def measure_cases(config: BenchConfig) -> list[Timing]:
    """Time the cases of the parts that `config.what` names."""
    cases = [case for part in config.what if part in CASES for case in CASES[part](config)]
    with one_thread():
        return measure(cases, config.repeats)


def game_cases(config: BenchConfig) -> list[Case]:
    """Return a case for each set of rules: a round of the game, drawn and pasted on a CPU.

    The frames are noise, which takes the same time as others.
    """
    task, clips = config.game, config.clips_per_repeat
    size, num_frames = task.augment.frame_size_px, task.sampling.num_frames
    shape = (num_frames, size, size, 3)
    frames = generator(0, "bench").integers(0, 256, shape, np.uint8)

    def work(rules: str) -> Callable[[int], None]:
        # outside of what is timed: a run builds it once
        game_config = task.replace(rules=rules).game

        def draw_and_paste(repeat: int) -> None:
            for clip in range(clips):
                rng = generator(0, "bench", repeat, clip)
                paste(frames, draw_game(game_config, num_frames, (size, size), rng))

        return draw_and_paste

    return [Case(f"game {rules}, drawn and pasted", work(rules), clips) for rules in RULES]


def plan_cases(config: BenchConfig) -> list[Case]:
    """Return a case for few and one for very many videos: look up scattered positions."""
    lookups = LOOKUPS_PER_CLIP * config.clips_per_repeat

    def work(num_videos: int) -> Callable[[int], None]:
        plan = Plan(0, num_videos)

        def look_up(repeat: int) -> None:
            for number in range(lookups):
                # far apart, so that no cache of neighbouring positions helps
                plan.clip((repeat * lookups + number) * SCATTER)

        return look_up

    return [
        Case(f"plan look-up, {size:,} videos", work(size), lookups, "µs") for size in PLAN_SIZES
    ]


CASES: dict[str, Callable[[BenchConfig], list[Case]]] = {"game": game_cases, "plan": plan_cases}

"""Small parts of loading, on one core: the game of Catch-the-Patch, and looking up the plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ctp.bench.config import BenchConfig
from ctp.bench.timing import Case, Timing, measure, one_thread
from ctp.data.plan import Plan
from ctp.pretext.ctp.config import RULES, GameConfig
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
    """Return a case for each set of rules: the patches of a clip, drawn and pasted on a CPU.

    The frames are noise, which takes the same time as other pictures.
    """
    task, clips = config.game, config.clips_per_repeat
    size, num_frames = task.augment.frame_size_px, task.sampling.num_frames
    shape = (num_frames, size, size, 3)
    frames = generator(0, "bench").integers(0, 256, shape, np.uint8)

    def draw_and_paste(rules: GameConfig, repeat: int) -> None:
        for clip in range(clips):
            rng = generator(0, "bench", repeat, clip)
            paste(frames, draw_game(rules, num_frames, (size, size), rng), blending=rules.blending)

    # the rules are built outside of what is timed: a run builds them once
    return [
        Case(f"game {name}, drawn and pasted", partial(draw_and_paste, own.game), clips)
        for name, own in ((name, task.replace(rules=name)) for name in RULES)
    ]


def plan_cases(config: BenchConfig) -> list[Case]:
    """Return a case for few and one for very many videos: look up scattered positions."""
    lookups = LOOKUPS_PER_CLIP * config.clips_per_repeat

    def look_up(plan: Plan, repeat: int) -> None:
        for number in range(lookups):
            # far apart, so that no cache of neighbouring positions helps
            plan.clip((repeat * lookups + number) * SCATTER)

    return [
        Case(f"plan look-up, {size:,} videos", partial(look_up, Plan(0, size)), lookups, "µs")
        for size in PLAN_SIZES
    ]


CASES: dict[str, Callable[[BenchConfig], list[Case]]] = {"game": game_cases, "plan": plan_cases}

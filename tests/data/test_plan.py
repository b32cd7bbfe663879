"""The plan: a permutation in every epoch, the same for everyone who asks."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp.data.plan import Plan, PlannedClip

BILLION = 10**9
PLANS = st.builds(
    Plan, st.integers(0, 2**40), st.integers(1, 60), st.integers(1, 4), st.integers(1, 80)
)
PROPERTY = settings(deadline=None, derandomize=True, max_examples=50)


def order(plan: Plan, epoch: int) -> list[int]:
    start = epoch * plan.num_videos
    return [plan.clip(start + i).video for i in range(plan.num_videos)]


def clips_of_pass(plan: Plan, epoch: int) -> list[PlannedClip]:
    length = plan.num_videos * plan.repeats_per_pass
    return [plan.clip(position) for position in range(epoch * length, (epoch + 1) * length)]


@PROPERTY
@given(plan=PLANS, epoch=st.integers(0, 1000))
def test_each_pass_shows_each_clip_of_each_video_once(plan: Plan, epoch: int) -> None:
    shown = clips_of_pass(plan, epoch)
    assert {clip.epoch for clip in shown} == {epoch}
    assert sorted((clip.video, clip.clip_number) for clip in shown) == [
        (video, number)
        for video in range(plan.num_videos)
        for number in range(plan.repeats_per_pass)
    ]


@PROPERTY
@given(plan=PLANS, position=st.integers(0, 10**12))
def test_a_clip_is_a_pure_function_of_its_position(plan: Plan, position: int) -> None:
    same = Plan(plan.seed, plan.num_videos, plan.repeats_per_pass, plan.repeat_stride)
    for other in (position + 1, position // 2):
        same.clip(other)
    assert same.clip(position) == plan.clip(position)


@PROPERTY
@given(plan=PLANS, position=st.integers(0, 10**6))
def test_the_candidates_are_each_video_once_from_the_planned_one(plan: Plan, position: int) -> None:
    candidates = list(plan.candidates(position))
    assert candidates[0] == plan.clip(position)
    assert sorted(clip.video for clip in candidates) == list(range(plan.num_videos))
    assert {clip.epoch for clip in candidates} == {candidates[0].epoch}


@settings(PROPERTY, max_examples=20)
@given(plan=PLANS, epoch=st.integers(0, 100))
def test_no_two_positions_share_a_candidate(plan: Plan, epoch: int) -> None:
    length = plan.num_videos * plan.repeats_per_pass
    positions = range(epoch * length, (epoch + 1) * length)
    candidates = [clip for position in positions for clip in plan.candidates(position)]
    assert len(set(candidates)) == len(candidates)


@PROPERTY
@given(plan=PLANS)
def test_repeats_of_a_video_are_a_stride_apart(plan: Plan) -> None:
    stride, last_seen = plan.repeat_stride, dict[int, int]()
    for position, clip in enumerate(clips_of_pass(plan, 0)):
        gap = position - last_seen.get(clip.video, -(10**6))
        assert gap >= min(stride, plan.num_videos)
        assert clip.clip_number == 0 or gap < 2 * stride or gap == plan.num_videos
        last_seen[clip.video] = position


@PROPERTY
@given(seed=st.integers(0, 2**40), num_videos=st.integers(3, 100))
def test_no_video_follows_itself(seed: int, num_videos: int) -> None:
    videos = [Plan(seed, num_videos).clip(position).video for position in range(3 * num_videos)]
    assert all(first != second for first, second in itertools.pairwise(videos))


def test_the_epoch_follows_from_the_position() -> None:
    plan = Plan(seed=0, num_videos=17)
    epochs = [plan.clip(position).epoch for position in range(3 * 17)]
    assert epochs == [0] * 17 + [1] * 17 + [2] * 17


def test_other_epochs_and_seeds_have_other_orders() -> None:
    orders = [order(Plan(seed, 17), epoch) for seed in (0, 1, -1, 2**40) for epoch in range(4)]
    assert len({tuple(each) for each in orders}) == len(orders)


def test_all_orders_of_a_small_catalogue_are_equally_frequent() -> None:
    counts = dict.fromkeys(itertools.permutations(range(3)), 0)
    for epoch in range(1200):
        counts[tuple(order(Plan(0, 3), epoch))] += 1
    assert all(140 < count < 260 for count in counts.values())  # 200 ± 4.6 deviations


def test_the_order_is_pinned() -> None:
    """A run that another version saved resumes in the same order."""
    plan = Plan(seed=7, num_videos=10)
    assert order(plan, 0) == [0, 3, 5, 2, 9, 1, 8, 7, 4, 6]
    assert order(plan, 1) == [7, 5, 4, 9, 2, 1, 6, 3, 8, 0]
    assert plan.clip(BILLION + 3) == PlannedClip(epoch=100_000_000, video=1)
    assert Plan(7, BILLION).clip(123_456_789_012) == PlannedClip(epoch=123, video=381_951_909)


def test_a_billion_videos() -> None:
    plan = Plan(seed=0, num_videos=BILLION)
    for start in (0, BILLION - 500, 41 * BILLION + 12345, 10**15):
        videos = [plan.clip(start + i).video for i in range(500)]
        assert all(0 <= video < BILLION for video in videos)
    videos = [plan.clip(position).video for position in range(2000)]
    assert len(set(videos)) == 2000
    assert abs(sum(videos) / 2000 / BILLION - 0.5) < 0.03


def test_several_repeats_worked_by_hand() -> None:
    plan = Plan(7, 10, repeats_per_pass=2, repeat_stride=4)
    videos = [0, 3, 5, 2, 9, 1, 8, 7, 4, 6]  # the pinned order
    groups = [videos[:4], videos[:4], videos[4:], videos[4:]]
    assert [plan.clip(position).video for position in range(20)] == list(itertools.chain(*groups))
    numbers = [plan.clip(position).clip_number for position in range(20)]
    assert numbers == 4 * [0] + 4 * [1] + 6 * [0] + 6 * [1]


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_numbers_below_one_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Plan(0, *wrong)

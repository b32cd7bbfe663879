"""The plan: a permutation in every epoch, the same for everyone who asks."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctp.data.plan import (
    ClipCounts,
    MixedPlan,
    Plan,
    PlannedClip,
    Source,
    interleave,
    make_plan,
    whole_weights,
)

BILLION = 10**9
PLANS = st.builds(
    Plan, st.integers(0, 2**40), st.integers(1, 60), st.integers(1, 4), st.integers(1, 80)
)


def by_duration(seed: int, num_frames: list[int], repeats: int, stride: int) -> Plan:
    counts = ClipCounts.by_duration(np.array(num_frames), span_frames=10)
    return Plan(seed, len(num_frames), repeats, stride, counts)


PLANS_BY_DURATION = st.builds(
    by_duration,
    st.integers(0, 2**40),
    # most of less than a clip to five, some of up to forty
    st.lists(st.integers(1, 50) | st.integers(1, 400), min_size=1, max_size=12),
    st.integers(1, 3),
    st.integers(1, 80),
)
ALL_PLANS = PLANS | PLANS_BY_DURATION
PROPERTY = settings(deadline=None, derandomize=True, max_examples=50)


def order(plan: Plan, epoch: int) -> list[int]:
    start = epoch * plan.num_videos
    return [plan.clip(start + i).video for i in range(plan.num_videos)]


def clips_of_pass(plan: Plan, epoch: int) -> list[PlannedClip]:
    length = plan.num_clips * plan.repeats_per_pass
    return [plan.clip(position) for position in range(epoch * length, (epoch + 1) * length)]


def clips_of_each_video(plan: Plan) -> list[int]:
    if plan.counts is None:
        return [1] * plan.num_videos
    return np.diff(plan.counts.ends, prepend=0).tolist()


@PROPERTY
@given(plan=ALL_PLANS, epoch=st.integers(0, 1000))
def test_each_pass_shows_each_clip_of_each_video_once(plan: Plan, epoch: int) -> None:
    shown = clips_of_pass(plan, epoch)
    assert {clip.epoch for clip in shown} == {epoch}
    assert sorted((clip.video, clip.clip_number) for clip in shown) == [
        (video, number)
        for video, count in enumerate(clips_of_each_video(plan))
        for number in range(count * plan.repeats_per_pass)
    ]


@PROPERTY
@given(plan=ALL_PLANS, position=st.integers(0, 10**12))
def test_a_clip_is_a_pure_function_of_its_position(plan: Plan, position: int) -> None:
    same = pickle.loads(pickle.dumps(plan))
    for other in (position + 1, position // 2):
        same.clip(other)
    assert same.clip(position) == plan.clip(position)


@PROPERTY
@given(plan=ALL_PLANS, position=st.integers(0, 10**6))
def test_the_candidates_are_each_video_once_from_the_planned_one(plan: Plan, position: int) -> None:
    candidates = list(plan.candidates(position))
    assert candidates[0] == plan.clip(position)
    assert sorted(clip.video for clip in candidates) == list(range(plan.num_videos))
    assert {clip.epoch for clip in candidates} == {candidates[0].epoch}


@settings(PROPERTY, max_examples=20)
@given(plan=ALL_PLANS, epoch=st.integers(0, 100))
def test_no_two_positions_share_a_candidate(plan: Plan, epoch: int) -> None:
    length = plan.num_clips * plan.repeats_per_pass
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


class TestByDuration:
    def test_the_counts_worked_by_hand(self) -> None:
        counts = ClipCounts.by_duration(np.array([3, 46, 91, 92, 460], np.int32), span_frames=46)
        assert counts.ends.tolist() == [1, 2, 3, 5, 15]
        assert counts.fewest_and_most == (1, 10)
        clips = [counts.locate(clip) for clip in (0, 2, 3, 4, 5, 14)]
        assert clips == [(0, 0, 1), (2, 0, 1), (3, 0, 2), (3, 1, 2), (4, 0, 10), (4, 9, 10)]

    @PROPERTY
    @given(plan=PLANS_BY_DURATION, epoch=st.integers(0, 100))
    def test_each_part_of_a_pass_has_its_share_of_each_video(self, plan: Plan, epoch: int) -> None:
        plan = replace(plan, repeats_per_pass=1)
        total, clips = plan.num_clips, clips_of_pass(plan, epoch)
        num_parts = max(total // plan.repeat_stride, 1)
        bounds = [part * total // num_parts for part in range(num_parts + 1)]
        for start, end in itertools.pairwise(bounds):
            shown = Counter(clip.video for clip in clips[start:end])
            for video, count in enumerate(clips_of_each_video(plan)):
                assert abs(shown[video] - count / num_parts) < 2

    def test_a_batch_rarely_has_two_clips_of_a_video(self) -> None:
        num_videos, batch = 400, 16
        counts = ClipCounts.by_duration(np.full(num_videos, 10), 1)
        plan = Plan(0, num_videos, repeat_stride=2 * batch, counts=counts)
        videos = np.array([plan.clip(i).video for i in range(plan.num_clips)])

        def num_with_two(order: np.ndarray) -> int:
            return sum(len(set(each)) < batch for each in order.reshape(-1, batch))

        by_chance = num_with_two(np.random.default_rng(0).permutation(videos))
        assert num_with_two(videos) < by_chance / 4

    def test_the_order_is_pinned(self) -> None:
        """A run that another version saved resumes in the same order."""
        counts = ClipCounts.by_duration(np.array([1, 4, 2, 3]), 1)
        plan = Plan(7, 4, repeat_stride=3, counts=counts)
        clips = clips_of_pass(plan, 0)
        assert [clip.video for clip in clips] == [1, 2, 2, 0, 1, 3, 3, 3, 1, 1]
        assert [clip.clip_number for clip in clips] == [1, 0, 1, 0, 3, 0, 2, 1, 0, 2]

    def test_a_pass_with_repeats_takes_as_many_epochs(self) -> None:
        counts = ClipCounts.by_duration(np.array([1, 4, 2, 3]), 1)
        plan = Plan(7, 4, repeats_per_pass=2, repeat_stride=3, counts=counts)
        assert plan.num_clips == 10
        assert [plan.clip(position).epoch for position in range(40)] == 20 * [0] + 20 * [1]


WEIGHTS = st.lists(st.integers(1, 12), min_size=2, max_size=5)


class TestMix:
    def test_the_cycle_worked_by_hand(self) -> None:
        assert [number for number, _ in interleave([3, 1])] == [0, 0, 1, 0]
        assert interleave([1, 1]) == [(0, 0), (1, 0)]
        assert interleave([5]) == [(0, rank) for rank in range(5)]

    @PROPERTY
    @given(weights=WEIGHTS)
    def test_the_counts_are_as_close_to_the_weights_as_integers_allow(
        self, weights: list[int]
    ) -> None:
        cycle, total = [number for number, _ in interleave(weights)], sum(weights)
        assert Counter(cycle) == dict(enumerate(weights))
        bound = 1 - Fraction(1, 2 * len(weights) - 2)
        for number, weight in enumerate(weights):
            is_own = [each == number for each in 2 * cycle]
            counts = [0, *itertools.accumulate(is_own)]
            behind = [Fraction(n * weight, total) - count for n, count in enumerate(counts)]
            assert max(map(abs, behind)) <= bound
            if len(weights) == 2:  # any window
                assert max(behind) - min(behind) < 1

    @pytest.mark.parametrize(
        ("weights", "whole"),
        [((3, 1), [3, 1]), ((0.7, 0.1), [7, 1]), ((2.5, 5, 10), [1, 2, 4]), ((1e-3,), [1])],
    )
    def test_weights_become_whole_numbers(self, weights: list[float], whole: list[int]) -> None:
        assert whole_weights(weights) == whole

    def test_weights_without_a_short_cycle_are_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"sum of at most 10000, e\.g\. 3,1; these are 99999, 1"
        ):
            whole_weights([99_999, 1])

    @PROPERTY
    @given(
        weights=WEIGHTS, sizes=st.lists(st.integers(1, 30), min_size=5, max_size=5),
        repeats=st.integers(1, 3), start=st.integers(0, 10**9),
    )  # fmt: skip
    def test_each_source_goes_through_its_own_passes(
        self, weights: list[int], sizes: list[int], repeats: int, start: int
    ) -> None:
        first_videos = itertools.accumulate(sizes, initial=0)
        sources = [
            Source(f"s3://{size}", first, size, weight=weight)
            for first, size, weight in zip(first_videos, sizes, weights, strict=False)
        ]
        plan = make_plan(3, sources, repeats, repeat_stride=8)
        assert isinstance(plan, MixedPlan)
        expected = dict[int, int]()  # position of each source
        for position in range(start, start + 50):
            number, own = plan.locate(position)
            assert own == expected.get(number, own)
            expected[number] = own + 1
            source = sources[number]
            clips = list(plan.candidates(position))
            videos = range(source.first_video, source.first_video + source.num_videos)
            assert sorted(clip.video for clip in clips) == list(videos)
            assert clips[0] == plan.clip(position)
            assert clips[0].epoch == own // (source.num_videos * repeats)

    def test_sources_of_the_same_size_have_other_orders(self) -> None:
        plan = make_plan(0, [Source("a", 0, 30), Source("b", 30, 30)], 1, 8)
        videos = [plan.clip(position).video % 30 for position in range(60)]
        assert videos[::2] != videos[1::2]

    def test_the_order_is_pinned(self) -> None:
        plan = make_plan(7, [Source("a", 0, 3), Source("b", 3, 5, weight=2)], 1, 8)
        assert [plan.clip(position).video for position in range(9)] == [5, 2, 6, 3, 0, 4, 7, 1, 4]

    def test_a_mix_of_one_source_is_that_source(self) -> None:
        assert make_plan(7, [Source("a", 0, 10, weight=3)], 1, 8) == Plan(7, 10, 1, 8)

"""The plan: a permutation in every epoch, the same for anyone who asks."""

from __future__ import annotations

import itertools

import pytest

from ctp.data.plan import Plan, PlannedClip

SIZES = [1, 2, 3, 5, 17, 64, 100]
BILLION = 10**9


def order(plan: Plan, epoch: int) -> list[int]:
    start = epoch * plan.num_videos
    return [plan.clip(start + i).video for i in range(plan.num_videos)]


@pytest.mark.parametrize("num_videos", SIZES)
def test_every_epoch_shows_each_video_once(num_videos: int) -> None:
    plan = Plan(seed=3, num_videos=num_videos)
    for epoch in range(5):
        assert sorted(order(plan, epoch)) == list(range(num_videos))


def test_the_epoch_follows_from_the_position() -> None:
    plan = Plan(seed=0, num_videos=17)
    epochs = [plan.clip(position).epoch for position in range(3 * 17)]
    assert epochs == [0] * 17 + [1] * 17 + [2] * 17


def test_other_epochs_and_seeds_have_other_orders() -> None:
    orders = [order(Plan(seed, 17), epoch) for seed in (0, 1, -1, 2**40) for epoch in range(4)]
    assert len({tuple(each) for each in orders}) == len(orders)


def test_all_orders_of_a_small_catalogue_come_up_alike_often() -> None:
    counts = dict.fromkeys(itertools.permutations(range(3)), 0)
    for epoch in range(1200):
        counts[tuple(order(Plan(0, 3), epoch))] += 1
    assert all(140 < count < 260 for count in counts.values())  # 200 ± 4.6 deviations


def test_the_order_is_pinned() -> None:
    """A run that was saved by another version goes on in the same order."""
    plan = Plan(seed=7, num_videos=10)
    assert order(plan, 0) == [0, 3, 5, 2, 9, 1, 8, 7, 4, 6]
    assert order(plan, 1) == [7, 5, 4, 9, 2, 1, 6, 3, 8, 0]
    assert plan.clip(BILLION + 3) == PlannedClip(epoch=100_000_000, video=1)
    assert Plan(7, BILLION).clip(123_456_789_012) == PlannedClip(epoch=123, video=381_951_909)


def test_the_order_is_independent_of_how_positions_are_shared_out() -> None:
    expected = [Plan(1, 20).clip(position) for position in range(60)]
    for num_workers in (1, 2, 3, 7):
        shares = [
            [Plan(1, 20).clip(position) for position in range(worker, 60, num_workers)]
            for worker in reversed(range(num_workers))
        ][::-1]
        rounds = itertools.zip_longest(*shares)
        assert [clip for each in rounds for clip in each if clip is not None] == expected


def test_a_billion_videos() -> None:
    plan = Plan(seed=0, num_videos=BILLION)
    for start in (0, BILLION - 500, 41 * BILLION + 12345, 10**15):
        videos = [plan.clip(start + i).video for i in range(500)]
        assert all(0 <= video < BILLION for video in videos)
    videos = [plan.clip(position).video for position in range(2000)]
    assert len(set(videos)) == 2000
    assert abs(sum(videos) / 2000 / BILLION - 0.5) < 0.03


@pytest.mark.parametrize("num_videos", SIZES)
def test_candidates_are_every_video_once_from_the_planned_one(num_videos: int) -> None:
    plan = Plan(seed=5, num_videos=num_videos)
    for position in (0, num_videos - 1, 7 * num_videos + num_videos // 2):
        candidates = list(plan.candidates(position))
        assert candidates[0] == plan.clip(position)
        assert sorted(c.video for c in candidates) == list(range(num_videos))
        assert {c.epoch for c in candidates} == {position // num_videos}


def test_no_clip_stands_in_twice() -> None:
    plan = Plan(seed=5, num_videos=9)
    epoch = [clip for position in range(9) for clip in plan.candidates(position)]
    assert len(set(epoch)) == 81


@pytest.mark.parametrize("num_videos", [3, 4, 7, 100])
def test_no_video_follows_itself(num_videos: int) -> None:
    videos = [Plan(2, num_videos).clip(position).video for position in range(2000)]
    assert all(first != second for first, second in itertools.pairwise(videos))


VISITS = [(7, 2, 3), (64, 4, 8), (65, 3, 8), (100, 2, 60), (5, 3, 16), (33, 1, 8)]


@pytest.mark.parametrize(("num_videos", "clips", "spread"), VISITS)
def test_every_pass_shows_each_clip_of_each_video_once(
    num_videos: int, clips: int, spread: int
) -> None:
    plan = Plan(0, num_videos, clips, spread)
    for epoch in range(3):
        start = epoch * num_videos * clips
        shown = [plan.clip(start + i) for i in range(num_videos * clips)]
        assert {clip.epoch for clip in shown} == {epoch}
        assert sorted((c.video, c.clip_number) for c in shown) == [
            (video, number) for video in range(num_videos) for number in range(clips)
        ]


@pytest.mark.parametrize(("num_videos", "clips", "spread"), VISITS)
def test_clips_of_a_visit_lie_a_spread_apart(num_videos: int, clips: int, spread: int) -> None:
    plan = Plan(0, num_videos, clips, spread)
    last_seen: dict[int, int] = {}
    for position in range(num_videos * clips):
        video = plan.clip(position).video
        if video in last_seen:
            gap = position - last_seen[video]
            assert min(spread, num_videos) <= gap < 2 * spread or gap == num_videos
        last_seen[video] = position


def test_several_clips_a_visit_worked_by_hand() -> None:
    plan = Plan(7, 10, clips_per_visit=2, spread=4)
    videos = [0, 3, 5, 2, 9, 1, 8, 7, 4, 6]  # the pinned order of one clip a visit
    groups = [videos[:4], videos[:4], videos[4:], videos[4:]]
    assert [plan.clip(position).video for position in range(20)] == list(itertools.chain(*groups))
    numbers = [plan.clip(position).clip_number for position in range(20)]
    assert numbers == 4 * [0] + 4 * [1] + 6 * [0] + 6 * [1]


def test_no_clip_of_several_a_visit_stands_in_twice() -> None:
    plan = Plan(5, 9, clips_per_visit=3, spread=2)
    clips = [clip for position in range(27) for clip in plan.candidates(position)]
    assert len(set(clips)) == 27 * 9


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_nothing_to_plan_is_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one video"):
        Plan(0, *wrong)

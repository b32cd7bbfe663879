"""A clip is a pure function of its position; a bad video costs itself and is never silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctp.data.catalog import open_catalog
from ctp.data.plan import Plan
from ctp.data.quarantine import QuarantineLimitError
from ctp.pretext.batches import Clip
from ctp.pretext.clips import ClipMaker
from ctp.pretext.config import DataConfig, PretrainConfig
from ctp.pretext.pretrain import Pretraining
from ctp.training.maker import local_stream


def same(first: Clip, second: Clip) -> bool:
    return first.video_id == second.video_id and all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("frames", "boxes", "visible", "color")
    )


@pytest.fixture
def maker(small_run: PretrainConfig) -> ClipMaker:
    return Pretraining.of(small_run).train


def test_a_clip_does_not_depend_on_what_was_made_before(maker: ClipMaker) -> None:
    forwards = [maker.at(position)[0] for position in range(24)]
    backwards = [maker.at(position)[0] for position in reversed(range(24))]
    assert all(map(same, forwards, reversed(backwards)))


def test_a_clip_has_the_shapes_it_says(maker: ClipMaker) -> None:
    batch = maker.batch(range(3))
    assert batch["frames"].shape == (3, 4, 32, 32, 3)
    assert batch["frames"].dtype == np.uint8
    assert batch["boxes"].shape == (3, 2, 4, 4)
    assert batch["boxes"].dtype == np.float32
    assert batch["visible"].shape == (3, 2, 4)
    assert batch["color"].shape == (3, 4, 4)
    assert batch["position"].tolist() == [0, 1, 2]


def test_each_epoch_shows_every_training_video_once_and_no_heldout_one(
    small_run: PretrainConfig,
) -> None:
    job = Pretraining.of(small_run)
    wanted = sorted(entry.id for entry in job.train.catalog)
    size = len(wanted)
    for epoch in range(2):
        positions = range(epoch * size, (epoch + 1) * size)
        assert sorted(job.train.at(p)[0].video_id for p in positions) == wanted
    heldout = {entry.id for entry in job.heldout.catalog}
    assert heldout
    assert not heldout & set(wanted)


def test_other_videos_can_be_held_out(small_run: PretrainConfig, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    data = DataConfig(uri="corpus:5", heldout_uri=str(tmp_path), heldout_share=0.5)
    job = Pretraining.of(small_run.replace(data=data))
    assert len(job.train.catalog) == 5
    assert [entry.id for entry in job.heldout.catalog] == ["a.mp4", "b.mp4"]


def test_clips_of_a_video_differ_between_epochs_and_seeds(small_run: PretrainConfig) -> None:
    train = Pretraining.of(small_run).train
    alone = ClipMaker(small_run, type(train.catalog).of(train.catalog[:1]))
    other_seed = ClipMaker(small_run.replace(seed=1), alone.catalog)
    clips = [alone.at(0)[0], alone.at(1)[0], other_seed.at(0)[0]]
    for i, first in enumerate(clips):
        for second in clips[i + 1 :]:
            assert first.video_id == second.video_id
            assert not np.array_equal(first.frames, second.frames)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("cursor", [0, 8])
def test_step_s_is_the_same_clips_for_any_number_of_workers(
    maker: ClipMaker, world: int, cursor: int
) -> None:
    streams = [local_stream(maker, cursor, rank, world) for rank in range(world)]
    for step, shares in enumerate(zip(*streams, strict=True)):
        positions = np.concatenate([share["position"] for share in shares])
        assert positions.tolist() == list(range(cursor + 4 * step, cursor + 4 * step + 4))
    assert cursor + 4 * (step + 1) == maker.total_clips


def test_the_curriculum_goes_from_other_clips_to_the_games_own(
    small_run: PretrainConfig,
) -> None:
    """With no motion and no hiding, a clip's own patch is pasted where it was cut: frame by frame
    nothing changes in the source frame, which another clip's patch does not leave alone."""
    still = small_run.game.replace(hidden_prob=0.0, num_patches=1, max_speed_px_per_frame=0.0)
    changed = []
    for source in ("trajectory", "other_clip"):
        config = small_run.replace(curriculum=None, game=still.replace(patch_source=source))
        other = small_run.replace(game=still)  # with the curriculum
        plain, mixed = Pretraining.of(config).train, Pretraining.of(other).train
        changed.append([same(plain.at(p)[0], mixed.at(p)[0]) for p in range(mixed.total_clips)])
    is_own, is_other = changed
    assert is_other[:7] == [True] * 7  # to 30% of 24 clips
    assert is_own[17:] == [True] * 7  # from 70%
    assert all(own != other for own, other in zip(is_own, is_other, strict=True))
    assert True in is_own[7:17]
    assert True in is_other[7:17]


class TestBadVideos:
    @pytest.fixture
    def folder(self, video_folder: Callable[..., Path]) -> Path:
        """Six good videos and two that are none."""
        return video_folder(good=6, bad=2)

    def maker(self, config: PretrainConfig, folder: Path, share: float) -> ClipMaker:
        data = DataConfig(uri=str(folder), heldout_share=0, max_quarantined_share=share)
        return Pretraining.of(config.replace(data=data)).train

    def test_the_next_good_one_of_the_epoch_stands_in(
        self, small_run: PretrainConfig, folder: Path
    ) -> None:
        maker = self.maker(small_run, folder, share=0.5)
        plan, entries = Plan(small_run.seed, 8), maker.catalog
        seen_rejected = set()
        for position in range(16):
            clip, quarantined = maker.at(position)
            planned = [entries[c.video].id for c in plan.candidates(position)]
            assert clip.video_id == next(name for name in planned if name.startswith("good"))
            seen_rejected |= {entry.video_id for entry in quarantined}
        assert seen_rejected == {"bad0.mp4", "bad1.mp4"}

    def test_a_stand_in_is_a_clip_of_its_own(self, small_run: PretrainConfig, folder: Path) -> None:
        maker = self.maker(small_run, folder, share=0.5)
        clips = [maker.at(position)[0] for position in range(8)]  # an epoch
        pictures = {clip.frames.tobytes() for clip in clips}
        assert len(pictures) == 8

    def test_all_bad_is_an_error_that_says_why(
        self, small_run: PretrainConfig, tmp_path: Path
    ) -> None:
        for i in range(4):
            (tmp_path / f"bad{i}.mp4").write_text("text")
        maker = self.maker(small_run, tmp_path, share=1.0)
        with pytest.raises(QuarantineLimitError, match=r"cannot be used.*bad\d.mp4: cannot be"):
            maker.at(0)

    def test_heldout_clips_have_no_stand_in(self, small_run: PretrainConfig, folder: Path) -> None:
        maker = ClipMaker(small_run, open_catalog(str(folder)))
        clips, quarantined = maker.heldout(range(8))
        assert len(clips) == 6
        assert {entry.video_id for entry in quarantined} == {"bad0.mp4", "bad1.mp4"}
        assert all(r.reason and r.uri.startswith(str(folder)) for r in quarantined)

    def test_a_video_of_one_frame_is_rejected(
        self, small_run: PretrainConfig, tmp_path: Path, encode_video: Callable[..., bytes]
    ) -> None:
        (tmp_path / "one.mp4").write_bytes(encode_video(1))
        (tmp_path / "two.mp4").write_bytes(encode_video(2))
        maker = self.maker(small_run.replace(curriculum=None), tmp_path, share=0.5)
        found = [maker.at(position) for position in range(2)]
        assert {clip.video_id for clip, _ in found} == {"two.mp4"}
        reasons = [entry.reason for _, quarantined in found for entry in quarantined]
        assert "has 1 frame(s), sampling.min_video_frames is 2" in reasons

"""A run small enough to train in a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctp.models.resnet3d import EncoderConfig
from ctp.models.track_head import HeadConfig
from ctp.pretext.config import CurriculumConfig, DataConfig, HealthConfig, PretrainConfig
from ctp.synthesis.config import GameConfig
from ctp.training.checkpoint import CheckpointConfig
from ctp.training.schedule import ScheduleConfig
from ctp.training.step import ComputeConfig
from ctp.video.augment import AugmentConfig
from ctp.video.sampling import SamplingConfig


@pytest.fixture
def small_run(tmp_path: Path) -> PretrainConfig:
    """Six steps of four clips over 15 videos of the corpus, two epochs in all."""
    return PretrainConfig(
        name="run",
        storage=str(tmp_path / "runs"),
        data=DataConfig(uri="corpus:20", heldout_share=0.25),
        sampling=SamplingConfig(num_frames=4, max_interval_frames=2),
        augment=AugmentConfig(frame_size_px=32, short_sides_px=(32, 40)),
        game=GameConfig(num_patches=2, min_box_size_px=8, max_box_size_px=16),
        curriculum=CurriculumConfig(other_clip_until=0.3, own_source_from=0.7),
        encoder=EncoderConfig(width=4, blocks_per_stage=(1, 1, 1, 1)),
        head=HeadConfig(hidden_channels=8),
        schedule=ScheduleConfig(unit="steps", length=6, decay_at=(4,)),
        compute=ComputeConfig(total_batch=4),
        health=HealthConfig(num_clips=6, every_steps=3),
        checkpoint=CheckpointConfig(every_steps=2),
        log_every_steps=3,
    )

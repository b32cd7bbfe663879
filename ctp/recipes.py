"""Recipes: functions that return a complete config."""

from __future__ import annotations

from typing import TypeVar

from ctp.build.config import BuildConfig, TranscodeConfig
from ctp.curation.config import CurateConfig
from ctp.downstream.config import FinetuneConfig, LabeledVideosConfig
from ctp.downstream.embed_config import EmbedConfig, EmbedScalingConfig, FeatureConfig
from ctp.downstream.track_config import TrackConfig
from ctp.encoders.config import EncoderConfig, R2plus1dConfig, R3dConfig
from ctp.pretext.config import EvaluationConfig, PretrainConfig, PretrainVideosConfig
from ctp.pretext.ctp.config import CtpConfig, HeadConfig
from ctp.training.config import (
    CheckpointConfig,
    ComputeConfig,
    OptimizerConfig,
    RunConfig,
    ScalingConfig,
)
from ctp.training.schedule import ScheduleConfig
from ctp.video.config import AugmentConfig, SamplingConfig, ViewsConfig

PAPER_SCALING = ScalingConfig(num_workers=8, use_gpu=True, num_actors=24)
"""The paper's 8 GPUs (§5.1), with three actors for each."""
ONE_GPU = ScalingConfig(num_workers=1, use_gpu=True, num_actors="auto")
"""One GPU, and all CPU cores of the machine."""
ON_GPU = ComputeConfig(precision="bf16")
"""GPUs multiply in bfloat16 several times faster than in float32, as the authors' code does."""
PAPER_R2PLUS1D = R2plus1dConfig(middle_channels="convolution")
"""The paper's R(2+1)D-18, with the authors' 33.17 M weights instead of torchvision's 31.30 M."""
SMALL_ENCODER = R3dConfig(width=8, blocks_per_stage=(1, 1, 1, 1))
SMALL_HEAD = HeadConfig(hidden_channels=64, init="torch", learning_rate_share=0.2)
"""A head whose units live under AdamW, unlike with the authors' initial weights."""


R = TypeVar("R", bound=RunConfig)


def _exact(config: R) -> R:
    """Return a run that computes in float32."""
    return config.replace(compute=config.compute.replace(precision="fp32"))


def tiny() -> PretrainConfig:
    """Two minutes on 2 cores: a small encoder and small clips, on generated videos, by AdamW."""
    return _small_machine(num_videos=240, steps=600, total_batch=16)


def small() -> PretrainConfig:
    """As tiny, for longer and on more videos: half an hour on 2 cores."""
    return _small_machine(num_videos=480, steps=8000, total_batch=16)


def one_gpu() -> PretrainConfig:
    """As ucf101-r3d18, on one GPU and all CPU cores of the machine."""
    return ucf101_r3d18().replace(scaling=ONE_GPU)


def ucf101_r3d18() -> PretrainConfig:
    """The paper's R3D-18 on UCF-101: 300 epochs, 8 GPUs (§5.1)."""
    return _paper(R3dConfig(), "data/ucf101/train", epochs=300, decay_at=(100, 200))


def ucf101_r2plus1d18() -> PretrainConfig:
    """The paper's R(2+1)D-18 on UCF-101: 300 epochs, 8 GPUs (§5.1)."""
    return _paper(PAPER_R2PLUS1D, "data/ucf101/train", epochs=300, decay_at=(100, 200))


def kinetics400_r3d18() -> PretrainConfig:
    """The paper's R3D-18 on Kinetics-400: 90 epochs, 8 GPUs (§5.1)."""
    return _paper(R3dConfig(), "data/kinetics400/train", epochs=90, decay_at=(30, 60))


def kinetics400_r2plus1d18() -> PretrainConfig:
    """The paper's R(2+1)D-18 on Kinetics-400: 90 epochs, 8 GPUs (§5.1)."""
    return _paper(PAPER_R2PLUS1D, "data/kinetics400/train", epochs=90, decay_at=(30, 60))


def ucf101_r3d18_exact() -> PretrainConfig:
    """As ucf101-r3d18, in float32 as the authors' code."""
    return _exact(ucf101_r3d18())


def ucf101_r2plus1d18_exact() -> PretrainConfig:
    """As ucf101-r2plus1d18, in float32 as the authors' code."""
    return _exact(ucf101_r2plus1d18())


def kinetics400_r3d18_exact() -> PretrainConfig:
    """As kinetics400-r3d18, in float32 as the authors' code."""
    return _exact(kinetics400_r3d18())


def kinetics400_r2plus1d18_exact() -> PretrainConfig:
    """As kinetics400-r2plus1d18, in float32 as the authors' code."""
    return _exact(kinetics400_r2plus1d18())


def ucf101_r3d18_official() -> PretrainConfig:
    """As ucf101-r3d18, with the rules of the authors' published code."""
    recipe = ucf101_r3d18()
    return recipe.replace(task=recipe.task.replace(rules="official"))


def ucf101_moco() -> PretrainConfig:
    """MoCo on UCF-101, as re-implemented for Table 4, but with a queue of less than an epoch."""
    recipe = _baseline("moco", ucf101_r3d18())
    return recipe.replace(
        task={"name": "moco", "queue_size": 4096},  # of 9,537 videos
        schedule=recipe.schedule.replace(decay_at=()),
    )


def kinetics400_moco() -> PretrainConfig:
    """MoCo on Kinetics-400, as re-implemented for Table 4."""
    recipe = _baseline("moco", kinetics400_r3d18())
    return recipe.replace(schedule=recipe.schedule.replace(decay_at=()))


def ucf101_rotation() -> PretrainConfig:
    """3DRotNet on UCF-101, as re-implemented for Table 4."""
    return _baseline("rotation", ucf101_r3d18())


def kinetics400_rotation() -> PretrainConfig:
    """3DRotNet on Kinetics-400, as re-implemented for Table 4."""
    return _baseline("rotation", kinetics400_r3d18())


def ucf101_speed() -> PretrainConfig:
    """SpeedNet on UCF-101, as re-implemented for Table 4: seven speeds."""
    return _baseline("speed", ucf101_r3d18())


def kinetics400_speed() -> PretrainConfig:
    """SpeedNet on Kinetics-400, as re-implemented for Table 4: seven speeds."""
    return _baseline("speed", kinetics400_r3d18())


def ucf101_vcop() -> PretrainConfig:
    """VCOP on UCF-101, as re-implemented for Table 4; each clip has its own crop."""
    return _baseline("vcop", ucf101_r3d18(), learning_rate=0.001)


def kinetics400_vcop() -> PretrainConfig:
    """VCOP on Kinetics-400, as re-implemented for Table 4; each clip has its own crop."""
    return _baseline("vcop", kinetics400_r3d18(), learning_rate=0.001)


def ucf101_memdpc() -> PretrainConfig:
    """MemDPC on UCF-101, as re-implemented for Table 4; negatives from the whole batch of 32."""
    recipe = _baseline("memdpc", ucf101_r3d18())
    # many videos, 27% in six of the classes, are shorter than the 121 frames of a sample, and the
    # authors leave them out
    return recipe.replace(data=recipe.data.replace(max_quarantined_share=0.5))


def kinetics400_memdpc() -> PretrainConfig:
    """MemDPC on Kinetics-400, as re-implemented for Table 4; negatives from the whole batch."""
    return _baseline("memdpc", kinetics400_r3d18())


def got10k_r3d18_annotated() -> PretrainConfig:
    """The paper's R3D-18 on the real boxes of GOT-10k, one object a video (§5.2): 300 epochs."""
    recipe = ucf101_r3d18()
    return recipe.replace(
        data=PretrainVideosConfig(uri="data/got10k/train"),
        task=recipe.task.replace(labels="annotated", num_patches=1),
    )


def ucf101_r3d18_kcf() -> PretrainConfig:
    """As ucf101-r3d18, with the boxes of KCF, which the build recipe kcf writes (Table 1)."""
    recipe = ucf101_r3d18()
    return recipe.replace(
        data=PretrainVideosConfig(uri="data/ucf101-kcf/train"),
        task=recipe.task.replace(labels="annotated"),
    )


def ucf101_r3d18_cycle() -> PretrainConfig:
    """As ucf101-r3d18, with labels by cycle consistency for three quarters of the clips (§5.2)."""
    return ucf101_r3d18().replace(task=CtpConfig(labels="cycle"))


def training_shards() -> BuildConfig:
    """Videos encoded for training: small frames, each a key frame (default)."""
    return BuildConfig(transcode=TranscodeConfig())


def compact_shards() -> BuildConfig:
    """As training, as H.264: a third of the bytes, for a slow network; decodes half as fast."""
    return BuildConfig(transcode=TranscodeConfig(codec="h264"))


def original_shards() -> BuildConfig:
    """The original bytes of the videos; slower to load."""
    return BuildConfig(transcode=None)


def kcf_shards() -> BuildConfig:
    """As training, with boxes that the tracker KCF follows, for labels "annotated" (Table 1)."""
    return BuildConfig(transcode=TranscodeConfig(), teacher="kcf")


BUILD = {
    "training": training_shards,
    "compact": compact_shards,
    "original": original_shards,
    "kcf": kcf_shards,
}


def default_curation() -> CurateConfig:
    """Cut at cuts, drop what is damaged, short, small, dark, still, shaky, text or a duplicate."""
    return CurateConfig()


CURATE = {"default": default_curation}


def finetune_ucf101() -> FinetuneConfig:
    """The paper's fine-tuning on UCF-101: 150 epochs, 8 GPUs (supplement A)."""
    return _finetune("data/ucf101")


def finetune_ucf101_exact() -> FinetuneConfig:
    """As ucf101, in float32 as the authors' code."""
    return _exact(finetune_ucf101())


def finetune_one_gpu() -> FinetuneConfig:
    """As ucf101, on one GPU and all CPU cores of the machine."""
    return finetune_ucf101().replace(scaling=ONE_GPU)


def finetune_hmdb51() -> FinetuneConfig:
    """The paper's fine-tuning on HMDB-51: as ucf101 (supplement A)."""
    return _finetune("data/hmdb51")


def finetune_ssv1() -> FinetuneConfig:
    """The paper's fine-tuning on Something-Something-V1: as ucf101, but 32 frames in a row.

    Supplement A.
    """
    return _finetune("data/ssv1").replace(
        sampling=SamplingConfig(num_frames=32, interval_frames=(1, 1))
    )


def finetune_ssv1_official() -> FinetuneConfig:
    """As ssv1, with the settings of the authors' published code: one clip, no flip, 90 epochs."""
    return finetune_ssv1().replace(
        # left and right make classes; the authors stretch no picture of this data set
        augment=AugmentConfig(flip_prob=0, keeps_aspect_ratio=True),
        clips_per_test_video=1,
        schedule=ScheduleConfig(length=90, decay_at=(40, 60, 80), warmup_steps=1000),
    )


def finetune_kinetics400() -> FinetuneConfig:
    """As ucf101, on Kinetics-400, for which the paper gives no settings (supplement C)."""
    return _finetune("data/kinetics400")


def finetune_linear() -> FinetuneConfig:
    """As ucf101 on one GPU, with a frozen encoder: a linear classifier on its features."""
    return finetune_ucf101().replace(protocol="linear", scaling=ONE_GPU)


def finetune_attentive() -> FinetuneConfig:
    """As ucf101 on one GPU, with a frozen encoder: an attentive probe, by V-JEPA's optimiser."""
    return attentive_probe(finetune_ucf101()).replace(scaling=ONE_GPU)


def attentive_probe(config: FinetuneConfig) -> FinetuneConfig:
    """Return a fine-tuning of an attentive probe alone, with the optimiser of V-JEPA's: AdamW, and
    a half cosine without warm-up. Length, clips and test stay those of `config`."""
    return config.replace(
        protocol="attentive",
        optimizer=OptimizerConfig(name="adamw", learning_rate=0.001, weight_decay=0.01),
        schedule=config.schedule.replace(decay_at=(), warmup_steps=0),
    )


def finetune_small() -> FinetuneConfig:
    """A small encoder: minutes on 2 cores, on generated videos of ten classes."""
    return FinetuneConfig(
        # other videos than those that the recipes tiny and small pretrain on
        data=LabeledVideosConfig(uri="corpus:480-960", test_share=0.25),
        # random weights must be of the same encoder as those of a small run
        encoder=SMALL_ENCODER,
        sampling=SamplingConfig(num_frames=8, interval_frames=(1, 2)),
        augment=AugmentConfig(frame_size_px=48, short_sides_px=(48, 56, 64), flip_prob=0.35),
        clips_per_test_video=3,
        optimizer=OptimizerConfig(name="adamw", learning_rate=0.001, weight_decay=0.05),
        schedule=ScheduleConfig(unit="epochs", length=30, decay_at=()),
        compute=ComputeConfig(total_batch=16),
        checkpoint=CheckpointConfig(every_minutes=2),
    )


def _finetune(uri: str) -> FinetuneConfig:
    """Return the paper's fine-tuning (supplement A), which is the default."""
    return FinetuneConfig(
        data=LabeledVideosConfig(uri=f"{uri}/train", test_uri=f"{uri}/test"),
        compute=ON_GPU,
        scaling=PAPER_SCALING,
    )


FINETUNE = {
    "small": finetune_small,
    "one-gpu": finetune_one_gpu,
    "ucf101": finetune_ucf101,
    "ucf101-exact": finetune_ucf101_exact,
    "hmdb51": finetune_hmdb51,
    "ssv1": finetune_ssv1,
    "ssv1-official": finetune_ssv1_official,
    "kinetics400": finetune_kinetics400,
    "linear": finetune_linear,
    "attentive": finetune_attentive,
}

PRETRAIN = {
    "tiny": tiny,
    "small": small,
    "one-gpu": one_gpu,
    "ucf101-r3d18": ucf101_r3d18,
    "ucf101-r2plus1d18": ucf101_r2plus1d18,
    "kinetics400-r3d18": kinetics400_r3d18,
    "kinetics400-r2plus1d18": kinetics400_r2plus1d18,
    "ucf101-r3d18-exact": ucf101_r3d18_exact,
    "ucf101-r2plus1d18-exact": ucf101_r2plus1d18_exact,
    "kinetics400-r3d18-exact": kinetics400_r3d18_exact,
    "kinetics400-r2plus1d18-exact": kinetics400_r2plus1d18_exact,
    "ucf101-r3d18-official": ucf101_r3d18_official,
    "ucf101-r3d18-cycle": ucf101_r3d18_cycle,
    "ucf101-r3d18-kcf": ucf101_r3d18_kcf,
    "got10k-r3d18-annotated": got10k_r3d18_annotated,
    "ucf101-moco": ucf101_moco,
    "kinetics400-moco": kinetics400_moco,
    "ucf101-rotation": ucf101_rotation,
    "kinetics400-rotation": kinetics400_rotation,
    "ucf101-speed": ucf101_speed,
    "kinetics400-speed": kinetics400_speed,
    "ucf101-vcop": ucf101_vcop,
    "kinetics400-vcop": kinetics400_vcop,
    "ucf101-memdpc": ucf101_memdpc,
    "kinetics400-memdpc": kinetics400_memdpc,
}


def _paper(
    encoder: EncoderConfig, uri: str, epochs: int, decay_at: tuple[int, int]
) -> PretrainConfig:
    """Return the paper's pretraining (§5.1), which is the default."""
    return PretrainConfig(
        data=PretrainVideosConfig(uri=uri),  # all of it, as in the paper
        encoder=encoder,
        schedule=ScheduleConfig(unit="epochs", length=epochs, decay_at=decay_at),
        compute=ON_GPU,
        scaling=PAPER_SCALING,
    )


def _baseline(name: str, paper: PretrainConfig, learning_rate: float = 0.01) -> PretrainConfig:
    """Return the pretraining by another task for Table 4 (the authors' implementation)."""
    return paper.replace(
        task={"name": name},  # not its config, which is in a file that imports torch
        encoder=R3dConfig(spatial_stride=16),
        optimizer=paper.optimizer.replace(learning_rate=learning_rate),
    )


def _small_machine(num_videos: int, steps: int, total_batch: int) -> PretrainConfig:
    """Return the paper's task at a size that 2 cores learn in minutes.

    The encoder is narrow, and clips have fewer and smaller frames. The paper's patches are faint,
    so that the loss first stays constant for a long time. These shorten it:

    - the curriculum, fewer and larger patches, and AdamW with a half cosine;
    - `interval_frames` 1: at 3, the background moves as fast as the patches;
    - `inner_key_frame_probs`: with half as many frames, key frames are as far apart as the paper's;
    - `sigma`: with the paper's .8 px almost every error is in the linear part of the Smooth-L1
      loss, and the errors of size outweigh those of position;
    - `SMALL_HEAD`: with the authors' weights, 80 to 98% of its units die under AdamW, and one run
      in five learns nothing.
    """
    return PretrainConfig(
        data=PretrainVideosConfig(uri=f"corpus:{num_videos}", heldout_share=0.15),
        task=CtpConfig(
            sampling=SamplingConfig(num_frames=8, interval_frames=(1, 1)),
            augment=AugmentConfig(frame_size_px=48, short_sides_px=(48, 56, 64)),
            num_patches=2,
            box_size_px=(12, 28),
            inner_key_frame_probs=(0.5, 0.5),
            curriculum=(0.35, 0.65),
            sigma=(8.0, 8.0, 0.4, 0.4),
            head=SMALL_HEAD,
        ),
        encoder=SMALL_ENCODER,
        optimizer=OptimizerConfig(name="adamw", learning_rate=0.002),
        schedule=ScheduleConfig(unit="steps", length=steps, decay_at=(), warmup_steps=100),
        compute=ComputeConfig(total_batch=total_batch),
        evaluation=EvaluationConfig(num_clips=256, every_steps=max(steps // 8, 1)),
        checkpoint=CheckpointConfig(every_minutes=2),
    )


def retrieval_features() -> EmbedConfig:
    """VCOP's retrieval: 10 clips of 16 consecutive frames, max pooling to 2 x 3 x 3 (default).

    The paper's pooling is "adaptive"; that of VCOP's code, which is not, is computed beside it.
    """
    return EmbedConfig(
        views=ViewsConfig(interval_frames=1, keeps_aspect_ratio=False),
        features=FeatureConfig(pooling="both"),
    )


def one_gpu_features() -> EmbedConfig:
    """As retrieval, on one GPU and all CPU cores of the machine."""
    return retrieval_features().replace(
        scaling=EmbedScalingConfig(use_gpu=True, num_readers="auto", cpus_per_encoder=0.5)
    )


def compact_features() -> EmbedConfig:
    """One vector for each clip, the average over time and space, in half precision."""
    return EmbedConfig(features=FeatureConfig(pooling="global", dtype="float16"))


def small_features() -> EmbedConfig:
    """As retrieval, for encoders of the recipes tiny and small: 8 frames of 48 px."""
    return EmbedConfig(
        architecture=SMALL_ENCODER,
        views=ViewsConfig(num_frames=8, interval_frames=1, frame_size_px=48, short_side_px=56),
    )


EMBED = {
    "retrieval": retrieval_features,
    "one-gpu": one_gpu_features,
    "compact": compact_features,
    "small": small_features,
}


def track_got10k() -> TrackConfig:
    """The paper's tracking on GOT-10k: 16 frames, 8 GPUs, all stages trained unless frozen (§4)."""
    return TrackConfig(compute=ON_GPU, scaling=PAPER_SCALING)


def track_got10k_exact() -> TrackConfig:
    """As got10k, in float32 as the authors' code."""
    return _exact(track_got10k())


def track_one_gpu() -> TrackConfig:
    """As got10k, on one GPU and all CPU cores of the machine."""
    return track_got10k().replace(scaling=ONE_GPU)


def track_small() -> TrackConfig:
    """The encoder of the recipe small: minutes on 2 cores, 8 frames of 48 px."""
    return TrackConfig(
        encoder=SMALL_ENCODER,
        head=HeadConfig(hidden_channels=64),
        sampling=SamplingConfig(num_frames=8, interval_frames=(1, 1)),
        augment=AugmentConfig(frame_size_px=48, short_sides_px=(48, 56, 64)),
        optimizer=OptimizerConfig(name="adamw", learning_rate=0.001),
        schedule=ScheduleConfig(unit="steps", length=1000, decay_at=()),
        compute=ComputeConfig(total_batch=16),
        checkpoint=CheckpointConfig(every_minutes=2),
        test_every_steps=200,
    )


TRACK = {
    "got10k": track_got10k,
    "got10k-exact": track_got10k_exact,
    "one-gpu": track_one_gpu,
    "small": track_small,
}

"""The complete config of a run that fine-tunes tracking on annotated videos."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge

from ctp.config import NotAnOption
from ctp.data.sources import Sources
from ctp.downstream.config import DownstreamConfig
from ctp.pretext.ctp.config import LOSS_PARTS, HeadConfig, Sigma
from ctp.score import Score
from ctp.training.config import RunConfig, VideosConfig
from ctp.training.schedule import ScheduleConfig
from ctp.video.config import AugmentConfig

MEAN_IOU = Score("iou", "mIoU", "still_iou", "still box", LOSS_PARTS)
GOT10K_SCORES = (
    Score("ao", "AO", "still_ao", "still box"),
    Score("sr50", "SR.50", "still_sr50", "still box"),
    Score("sr75", "SR.75", "still_sr75", "still box"),
)
"""Average overlap, and success rates at IoU 0.5 and 0.75: the scores of the GOT-10k benchmark."""


class AnnotatedVideosConfig(VideosConfig):
    """The annotated videos to train and to test on."""

    uri: Sources = "data/got10k/train"
    """Videos to train on: shards with boxes, as jobs/build_shards.py --layout got10k makes them; a
    folder (local or s3://), a glob, or several of them."""
    test_uri: Sources = "data/got10k/val"
    """Videos to test on, also shards with boxes."""


class TrackConfig(DownstreamConfig):
    """Tracking of annotated objects (§4, Fig. 3). The paper gives the data, the 16 frames and the
    frozen stages; the rest is as in pretraining."""

    KIND: ClassVar[str] = "track"
    MAY_CHANGE: ClassVar[frozenset[str]] = RunConfig.MAY_CHANGE | {"test_every_steps"}

    data: AnnotatedVideosConfig = AnnotatedVideosConfig()
    """The annotated videos to train and to test on."""
    with_head: bool = False
    """Start the head, too, from the last checkpoint of the run that `initial` names."""
    frozen_stages: Annotated[int, Ge(0)] = 0
    """Stages of the encoder, from its input on, that are not trained (Fig. 3): 0 none and, of r3d
    and r2plus1d, 1 the stem, …, 5 all."""
    head: HeadConfig = HeadConfig()
    """The head that predicts the boxes."""
    sigma: Annotated[Sigma, NotAnOption()] = (0.8, 0.8, 0.04, 0.04)
    """Scales of the targets x, y, w, h (§3.2, Table 9); with `with_head`, those of that run."""
    augment: AugmentConfig = AugmentConfig()
    """How a clip to train on is cropped and varied; it contains the first box if that fits."""
    schedule: ScheduleConfig = ScheduleConfig(length=100, decay_at=(40, 80))
    """Length of the run and decay of its learning rate."""
    test_every_steps: Annotated[int, Ge(1)] = 3000
    """Steps between two tests; there is also one at the end."""

    def describe(self) -> dict[str, str]:
        """Return the facts of the run that a report shows."""
        return {**super().describe(), "frozen stages": str(self.frozen_stages)}

    @property
    def score(self) -> Score:
        """Return the mean IoU."""
        return MEAN_IOU

    @property
    def further_scores(self) -> tuple[Score, ...]:
        """Return the other scores of its test."""
        return GOT10K_SCORES

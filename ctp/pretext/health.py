"""The health of a run: how well it tracks patches in videos that it does not train on (§4)."""

from __future__ import annotations

import torch

from ctp.data.quarantine import QuarantinedVideo
from ctp.pretext.batches import stack
from ctp.pretext.clips import ClipMaker
from ctp.pretext.ctp.metrics import TrackingTally
from ctp.pretext.ctp.tracker import Tracker
from ctp.training.distributed import Worker, gather
from ctp.training.maker import Batch
from ctp.training.step import autocast
from ctp.training.trainer import OpenMaker
from ctp.video.augment import to_input

BATCH = 16


class Health:
    """Tracks held-out clips, shared out among the workers so that each is tracked once."""

    def __init__(self, maker: ClipMaker, worker: Worker, open_maker: OpenMaker):
        self._maker, self._worker, self._open = maker, worker, open_maker
        self._batches: list[Batch] | None = None
        self.quarantined: list[QuarantinedVideo] = []

    @torch.no_grad()
    def look(self, model: Tracker) -> dict[str, float]:
        """Track with the model as it is; every worker must call it.

        Returns:
            `TrackingTally.result` over the clips of all workers, with "heldout_clips", how many
            these are, and "heldout_quarantined", how many were meant to be tracked besides.
        """
        tally, device = TrackingTally(), self._worker.device
        model.eval()
        for batch in self._clips():
            clips = to_input(torch.as_tensor(batch["frames"]).to(device))
            boxes = torch.as_tensor(batch["boxes"]).to(device)
            with autocast(self._maker.config.compute, device):
                predicted = model.track(clips, boxes[:, :, 0])
            tally.add(predicted, boxes, torch.as_tensor(batch["visible"]).to(device))
        model.train()
        tracked = sum(len(batch["frames"]) for batch in self._clips())
        reports = gather((tally.sums, tracked, len(self._numbers()) - tracked))
        tally.sums = torch.stack([sums for sums, _, _ in reports]).sum(dim=0)
        return tally.result() | {
            "heldout_clips": sum(count for _, count, _ in reports),
            "heldout_quarantined": sum(count for _, _, count in reports),
        }

    def _numbers(self) -> range:
        """This worker's share of the clips."""
        wanted = self._maker.config.health.num_clips if len(self._maker.catalog) else 0
        return range(wanted)[self._worker.rank :: self._worker.world]

    def _clips(self) -> list[Batch]:
        """The clips that can be read; made once, kept as uint8."""
        if self._batches is None:
            with self._open(self._maker) as maker:
                clips, self.quarantined = maker.call("heldout", self._numbers())
            self._batches = [stack(clips[i : i + BATCH]) for i in range(0, len(clips), BATCH)]
        return self._batches

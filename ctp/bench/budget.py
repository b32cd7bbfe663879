"""From what a clip costs and how fast a GPU takes it: the cores that a GPU needs, and what limits
a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass

CORES_PER_WORKER = 1
"""What each training worker keeps for itself, beside the actors'."""


@dataclass(frozen=True)
class Budget:
    """A run of some GPUs on some cores.

    Attributes:
        loader: the way in which clips are made.
        cpu_ms_per_clip: milliseconds of a core that a clip takes.
        delivered_ratio: clips that reach the workers, of those that the cores could make alone.
        gpu_clips_per_second: what one GPU takes.
        num_gpus, num_cores: of all machines together.
    """

    loader: str
    cpu_ms_per_clip: float
    delivered_ratio: float
    gpu_clips_per_second: float
    num_gpus: int
    num_cores: int

    @property
    def cores_per_gpu(self) -> float:
        """Cores that make clips for one GPU."""
        return self.gpu_clips_per_second * self.cpu_ms_per_clip / 1e3 / self.delivered_ratio

    @property
    def asked(self) -> float:
        """Clips/s that the GPUs take."""
        return self.num_gpus * self.gpu_clips_per_second

    @property
    def delivered(self) -> float:
        """Clips/s that the cores give, those of the training workers left out."""
        cores = max(self.num_cores - CORES_PER_WORKER * self.num_gpus, 0)
        return cores * self.delivered_ratio * 1e3 / self.cpu_ms_per_clip

    @property
    def is_enough(self) -> bool:
        """Whether the GPUs need not wait."""
        return self.delivered >= self.asked

    def sentence(self) -> str:
        """What limits the run."""
        need = f"a GPU needs {self.cores_per_gpu:.1f} cores that make clips"
        run = f"{self.num_gpus} GPU(s) take {self.asked:,.0f} clips/s"
        given = (
            f"{self.num_cores} cores, {CORES_PER_WORKER} kept for each worker, "
            f"give {self.delivered:,.0f}"
        )
        if self.is_enough:
            return f"{self.loader}: {need}; {run}, {given}: the training step is the limit."
        waiting = 100 * (1 - self.delivered / self.asked)
        return (
            f"{self.loader}: {need}; {run}, {given}: the data are the limit, and the GPUs wait "
            f"{waiting:.0f}% of the time."
        )

    def as_row(self) -> dict[str, object]:
        """All of it, as JSON takes it."""
        return {
            **asdict(self),
            "cores_per_gpu": self.cores_per_gpu,
            "limit": "step" if self.is_enough else "data",
        }

"""The ledger of quarantined videos: those that cannot be used, each with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from ctp.video.encoded import VideoError

MAX_SHOWN = 10
LETHAL = "the process that decoded it"
"""Start of the reason for a video that has ended processes. A resumed run does not try such a video
again, unless its line is deleted from the ledger."""


@dataclass(frozen=True)
class QuarantinedVideo:
    """A video that cannot be used, and why."""

    video_id: str
    uri: str
    reason: str

    @classmethod
    def from_error(cls, error: VideoError) -> QuarantinedVideo:
        """Return the entry of the video that raised `error`."""
        return cls(error.video_id, error.uri, error.reason)

    @property
    def is_lethal(self) -> bool:
        """Return whether the video has ended the processes that decoded it."""
        return self.reason.startswith(LETHAL)


class QuarantineLimitError(RuntimeError):
    """Too many videos of a catalogue cannot be used.

    Attributes:
        quarantined: the videos that were tried.
    """

    def __init__(self, message: str, quarantined: Iterable[QuarantinedVideo] = ()):
        super().__init__(message)
        self.quarantined = tuple(quarantined)


@contextmanager
def collect_errors(quarantined: list[QuarantinedVideo]) -> Iterator[None]:
    """Add the video of a `VideoError` to `quarantined` and continue after the block."""
    try:
        yield
    except VideoError as error:
        quarantined.append(QuarantinedVideo.from_error(error))


def format_quarantined(quarantined: Sequence[QuarantinedVideo], uri: str) -> str:
    """Return a line for each of the first videos, and how many more the file `uri` lists."""
    lines = [f"  {entry.video_id}: {entry.reason}" for entry in quarantined[:MAX_SHOWN]]
    if len(quarantined) > MAX_SHOWN:
        lines.append(f"  and {len(quarantined) - MAX_SHOWN} more, all listed in {uri}")
    return "\n".join(lines)


class QuarantineLedger:
    """Quarantined videos, each once, with the first reason that was seen."""

    def __init__(self, entries: Iterable[QuarantinedVideo] = ()):
        self._entries: dict[str, QuarantinedVideo] = {}
        self.add(entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[QuarantinedVideo]:
        return iter(self._entries.values())

    def add(self, entries: Iterable[QuarantinedVideo]) -> bool:
        """Add entries and return whether any was new."""
        before = len(self)
        for entry in entries:
            self._entries.setdefault(entry.video_id, entry)
        return len(self) > before

    def check(self, num_videos: int, max_share: float) -> None:
        """Check that few enough videos are quarantined.

        Raises:
            QuarantineLimitError: more than `max_share` of `num_videos` are.
        """
        if len(self) > max_share * num_videos:
            examples = "; ".join(f"{e.video_id}: {e.reason}" for e in list(self)[:3])
            raise QuarantineLimitError(
                f"{len(self)} of {num_videos} videos cannot be used, more than "
                f"data.max_quarantined_share = {max_share:g} allows ({examples}). Repair them or "
                "raise the share; quarantine.jsonl in the run folder lists them all"
            )

    def to_jsonl(self) -> bytes:
        """Return one JSON object a line: video_id, uri, reason."""
        return b"".join(json.dumps(asdict(entry)).encode() + b"\n" for entry in self)

    @classmethod
    def from_jsonl(cls, data: bytes) -> QuarantineLedger:
        """Read what `to_jsonl` wrote."""
        return cls(QuarantinedVideo(**json.loads(line)) for line in data.splitlines())

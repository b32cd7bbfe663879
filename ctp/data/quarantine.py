"""The ledger of videos that could not be used: never silent, never in the way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from ctp.video.encoded import VideoError

SHOWN = 10


@dataclass(frozen=True)
class QuarantinedVideo:
    """A video that could not be used, and why."""

    video_id: str
    uri: str
    reason: str

    @classmethod
    def from_error(cls, error: VideoError) -> QuarantinedVideo:
        """The entry for a video that raised `error`."""
        return cls(error.video_id, error.uri, error.reason)


def format_quarantined(quarantined: Sequence[QuarantinedVideo], where: str) -> str:
    """The first of them, a line each, and how many more there are in the file `where`."""
    lines = [f"  {entry.video_id}: {entry.reason}" for entry in quarantined[:SHOWN]]
    if len(quarantined) > SHOWN:
        lines.append(f"  and {len(quarantined) - SHOWN} more, all in {where}")
    return "\n".join(lines)


class QuarantineLimitError(RuntimeError):
    """Too many videos of a catalogue cannot be used.

    Attributes:
        quarantined: those met on the way to finding out.
    """

    def __init__(self, message: str, quarantined: Iterable[QuarantinedVideo] = ()):
        super().__init__(message)
        self.quarantined = tuple(quarantined)


class QuarantineLedger:
    """QuarantinedVideo videos, each once, under the first reason that was seen for it."""

    def __init__(self, entries: Iterable[QuarantinedVideo] = ()):
        self._entries: dict[str, QuarantinedVideo] = {}
        self.add(entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[QuarantinedVideo]:
        return iter(self._entries.values())

    def add(self, entries: Iterable[QuarantinedVideo]) -> bool:
        """Take in entries; say whether any was new."""
        before = len(self)
        for entry in entries:
            self._entries.setdefault(entry.video_id, entry)
        return len(self) > before

    def check(self, num_videos: int, max_share: float) -> None:
        """Stop the run when too many videos are bad.

        Raises:
            QuarantineLimitError: more than `max_share` of `num_videos` are in the ledger.
        """
        if len(self) > max_share * num_videos:
            examples = "; ".join(f"{e.video_id}: {e.reason}" for e in list(self)[:3])
            raise QuarantineLimitError(
                f"{len(self)} of {num_videos} videos cannot be used, more than "
                f"data.max_quarantined_share = {max_share:g} allows ({examples}). Mend them, or "
                "raise the share; quarantine.jsonl in the run folder lists them all"
            )

    def to_jsonl(self) -> bytes:
        """One JSON object a line: video_id, uri, reason."""
        return b"".join(json.dumps(asdict(entry)).encode() + b"\n" for entry in self)

    @classmethod
    def from_jsonl(cls, data: bytes) -> QuarantineLedger:
        """The inverse of `to_jsonl`."""
        return cls(QuarantinedVideo(**json.loads(line)) for line in data.splitlines())

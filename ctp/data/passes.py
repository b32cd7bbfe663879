"""The sources of a run, and how many clips of each video a pass shows."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.compute as pc

from ctp.data.catalog import Catalog
from ctp.data.plan import ClipCounts, Source, whole_weights
from ctp.data.sources import source_rows


def plan_sources(
    catalog: Catalog,
    uri: str | Sequence[str],
    mix: Sequence[float] = (),
    span_frames: int | None = None,
) -> tuple[Source, ...]:
    """Return the sources that have passes of their own: those that `mix` weights, or one of all.

    Args:
        catalog: videos of `open_catalog(uri)`, all or some.
        uri: the sources.
        mix: a weight above 0 for each of them; none: they are one.
        span_frames: show each video as often as clips of so many frames fit into it; None: once.

    Raises:
        ValueError: a source of a mix has no videos or is within another, or the number of frames
            of a video is unknown.
    """
    if not mix:
        ranges, names, weights = [range(len(catalog))], ["all"], [1]
    else:
        names = [uri] if isinstance(uri, str) else list(uri)
        ranges, weights = source_rows(catalog, names), whole_weights(mix)
    return tuple(
        Source(name, rows.start, len(rows), _counts(catalog, rows, span_frames), weight)
        for name, rows, weight in zip(names, ranges, weights, strict=True)
    )


def _counts(catalog: Catalog, rows: range, span_frames: int | None) -> ClipCounts | None:
    if span_frames is None:
        return None
    some = catalog.columns.slice(rows.start, len(rows))
    num_frames = some["num_frames"]
    if num_frames.null_count:
        unknown = some["id"].filter(pc.is_null(num_frames))
        raise ValueError(
            "data.clips_per_video by_duration needs the number of frames of each video, which "
            f"only shards record: it is unknown for {len(unknown)} of {len(some)} videos, e.g. "
            f"{unknown[0].as_py()!r}. Build shards of them with jobs/build_shards.py or "
            "jobs/curate.py, or give --data.clips_per_video one"
        )
    return ClipCounts.by_duration(num_frames.to_numpy(), span_frames)

"""A curation from its command line to its shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctp.data.sources import open_catalog

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


def test_a_finished_curation_is_not_repeated(
    load_job: Callable[[str], Any],
    video_folder: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "curated"
    options = [
        *("--source", str(video_folder(good=5, bad=1)), "--out", str(out)),
        *("--cuts.detector", "off", "--rules.min_seconds", "0.2"),
        *("--rules.min_short_side_px", "none", "--rules.max_hash_distance", "none"),
    ]
    job = load_job("curate")
    job.main(options)
    printed = capsys.readouterr().out
    assert "5 segments, 5 kept" in printed
    assert "1 quarantined" in printed
    assert "bad0.mp4" in printed
    assert len(open_catalog(str(out))) == 5
    (shard,) = out.glob("shard-*.parquet")
    first = shard.stat().st_mtime_ns
    job.main(options)
    assert shard.stat().st_mtime_ns == first
    with pytest.raises(SystemExit, match=r"shards of other rules.*min_seconds"):
        job.main([*options, "--rules.min_seconds", "0.3"])

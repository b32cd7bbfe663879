"""What a user reads."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ctp.progress import Progress, VideoCounter, bottleneck, duration

ROW = {
    "step": 20, "total_steps": 100, "loss": 3.5, "loss_center": 3.0, "loss_size": 0.5,
    "clips_per_second": 80.0, "wait_share": 0.25, "worker_memory_gib": 1.2, "quarantined": 0,
}  # fmt: skip


def shown(*rows: dict[str, float], terminal: bool = False) -> str:
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=terminal, width=200)) as progress:
        for row in rows:
            progress.show(row)
    return out.getvalue()


def test_a_plain_line_has_all_there_is_to_say() -> None:
    health = {"iou": 0.61, "still_iou": 0.5, "quarantined": 2}
    assert shown(ROW | health).strip() == (
        "step 20/100 · loss 3.500 (centre 3.000, size 0.500) · IoU 0.610 (still 0.500) · "
        "80.0 clips/s · waiting for data 25% · 1.2 GiB · 2 quarantined"
    )


def test_plain_lines_are_few_but_the_last_is_shown() -> None:
    lines = shown(*(ROW | {"step": step} for step in range(1, 101))).splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["step 1/100", "step 100/100"]


def test_a_terminal_shows_a_bar() -> None:
    assert "20/100" in shown(ROW, terminal=True)


def test_videos_are_counted_in_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with VideoCounter(10) as counter:
        for number in (4, 1, 1, 0, 4):
            counter.add(number)
    assert capsys.readouterr().out.splitlines() == ["4/10 videos", "10/10 videos · 0 s left"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(5, "5 s"), (89, "89 s"), (600, "10 min"), (3 * 3600 + 1200, "3 h 20 min"),
     (2 * 86400 + 4 * 3600, "2 d 4 h")],
)  # fmt: skip
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_bottleneck_is_named() -> None:
    starting = ROW | {"wait_share": 0.99}
    assert "Bottleneck: the data (80.0 clips/s, 60%" in bottleneck(
        [starting, ROW | {"wait_share": 0.6}]
    )
    assert "Bottleneck: the training step (80.0 clips/s, 10%" in bottleneck(
        [starting, ROW | {"wait_share": 0.1}]
    )
    assert "too short" in bottleneck([])

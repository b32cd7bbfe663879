"""What a run and a build print."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ctp.progress import Progress, VideoCounter, bottleneck, duration, learning_warning
from ctp.score import Score

SCORE = Score("iou", "tracking IoU", "still_iou", "still box", ("loss_center", "loss_size"))
ROW = {
    "step": 20, "clips": 320, "total_steps": 100, "loss": 3.5, "loss_center": 3.0, "loss_size": 0.5,
    "clips_per_second": 80.0, "wait_share": 0.25, "worker_memory_gib": 1.2, "quarantined": 0,
}  # fmt: skip


def shown(*rows: dict[str, float], terminal: bool = False) -> str:
    """Return what `Progress` prints for some log lines."""
    out = io.StringIO()
    with Progress(SCORE, Console(file=out, force_terminal=terminal, width=200)) as progress:
        for row in rows:
            progress.show(row)
    return out.getvalue()


def test_a_plain_line_has_step_loss_score_speed_and_memory() -> None:
    scores = {"iou": 0.61, "still_iou": 0.5, "quarantined": 2}
    parts = shown(ROW | scores).strip().split(" · ")
    assert parts == [
        "step 20/100",
        "loss 3.500 (center 3.000, size 0.500)",
        "tracking IoU 0.610 (still box 0.500)",
        "80.0 clips/s",
        "waiting for data 25%",
        "1.2 GiB",
        "2 quarantined",
    ]


def test_a_classifier_shows_its_accuracy_on_training_clips() -> None:
    out = io.StringIO()
    with Progress(Score("top1", "top-1", is_percent=True), Console(file=out)) as progress:
        progress.show(ROW | {"train_top1": 0.25})
    assert "loss 3.500 · training top-1 25.0%" in out.getvalue()


def test_the_last_score_stays_in_the_line() -> None:
    lines = shown(ROW | {"iou": 0.61}, ROW | {"step": 100}).splitlines()
    assert all("tracking IoU 0.610" in line for line in lines)


def test_plain_lines_are_rare_but_the_first_and_the_last_are_printed() -> None:
    lines = shown(*(ROW | {"step": step} for step in range(1, 101))).splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["step 1/100", "step 100/100"]


def test_a_terminal_shows_a_bar() -> None:
    assert "20/100" in shown(ROW, terminal=True)


def test_videos_are_counted_in_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with VideoCounter(10) as counter:
        for number in (4, 1, 1, 0, 4):
            counter.add(number)
    assert capsys.readouterr().out.splitlines() == ["4/10 videos", "10/10 videos · 0 s left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5 s"), (89, "89 s"), (600, "10 min"), (3 * 3600 + 1200, "3 h 20 min"),
     (2 * 86400 + 4 * 3600, "2 d 4 h")],
)  # fmt: skip
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("wait_share", "limit", "percent"), [(0.6, "the data", "60%"), (0.1, "training step", "10%")]
)
def test_the_bottleneck_is_found_after_the_start(
    wait_share: float, limit: str, percent: str
) -> None:
    starting = ROW | {"wait_share": 0.99}
    text = bottleneck([starting, ROW | {"wait_share": wait_share}])
    assert limit in text
    assert "80.0 clips/s" in text
    assert percent in text


@pytest.mark.parametrize("what", ["start", "evaluation"])
def test_what_took_longer_than_training_is_named(what: str) -> None:
    rows = [ROW | {"step": step, "clips": 16 * step} for step in (20, 40)]
    # 640 clips at 80 clips/s take 8 s
    assert "the training step (80.0" in bottleneck([rows[0] | {f"{what}_seconds": 7.9}, rows[1]])
    text = bottleneck([rows[0] | {f"{what}_seconds": 5}, rows[1] | {f"{what}_seconds": 3.1}])
    assert f"Bottleneck: the {what}, 8 s beside 8 s of training" in text


def test_an_evaluation_does_not_make_the_time_left_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 1 s, and an evaluation of 30 s at every 10th step from the 11th on."""
    now = 0.0
    monkeypatch.setattr("ctp.progress.time.monotonic", lambda: now)
    out = io.StringIO()
    with Progress(SCORE, Console(file=out, width=200)) as progress:
        for step in range(1, 32):
            is_evaluated = step % 10 == 1 and step > 1
            now += 31 if is_evaluated else 1
            scores = {"iou": 0.6, "evaluation_seconds": 30.0} if is_evaluated else {}
            progress.show(ROW | {"step": step} | scores)
    left = {
        int(line.partition("/")[0].removeprefix("step ")): line.rpartition(" · ")[2]
        for line in out.getvalue().splitlines()
    }
    # 4 s a step from the first evaluation on
    assert left[11] == f"{duration(4 * 89)} left"
    assert left[21] == f"{duration(4 * 79)} left"
    assert left[31] == f"{duration(4 * 69)} left"


@pytest.mark.parametrize("repeated", [10, 20])
def test_workers_that_restart_may_repeat_evaluations(repeated: int) -> None:
    scores = {"iou": 0.6, "evaluation_seconds": 30.0}
    steps = (20, True), (30, False), (repeated, True), (30, False), (100, False)
    lines = shown(*(ROW | {"step": step} | (scores if is_due else {}) for step, is_due in steps))
    assert lines.splitlines()[-1].endswith(" · 0 s left")


def test_a_run_without_log_lines_has_no_bottleneck() -> None:
    assert "too short" in bottleneck([])
    assert "too short" in bottleneck([ROW], first_clip=int(ROW["clips"]))


def test_what_was_before_a_resumed_run_is_not_its_bottleneck() -> None:
    """160 clips at 80 clips/s take 2 s, less than the start; all 480 would take longer."""
    rows = [ROW | {"clips": 320}, ROW | {"clips": 400, "start_seconds": 3.0}, ROW | {"clips": 480}]
    assert "the training step" in bottleneck(rows)
    assert "the start" in bottleneck(rows, first_clip=320)


WELL = ROW | {"iou": 0.6, "still_iou": 0.5, "effective_rank": 4.0, "dead_unit_share": 0.2}


@pytest.mark.parametrize(
    ("changes", "progress", "cause"),
    [
        ({}, 1.0, ""),
        ({"iou": 0.505}, 0.5, "plateau"),
        ({"iou": 0.4}, 1.0, "plateau"),
        ({"iou": 0.505}, 0.4, ""),
        ({"effective_rank": 1.01}, 0.1, "collapsed"),
        ({"effective_rank": 1.01, "iou": 0.4}, 0.9, "collapsed"),
        ({"dead_unit_share": 0.98, "iou": 0.505}, 0.1, "98% of the units"),
        ({"dead_unit_share": 0.98}, 0.9, ""),
    ],
)
def test_a_run_that_does_not_learn_says_why(
    changes: dict[str, float], progress: float, cause: str
) -> None:
    warning = learning_warning(WELL | changes, SCORE, progress)
    assert cause in warning
    assert bool(warning) == bool(cause)
    assert "\n" not in warning


def test_a_line_without_an_evaluation_gives_no_warning() -> None:
    assert not learning_warning(ROW, SCORE)


def test_a_score_without_a_baseline_has_no_plateau() -> None:
    assert not learning_warning(WELL | {"iou": 0.0}, Score("iou", "IoU"))


def test_a_warning_is_printed_once_before_the_end() -> None:
    stuck = WELL | {"iou": 0.5}
    rows = [stuck | {"step": step} for step in (40, 60, 80, 100)]
    assert shown(*rows).count("plateau") == 1

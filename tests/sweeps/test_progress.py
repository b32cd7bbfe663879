"""The progress of a running sweep."""

from __future__ import annotations

import pytest

from ctp.sweeps.progress import ProgressPrinter, SweepProgress, TrialProgress


def test_a_line_has_the_counts_the_time_left_and_the_running_trials() -> None:
    progress = SweepProgress(8, {"a": "finished", "b": "failed"}, started=0.0)
    assert progress.line(now=60.0) == "1 finished, 1 failed of 8 trials"
    progress.ended |= {"c": "finished", "d": "finished"}
    progress.running["e"] = TrialProgress("pretrain", 30, 300, "tracking IoU 0.512")
    # two in 100 s, four are left
    assert progress.line(now=100.0) == (
        "3 finished, 1 failed of 8 trials · 3 min left · e: pretrain 30/300 tracking IoU 0.512"
    )


def test_a_phase_without_steps() -> None:
    assert str(TrialProgress("retrieval")) == "retrieval"


def test_a_line_is_printed_when_a_trial_ends(capsys: pytest.CaptureFixture[str]) -> None:
    progress, show = SweepProgress(2, {}), ProgressPrinter(every_seconds=1e9)
    for _ in range(3):
        show(progress)
    progress.ended["a"] = "finished"
    show(progress)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" · ")[0] for line in lines] == [
        "0 finished of 2 trials", "1 finished of 2 trials",
    ]  # fmt: skip

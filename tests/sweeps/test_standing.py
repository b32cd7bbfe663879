"""How a sweep that goes on is told of."""

from __future__ import annotations

import pytest

from ctp.sweeps.standing import Lines, Running, Standing


def test_a_line_tells_what_runs_and_how_long_it_will_take() -> None:
    standing = Standing(8, {"a": "finished", "b": "failed"}, began=0.0)
    assert standing.line(now=60.0) == "1 finished, 1 failed of 8 trials"
    standing.ended |= {"c": "finished", "d": "finished"}
    row = {"step": 30, "total_steps": 300, "iou": 0.51234, "loss": 9.0}
    standing.running["e"] = Running.of("pretrain", row)
    # two here in 100 s, four are left
    assert standing.line(now=100.0) == (
        "3 finished, 1 failed of 8 trials · e: pretrain 30/300 IoU 0.512 · 3 min left"
    )


def test_a_phase_without_steps() -> None:
    assert str(Running.of("retrieval", {})) == "retrieval"
    assert str(Running.of("linear", {"step": 1, "total_steps": 2, "top1": 0.25})) == (
        "linear 1/2 top-1 25.0%"
    )


def test_lines_come_when_a_trial_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    standing, lines = Standing(2, {}), Lines(every_seconds=1e9)
    for _ in range(3):
        lines(standing)
    standing.ended["a"] = "finished"
    lines(standing)
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(" · ")[0] for line in told] == [
        "0 finished of 2 trials", "1 finished of 2 trials",
    ]  # fmt: skip

"""A sweep in a notebook, in outputs that are updated in place."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from ctp.report.page import Table
from ctp.storage import Storage, StorageError
from ctp.sweeps.folder import SWEEP, Sweep, read_sweep, state_of
from ctp.sweeps.plan import Plan
from ctp.sweeps.plot import plot_png
from ctp.sweeps.progress import ShowProgress, SweepProgress, TrialProgress
from ctp.sweeps.table import rows_markdown, summary

try:
    from IPython.display import DisplayHandle, display
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "ctp.sweeps.live is for notebooks, and IPython is not installed here. pip install "
        "-e '.[notebook]'"
    ) from error

BAR_CHARS = 12
SHOW_SECONDS = 1.0
FOLLOW_SECONDS = 10.0


class StoppedError(KeyboardInterrupt):
    """The kernel was interrupted; a notebook shows the message without a traceback."""

    def _render_traceback_(self) -> list[str]:  # called by IPython
        return [str(self)]


@contextmanager
def live_progress(plan: Plan, every_seconds: float = SHOW_SECONDS) -> Iterator[ShowProgress]:
    """Show a sweep that runs in this notebook: its trials and its table so far; at the end, the
    whole table.

    Args:
        plan: of the sweep.
        every_seconds: shortest time between two updates, except when a trial ends.

    Raises:
        StoppedError: the kernel was interrupted.
    """
    output, table = _Output(), ""
    num_ended, shown = -1, float("-inf")

    def show(progress: SweepProgress) -> None:
        nonlocal table, num_ended, shown
        now, is_news = time.monotonic(), len(progress.ended) != num_ended
        if not is_news and now - shown < every_seconds:
            return
        if is_news:
            with suppress(StorageError):  # the sweep continues, and the table comes later
                table, num_ended = rows_markdown(state_of(plan)), len(progress.ended)
        shown = now
        output.show("text/markdown", _stacked(progress_markdown(progress, now), table))

    with _interruptible("stopped; run this cell again to resume"):
        yield show
        sweep = state_of(plan)
        output.show("text/markdown", _stacked(f"**{summary(sweep)}**", rows_markdown(sweep)))


def follow(
    uri: str, is_over: Callable[[], bool] | None = None, every_seconds: float = FOLLOW_SECONDS
) -> Sweep:
    """Show a sweep that runs elsewhere until it has ended: its progress, table and plot.

    Args:
        uri: its folder.
        is_over: returns whether the process that runs the sweep, such as a submitted job, has
            ended; None: the sweep has ended when all its trials have.
        every_seconds: time between two updates.

    Returns:
        the sweep at its end.

    Raises:
        ValueError: the folder contains no sweep.
        StorageError: it cannot be read.
        StoppedError: the kernel was interrupted.
    """
    text, picture, num_drawn = _Output(), _Output(), -1
    with _interruptible("no longer followed; the sweep continues where it runs"):
        while is_over and not is_over() and not Storage.from_uri(uri).join(SWEEP).exists():
            text.show("text/markdown", f"{uri} does not exist yet, {_as_of_now()}")
            time.sleep(every_seconds)
        while True:
            ends = is_over is not None and is_over()  # first, so that the last results are read
            sweep = read_sweep(uri)
            text.show("text/markdown", sweep_markdown(sweep))
            if len(sweep.results) != num_drawn:
                num_drawn = len(sweep.results)
                picture.show("image/png", base64.b64encode(plot_png(sweep)).decode())
            if ends or (is_over is None and len(sweep.results) == len(sweep.plan.trials)):
                return sweep
            time.sleep(every_seconds)


def progress_markdown(progress: SweepProgress, now: float) -> str:
    """Return the progress of a sweep that runs here, with a row for each running trial."""
    rows = [
        {"trial": name, "phase": t.phase, "steps": f"{bar(t)} {t.steps}".strip(), "score": t.score}
        for name, t in progress.running.items()
    ]
    return _stacked(f"**{progress.summary(now)}**", Table(rows).markdown() if rows else "")


def sweep_markdown(sweep: Sweep) -> str:
    """Return the state of a sweep that runs elsewhere, its unfinished trials and its table."""
    rows = [{"trial": name, "steps": str(n)} for name, n in sweep.steps.items() if n]
    title = f"**{summary(sweep)}** · {sweep.plan.folder.uri}, {_as_of_now()}"
    return _stacked(title, Table(rows).markdown() if rows else "", rows_markdown(sweep))


def bar(trial: TrialProgress) -> str:
    """Return the progress of a run as a bar; "" before its first log line."""
    if not trial.total_steps:
        return ""
    full = round(BAR_CHARS * trial.step / trial.total_steps)
    return "▰" * full + "▱" * (BAR_CHARS - full)


class _Output:
    """An output of a cell, which shows only what came last."""

    def __init__(self) -> None:
        self._handle: DisplayHandle | None = None

    def show(self, kind: str, content: str) -> None:
        """Show content of a MIME type in place of what was shown."""
        bundle = {kind: content}
        if self._handle is None:
            # by its handle, the output is updated in place later
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)  # type: ignore[no-untyped-call]


@contextmanager
def _interruptible(message: str) -> Iterator[None]:
    """Raise `StoppedError` when the kernel is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        # a traceback through this code would hide the message
        raise StoppedError(message) from None


def _stacked(*parts: str) -> str:
    return "\n\n".join(filter(None, parts))


def _as_of_now() -> str:
    return f"as of {datetime.now():%H:%M:%S}"

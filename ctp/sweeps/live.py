"""A sweep in a notebook, in displays that are updated in place: one that runs here, and one that
runs elsewhere, by its folder."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime

from ctp.report.page import Row, Table, markdown_of
from ctp.storage import Storage, StorageError
from ctp.sweeps.folder import SWEEP, Sweep, TrialResult, read_sweep, state_of
from ctp.sweeps.plan import Plan
from ctp.sweeps.plot import plot_png
from ctp.sweeps.standing import Running, Show, Standing
from ctp.sweeps.table import rows_markdown, told

try:
    from IPython.display import DisplayHandle, display
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "ctp.sweeps.live is for notebooks, and IPython is not installed here. pip install "
        "-e '.[notebook]'"
    ) from error

BAR = 12
"""Characters of a bar."""
SHOWN_SECONDS = 1.0
FOLLOWED_SECONDS = 10.0


@contextmanager
def board(plan: Plan, every_seconds: float = SHOWN_SECONDS) -> Iterator[Show]:
    """What shows how a sweep that runs here stands: what its trials are at, and its table so far;
    at the end, the whole table.

    Args:
        plan: of the sweep.
        every_seconds: it is shown so often at most, besides when a trial ends.

    Raises:
        StoppedError: the kernel was interrupted.
    """
    here = _Board(plan, every_seconds)
    with _told_in_a_line("stopped; run this cell again to go on"):
        yield here
        here.end()


def follow(
    uri: str, is_over: Callable[[], bool] | None = None, every_seconds: float = FOLLOWED_SECONDS
) -> Sweep:
    """Show a sweep that runs elsewhere until it has ended: how far it is, its table, its plot.

    Args:
        uri: its folder.
        is_over: whether what runs it has come to an end, as a submitted job, which need not have
            begun; none: it has when all its trials have.
        every_seconds: it is looked at so often.

    Returns:
        The sweep at its end.

    Raises:
        ValueError: it is no folder of a sweep.
        StorageError: it cannot be read.
        StoppedError: the kernel was interrupted.
    """
    text, picture = _Place(), _Place()
    drawn: Mapping[str, TrialResult] = {}
    with _told_in_a_line("not followed any more; it goes on where it runs"):
        while is_over and not is_over() and not Storage.of(uri).join(SWEEP).exists():
            text.show("text/markdown", f"{uri} is not there yet, {_as_of_now()}")
            time.sleep(every_seconds)
        while True:
            ends = is_over is not None and is_over()  # asked first: what came last is then read
            sweep = read_sweep(uri)
            text.show("text/markdown", sweep_markdown(sweep))
            if sweep.results != drawn:
                drawn = sweep.results
                picture.show("image/png", base64.b64encode(plot_png(sweep)).decode())
            if ends or (is_over is None and len(sweep.results) == len(sweep.plan.trials)):
                return sweep
            time.sleep(every_seconds)


class StoppedError(KeyboardInterrupt):
    """The kernel was interrupted; a notebook shows a line of it and no traceback."""

    def _render_traceback_(self) -> list[str]:  # which IPython asks for
        return [str(self)]


def standing_markdown(standing: Standing, now: float) -> str:
    """How a sweep stands that runs here, and what its trials are at.

    Args:
        standing: how it does.
        now: of `time.monotonic`.
    """
    head = " · ".join(filter(None, (f"**{standing.counts}**", standing.left(now))))
    rows = [
        (name, at.phase, f"{bar(at)} {at.steps}", at.score) for name, at in standing.running.items()
    ]
    return _below(head, _table(("trial", "at", "steps", "score"), rows))


def sweep_markdown(sweep: Sweep) -> str:
    """How far a sweep is that runs elsewhere, its trials that have begun and not ended, and its
    table."""
    rows = [(name, str(steps)) for name, steps in sweep.steps.items() if steps]
    head = f"**{told(sweep)}** · {sweep.plan.folder.uri}, {_as_of_now()}"
    return _below(head, _table(("trial", "steps of pretraining"), rows), rows_markdown(sweep))


def bar(at: Running) -> str:
    """How far a run is, as a bar; nothing before its first log line."""
    full = round(BAR * at.step / at.total_steps) if at.total_steps else 0
    return "▰" * full + "▱" * (BAR - full) if at.total_steps else ""


class _Board:
    """A `Show`."""

    def __init__(self, plan: Plan, every_seconds: float):
        self._plan, self._every, self._place = plan, every_seconds, _Place()
        self._rows, self._ended, self._shown = "", -1, float("-inf")

    def __call__(self, standing: Standing) -> None:
        now, ended = time.monotonic(), len(standing.ended)
        if ended == self._ended and now - self._shown < self._every:
            return
        if ended != self._ended:
            with suppress(StorageError):  # the sweep goes on, and the rows come next time
                self._rows, self._ended = rows_markdown(state_of(self._plan)), ended
        self._shown = now
        self._place.show("text/markdown", _below(standing_markdown(standing, now), self._rows))

    def end(self) -> None:
        """Show what came of it."""
        sweep = state_of(self._plan)
        self._place.show("text/markdown", _below(f"**{told(sweep)}**", rows_markdown(sweep)))


class _Place:
    """A place in a notebook's output, which shows what came last."""

    def __init__(self) -> None:
        self._handle: DisplayHandle | None = None

    def show(self, kind: str, content: str) -> None:
        bundle = {kind: content}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)  # type: ignore[no-untyped-call]


@contextmanager
def _told_in_a_line(told: str) -> Iterator[None]:
    """An interrupt of the kernel is."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(told) from None


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_of(Table(head, [Row(row) for row in rows])) if rows else ""


def _below(*parts: str) -> str:
    """One below the other, those that are not empty."""
    return "\n\n".join(filter(None, parts))


def _as_of_now() -> str:
    return f"as of {datetime.now():%H:%M:%S}"

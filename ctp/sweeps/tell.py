"""Writing what a sweep came to."""

from __future__ import annotations

from ctp.sweeps.folder import PLOT, ROWS, TABLE, Sweep
from ctp.sweeps.plot import plot_png
from ctp.sweeps.table import table_csv, table_markdown


def write_tables(sweep: Sweep) -> None:
    """Write table.md, table.csv and plot.png into the sweep's folder.

    Raises:
        StorageError: they cannot be written.
    """
    folder = sweep.plan.folder
    folder.join(TABLE).write_bytes(table_markdown(sweep).encode())
    folder.join(ROWS).write_bytes(table_csv(sweep).encode())
    folder.join(PLOT).write_bytes(plot_png(sweep))

"""A CSV file that grows by rows, survives a stop, and can be cut back to a step."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from robustreg.files import PathLike, write_text_atomic

Cell = int | float | str | None


class Table:
    """Appends rows to a CSV file; the first row's keys are its columns.

    Numbers are written so that reading them back gives the same bits; None and NaN leave the cell empty.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self._columns: list[str] = []
        self._stream: TextIO | None = None

    def begin(self, step: int) -> None:
        """Open the file for the rows after `step`, dropping later ones (an earlier run got further)."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = read_rows(self.path) if step > 0 and self.path.exists() else []
        # A row that a crash cut short has no readable step, or lacks its last cells.
        kept = [row for row in rows if row.get("step", "").isdecimal() and None not in row.values()]
        kept = [row for row in kept if int(row["step"]) <= step]
        self._columns = list(kept[0]) if kept else []
        self._rewrite(kept)

    def append(self, row: Mapping[str, Cell]) -> None:
        """Add one row; a key not seen before adds a column, empty in the rows above."""
        if self._stream is None:
            self.begin(0)
        new = [key for key in row if key not in self._columns]
        if new:
            self._columns += new
            self._rewrite(read_rows(self.path))
        assert self._stream is not None
        csv.writer(self._stream, lineterminator="\n").writerow([_text(row.get(key)) for key in self._columns])

    def flush(self) -> None:
        """Force all rows to the disk."""
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Flush and close; a table that was never begun stays as it is."""
        if self._stream is not None:
            self.flush()
            self._stream.close()
            self._stream = None

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        if self._stream is not None:
            self._stream.close()
        text = io.StringIO()
        if self._columns:
            writer = csv.DictWriter(
                text, self._columns, restval="", extrasaction="ignore", lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(rows)
        write_text_atomic(self.path, text.getvalue())
        self._stream = open(self.path, "a", encoding="utf-8", newline="", buffering=1)  # noqa: SIM115


def read_rows(path: PathLike) -> list[dict[str, str]]:
    """The rows of a CSV file with a header line, as text."""
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _text(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    return repr(cell) if isinstance(cell, float) else str(cell)

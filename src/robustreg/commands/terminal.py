"""What commands print: sentences and tables on stdout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class UsageError(ValueError):
    """A command that cannot be carried out as it was given; exit code 2."""


def console() -> Console:
    """Standard output, in colour where it is a terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def print_table(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, gap: int = 1
) -> None:
    """A table whose first `left` columns are text and whose others are numbers, `gap` spaces apart."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=title or None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
        padding=(0, gap - 1, 0, 0),
    )
    for index, name in enumerate(header):
        table.add_column(
            name, justify="left" if index < left else "right", no_wrap=index < 1, overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    out = Console(highlight=False)
    # A pipe has no width of its own; there a wrapped row would only be harder to read and to search.
    out.print(table) if out.is_terminal else Console(highlight=False, width=240).print(table)

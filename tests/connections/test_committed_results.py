"""The tables of the matrix experiment, and what the chapter quotes of them, are those of the committed numbers."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "results" / "connections_matrix"


def test_the_tables_are_made_from_the_numbers() -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "connections_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.tables(FOLDER) == (FOLDER / "tables.md").read_text(encoding="utf-8")


def test_the_chapter_quotes_the_tables() -> None:
    """Every number of a row of the chapter's tables is in the row of that name in one of the tables."""
    known: dict[str, list[list[str]]] = {}
    for row in re.findall(r"^\| (\w+) \|(.*)\|$", (FOLDER / "tables.md").read_text(encoding="utf-8"), re.M):
        known.setdefault(row[0], []).append([cell.strip() for cell in row[1].split("|")])
    chapter = (ROOT / "docs" / "connections.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `(\w+)` \|(.*)\|$", chapter, re.M)
    assert len(quoted) > 20
    for name, cells in quoted:
        numbers = {cell.strip() for cell in cells.split("|")} - {f"`{n}`" for n in known}
        assert any(numbers <= set(row) for row in known[name]), (name, numbers)

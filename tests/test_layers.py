"""The doors between the rooms of the package go one way, exactly as the tables of CONTRIBUTING.md say."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "robustreg"
FACADE = "__init__"
OURS = "robustreg"
CORE_PACKAGES = {"torch", "numpy", "safetensors"}


@dataclass(frozen=True)
class Import:
    """One import: which file and line, what, and whether it happens when the file is imported."""

    file: Path
    line: int
    target: str
    at_top: bool
    for_types: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.target}"


# -- what the code does ------------------------------------------------------------------------------------------------


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == FACADE else parts)


MODULES = {module_name(file) for file in SOURCE.rglob("*.py")}


def imports(file: Path) -> Iterator[Import]:
    """Every import statement of a file, relative ones made absolute."""
    module = module_name(file)
    package = module if file.stem == FACADE else module.rpartition(".")[0]

    def visit(node: ast.AST, at_top: bool, for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, at_top, for_types)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(file, node.lineno, f"{base}.{alias.name}", at_top, for_types)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.body:
                yield from visit(statement, at_top, True)
            for statement in node.orelse:
                yield from visit(statement, at_top, for_types)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for child in ast.iter_child_nodes(node):
                yield from visit(child, at_top and not inside, for_types)

    yield from visit(ast.parse(file.read_text(encoding="utf-8")), True, False)


def room_of(target: str) -> str:
    """The room that an import of ours leads to; `from robustreg import X` leads to a room or to the facade."""
    while target not in MODULES and "." in target:
        target = target.rpartition(".")[0]
    parts = target.split(".")
    return parts[1] if len(parts) > 1 else FACADE


def files_of(room: str) -> list[Path]:
    folder = SOURCE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [SOURCE / f"{room}.py"]


def is_ours(found: Import) -> bool:
    return found.target.split(".")[0] == OURS


def doors(room: str) -> list[tuple[Import, str]]:
    """The imports by which a room leads to other rooms of ours."""
    every = [found for file in files_of(room) for found in imports(file) if is_ours(found)]
    return [(found, room_of(found.target)) for found in every if room_of(found.target) != room]


def packages(room: str) -> dict[str, Import]:
    """What a room imports of others when it is imported itself."""
    every = [found for file in files_of(room) for found in imports(file)]
    return {
        found.target.split(".")[0]: found
        for found in every
        if found.at_top and not found.for_types and not is_ours(found)
        if found.target.split(".")[0] not in {*sys.stdlib_module_names, "__future__"}
    }


# -- what CONTRIBUTING.md says -----------------------------------------------------------------------------------------


def table(heading: str) -> dict[str, list[list[str]]]:
    """A table as room -> the code words of its other cells, in order of the rows."""
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, *cells = [re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|")]
        rows[first[0]] = cells
    return rows


CORE = {room: set(cells[1]) for room, cells in table("Core room").items()}  # room -> also, inside functions
OUTER = {room: (set(cells[1]), set(cells[2])) for room, cells in table("Room").items()}


def above(room: str) -> set[str]:
    order = list(CORE)
    return set(order[: order.index(room)])


# -- tests -------------------------------------------------------------------------------------------------------------


def test_every_room_has_its_row() -> None:
    rooms = {file.stem for file in SOURCE.glob("*.py")} - {FACADE, "__main__"}
    rooms |= {folder.name for folder in SOURCE.iterdir() if any(folder.glob("*.py"))}
    assert rooms == set(CORE) | set(OUTER)
    assert not set(CORE) & set(OUTER)


def test_numerics_imports_nothing_of_ours() -> None:
    assert not doors("numerics")


@pytest.mark.parametrize("room", CORE)
def test_core_rooms_import_only_what_stands_above_them(room: str) -> None:
    for found, other in doors(room):
        later = not found.at_top or found.for_types
        assert other in above(room) or (later and other in CORE[room]), (
            f"{found}: {room} stands above {other}"
        )


@pytest.mark.parametrize("room", CORE)
def test_the_core_needs_torch_only(room: str) -> None:
    for package, found in packages(room).items():
        assert package in CORE_PACKAGES, str(found)


@pytest.mark.parametrize("room", OUTER)
def test_outer_rooms_import_what_their_row_says(room: str) -> None:
    may, needs = OUTER[room]
    allowed = (may | set(CORE) if "core" in may else may) | {FACADE}
    for found, other in doors(room):
        assert other in allowed, f"{found}: {room} has no door to {other}"
    for package, found in packages(room).items():
        assert package in needs, f"{found} when {room} is imported"


def test_the_facade_offers_the_core() -> None:
    for found in imports(SOURCE / "__init__.py"):
        if is_ours(found):
            other = room_of(found.target)
            assert other in {*CORE, "registry"} or (
                found.for_types and other in {"auditing", "evaluation"}
            ), str(found)


@pytest.mark.parametrize("room", OUTER)
def test_rooms_read_only_the_version_through_the_facade(room: str) -> None:
    """`import robustreg as rr` inside a function is the exception: it is how users write it, and loads nothing new."""
    for found, other in doors(room):
        if other == FACADE and found.at_top and not found.for_types:
            assert found.target in (OURS, f"{OURS}.__version__"), str(found)


def test_the_arrows_have_no_circle() -> None:
    """Over the imports that happen when a room is imported."""
    leads = {
        room: {other for found, other in doors(room) if found.at_top and not found.for_types} - {FACADE}
        for room in [*CORE, *OUTER]
    }
    done: set[str] = set()
    while leads.keys() - done:
        free = {room for room in leads.keys() - done if leads[room] <= done}
        assert free, f"these rooms import each other: {', '.join(sorted(leads.keys() - done))}"
        done |= free

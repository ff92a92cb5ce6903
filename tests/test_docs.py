"""The documentation does what it says: code runs, recipes load, commands exist, links and names lead somewhere.

A page is walked from top to bottom in a folder of its own:

* ```` ```python ```` blocks run one after another in one namespace; with `title="name.py"` the block is written to
  that file and imported instead, as the reader would do,
* ```` ```text title="Output" ```` is what the Python block before it printed,
* ```` ```yaml ```` blocks are recipes, or parts of one, which then are laid over the recipe `plain`,
* `robustreg ...` commands, in shell blocks and inline, are parsed by the command line itself and their overrides
  checked; those under `<!-- run -->` are run.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
RUN = "<!-- run -->"
SHELL = ("bash", "console", "sh", "shell")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, title, text, the number of its first line, and whether it is marked to run."""

    language: str
    title: str
    text: str
    line: int
    run: bool


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    opened: tuple[int, str, str] | None = None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if fence is None:
            continue
        if opened is None:
            opened = (number, fence["info"].strip(), fence["indent"])
        elif not fence["info"].strip():
            start, info, _ = opened
            title = re.search(r'title="([^"]*)"', info)
            above = [text.strip() for text in lines[:start] if text.strip()]
            found.append(
                Block(
                    language=info.split(" ")[0],
                    title=title[1] if title else "",
                    text=textwrap.dedent("\n".join(lines[start + 1 : number])) + "\n",
                    line=start + 2,
                    run=bool(above) and above[-1] == RUN,
                )
            )
            opened = None
    assert opened is None, f"{name(page)}: the block opened in line {opened[0] + 1} is never closed"
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    kept, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def inline_code(page: Path) -> list[str]:
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page))


def shell_lines(block: Block) -> list[str]:
    joined = block.text.replace("\\\n", " ")
    return [line.removeprefix("$ ").strip() for line in joined.splitlines() if line.strip()]


def commands(text: str) -> list[str] | None:
    """The words after `robustreg` in a shell line, None where the line runs something else."""
    words = shlex.split(text, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words[1:] if words and words[0] == "robustreg" else None


# -- walking a page ----------------------------------------------------------------------------------------------------


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; what a page registers or imports is forgotten afterwards."""
    from robustreg import registry
    from robustreg.models.catalogue import BUILDERS

    registry_before = {kind: dict(known) for kind, known in registry._registered.items()}
    for known in registry._registered.values():
        known.clear()  # what other tests registered, under names that a page uses too
    modules_before, models_before = set(sys.modules), dict(BUILDERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # the command line would set it for good
    # One process that believes to be one of several, for the page on DDP.
    for key, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }.items():
        monkeypatch.setenv(key, value)
    yield tmp_path
    for kind, known in registry_before.items():
        registry._registered[kind].clear()
        registry._registered[kind].update(known)
    BUILDERS.clear()
    BUILDERS.update(models_before)
    for module in set(sys.modules) - modules_before:
        if str(getattr(sys.modules[module], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[module]


def walk(page: Path, folder: Path) -> None:
    """Do what the page says, in order."""
    space = ModuleType(f"page_{page.stem.replace('-', '_')}")
    sys.modules[space.__name__] = space  # dataclasses look their module up
    printed = ""
    try:
        for block in blocks(page):
            if block.title and block.language in ("python", "yaml"):
                (folder / block.title).write_text(block.text, encoding="utf-8")
            if block.language == "python" and block.title:
                importlib.import_module(block.title.removesuffix(".py"))
            elif block.language == "python":
                printed = execute(block, page, space)
            elif block.language == "text" and block.title == "Output":
                assert printed.rstrip() == block.text.rstrip(), (
                    f"{name(page)}, line {block.line}: another output"
                )
            elif block.language == "yaml":
                check_recipe(block, page, folder)
            elif block.language in SHELL:
                for line in shell_lines(block):
                    words = commands(line)
                    if words is not None:
                        check_command(words, f"{name(page)}: {line}", run=block.run)
    finally:
        del sys.modules[space.__name__]


def execute(block: Block, page: Path, space: ModuleType) -> str:
    """Run a block; tracebacks show the page's own lines. Returns what it printed."""
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, space.__dict__)
    return out.getvalue()


def check_recipe(block: Block, page: Path, folder: Path) -> None:
    """Load a recipe, or lay a part of one over the recipe `plain` and load that."""
    from robustreg.config.find import find_recipe
    from robustreg.config.loading import recipe_from
    from robustreg.config.yaml_file import parse, read

    title = f"{name(page)}, line {block.line}"
    content, places = parse(block.text, title)
    if not {"name", "threat", "objective"} <= set(content):
        content = {**read(find_recipe("plain"))[0], **content}
    recipe_from(content, places, title, folder)


# -- the command line --------------------------------------------------------------------------------------------------


def check_command(words: list[str], where: str, *, run: bool = False, mention: bool = False) -> None:
    """The command exists with its options and arguments, and its recipes and overrides are valid.

    A `mention` in prose may leave out what the command needs, as in "`robustreg train` writes it".
    """
    import typer.main

    from robustreg import cli

    group: Any = typer.main.get_command(cli.app())
    if not words or words[0].startswith("-"):
        known = [option for parameter in group.params for option in parameter.opts] + ["--help", "-h"]
        assert not words or words[0] in known, f"{where}: robustreg has no option {words[0]}"
        return
    command = group.commands.get(words[0])
    assert command is not None, f"{where}: there is no command {words[0]!r}"
    try:
        given = command.make_context(words[0], list(words[1:])).params
    except Exception as error:  # click's UsageError, or typer's own copy of it
        if mention and type(error).__name__ == "MissingParameter":
            return
        pytest.fail(f"{where}: {error.format_message() if hasattr(error, 'format_message') else error}")
    check_overrides(words[0], given, where)
    if run or words[0] in ("list", "show"):
        assert cli.main(words) == 0, where


def check_overrides(command: str, given: dict[str, Any], where: str) -> None:
    from robustreg.config import RecipeError, load_recipe
    from robustreg.config.find import shipped_recipes

    if command == "train":
        names, overrides = [given["recipe"]], given["overrides"] or []
    elif command == "evaluate":
        names, overrides = [str(given["run"])], given["overrides"] or []
    elif command == "compare":
        names = [word for word in given["recipes"] or [] if "=" not in word]
        overrides = [word for word in given["recipes"] or [] if "=" in word]
        names += ["plain"] if given["methods"] else []
    else:
        return
    for recipe in names:
        unknown = "/" in recipe and recipe not in shipped_recipes() and not Path(recipe).exists()
        if recipe.isupper() or unknown:
            recipe = "plain"  # a placeholder, or the folder of a run that the page only speaks of
        assert recipe in shipped_recipes() or Path(recipe).exists(), f"{where}: no recipe {recipe}"
        try:
            load_recipe(recipe, overrides, imports=given["imports"] or [])
        except RecipeError as error:
            pytest.fail(f"{where}: {error}")


# -- tests -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.language for b in blocks(p))], ids=name)
def test_what_a_page_shows_works(page: Path, reader: Path) -> None:
    walk(page, reader)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_inline_commands_exist(page: Path, reader: Path) -> None:
    for code in inline_code(page):
        words = commands(code) if code.startswith("robustreg ") else None
        if words is not None:
            check_command(words, f"{name(page)}: {code}", mention=True)
        target = re.match(r"make ([a-z]+)", code)
        if target is not None:
            assert re.search(rf"^{target[1]}:", (ROOT / "Makefile").read_text(), re.M), (
                f"{name(page)}: {code}"
            )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_of_the_library_exist(page: Path) -> None:
    """`rr.X.y` and `robustreg.x.Y` in prose, and `::: robustreg.x` of the API reference."""
    directives = re.findall(r"^::: (\S+)$", prose(page), re.M)
    spoken = [
        m[0]
        for code in inline_code(page)
        for m in re.finditer(r"\b(?:rr|robustreg)(?:\.[A-Za-z_]\w*)+", code)
    ]
    for dotted in {*directives, *spoken}:
        assert resolves(dotted.replace("rr.", "robustreg.", 1) if dotted.startswith("rr.") else dotted), (
            f"{name(page)}: there is no {dotted}"
        )


def resolves(dotted: str) -> bool:
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


def slug(heading: str) -> str:
    """A heading's anchor as MkDocs makes it."""
    text = re.sub(r"[`*]|\{[^}]*\}", "", heading)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(
        r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text.encode("ascii", "ignore").decode()).strip().lower()
    )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{name(page)}: {target} leads nowhere"
        if DOCS in page.parents:
            assert DOCS in other.parents, f"{name(page)}: {target} is not in the built site"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(other), re.M)
            assert anchor in map(slug, headings), f"{name(page)}: {target} names no heading"


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(inner)

    listed = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(listed) == sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))


def test_the_site_loads_nothing_from_elsewhere() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert settings["theme"]["font"] is False
    assert "extra_javascript" not in settings
    assert "extra_css" not in settings


# -- the reference of recipes ------------------------------------------------------------------------------------------


def test_every_key_of_a_recipe_is_described() -> None:
    described = inline_code(DOCS / "recipes.md")
    missing = [key for key in recipe_keys() if key not in described]
    assert not missing, f"docs/recipes.md does not describe {', '.join(missing)}"


def recipe_keys() -> Iterator[str]:
    from pydantic import BaseModel

    from robustreg.config.schema import Named, Recipe

    def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
        for key, field in model.model_fields.items():
            inner: Any = field.annotation
            named = isinstance(inner, type) and issubclass(inner, Named)
            if isinstance(inner, type) and issubclass(inner, BaseModel) and not named:
                yield from keys(inner, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    return keys(Recipe)


@pytest.mark.parametrize("kind", ["term", "point", "method", "weight", "model", "optimizer", "schedule"])
def test_every_component_is_described_with_its_options(kind: str) -> None:
    """One row of a table each: its name first, and every option that a recipe may set."""
    from robustreg.registry import _registered, components, options_of

    lines = [line for line in prose(DOCS / "recipes.md").splitlines() if line.startswith("| `")]
    rows = [re.findall(r"`([^`]+)`", line) for line in lines]
    for known, factory in components(kind).items():
        if known in _registered[kind]:  # by another test
            continue
        if kind == "method" and not hasattr(factory, "card"):
            continue
        options = set(options_of(factory)) - GIVEN_BY_THE_RUN
        assert any(row[0] == known and options <= set(row) for row in rows), (
            f"docs/recipes.md has no row for the {kind} {known} with {', '.join(sorted(options)) or 'no options'}"
        )


GIVEN_BY_THE_RUN = {"num_classes", "seed", "params", "total_steps", "epochs"}


def test_every_data_set_is_described() -> None:
    from robustreg.registry import names

    described = inline_code(DOCS / "recipes.md")
    assert not [known for known in names("data") if known not in described]

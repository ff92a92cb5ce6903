from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from robustreg.report import write_report
from robustreg.report.examples import FILE as EXAMPLES

pytest.importorskip("plotly", reason="the report needs plotly")
pytest.importorskip("jinja2", reason="the report needs jinja2")

SECTIONS = [
    "summary",
    "accuracy",
    "curve",
    "distances",
    "terms",
    "validation",
    "examples",
    "cost",
    "reproduce",
]
FILES = [
    "run.json",
    "recipe.yaml",
    "plan.json",
    "metrics.csv",
    "validation.csv",
    "evaluation/evaluation.json",
    EXAMPLES,
]
VOID = {"meta", "link", "img", "br", "wbr"}


@pytest.fixture
def real_plotly() -> None:
    """Asked for by tests that want the whole page."""


@pytest.fixture(autouse=True)
def light_plotly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five megabytes of Plotly in every page would be most of the time of these tests."""
    if "real_plotly" not in request.fixturenames:
        monkeypatch.setattr("robustreg.report.page._plotly", lambda: "/* Plotly */")


class Page(HTMLParser):
    """Checks that tags are balanced and collects what the tests ask about; scripts are plain text to it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.ids: list[str] = []
        self.sections: list[str] = []
        self.headings: list[int] = []
        self.images: list[dict[str, str | None]] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "section":
            self.sections.append(str(given["id"]))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img":
            self.images.append(given)
        self.references += [str(given[key]) for key in ("src", "href", "action", "data") if given.get(key)]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # the strokes of drawings

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def charts(self) -> list[dict[str, object]]:
        found = re.search(r'id="chart-data">(.*?)</script>', self.source, re.DOTALL)
        assert found is not None
        charts: list[dict[str, object]] = json.loads(found[1])
        return charts


def test_a_run_has_every_section(run_folder: Path) -> None:
    path = write_report(run_folder)
    page = Page(path)
    assert path == run_folder / "report.html"
    assert page.sections == SECTIONS
    assert "penalty is a finished training run of the model conv_small on digits" in page.text
    assert "evaluated on 450 samples, clean and under 3 attacks" in page.text
    for shown in ("97.6 %", "58.0 %", "ℓ∞, ε = 0.1", "9.6 ms", "203 530", "claims no threat", "2.33 ×"):
        assert shown in page.text.replace("\u00a0", " ").replace("\u202f", " ")
    assert "method: penalty" in page.text
    assert "robustreg train recipe.yaml" in page.text
    assert len(page.images) == 8 * 4
    titles = [chart["title"] for chart in page.charts]
    assert titles == [
        "Accuracy under ℓ∞ attacks",
        "Distances in ℓ∞",
        "Loss",
        "ce",
        "grad_norm",
        "Learning rate",
        "",
    ]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("precision", "bf16", "Attacks ran in bf16; every verdict was made in full precision."),
        ("sequential", True, "Each attack ran only on the samples still standing"),
        ("complete", False, "The evaluation was interrupted before it was complete."),
    ],
)
def test_how_it_was_evaluated_is_told(run_folder: Path, key: str, value: object, sentence: str) -> None:
    file = run_folder / "evaluation" / "evaluation.json"
    assert sentence not in write_report(run_folder).read_text()
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    assert sentence in write_report(run_folder).read_text()


def test_hidden_labels_are_told(run_folder: Path) -> None:
    run = json.loads((run_folder / "run.json").read_text())
    run["data"]["labelled"] = 121
    (run_folder / "run.json").write_text(json.dumps(run))
    assert "training (121 with a label)" in write_report(run_folder).read_text()
    run["data"]["labelled"] = run["data"]["train"]
    (run_folder / "run.json").write_text(json.dumps(run))
    assert "with a label)" not in write_report(run_folder).read_text()


def test_a_comparison_has_every_section_and_a_leaderboard(make_comparison: Callable[..., Path]) -> None:
    page = Page(write_report(make_comparison(seeds=2)))
    assert page.sections == ["summary", "leaderboard", *SECTIONS[1:]]
    assert "This page compares 3 recipes in 6 training runs on digits" in page.text
    assert "58.6 % ± 0.8" in page.text.replace("\u00a0", " ").replace("\u202f", " ")
    assert "2.34 ×" in page.text.replace("\u00a0", " ")
    assert len(page.images) == 8 + 3 * 2 * 8
    assert "robustreg verify penalty-0" in page.text


def test_distances_of_a_run_have_a_line_an_attack(run_folder: Path) -> None:
    page = Page(write_report(run_folder))
    (chart,) = [chart for chart in page.charts if str(chart["id"]).startswith("chart-distance")]
    fab, deepfool = chart["series"]  # type: ignore[misc]
    assert (fab["name"], deepfool["name"]) == ("fab", "deepfool")
    assert (fab["x"][0], fab["y"][0]) == (0.0, 39 / 40), "one of 40 is misclassified without an attack"
    assert fab["y"][-1] == pytest.approx(1 / 40), "for one nothing was found"
    assert fab["x"][-1] == pytest.approx(0.58 * 0.38)
    assert "39 of 40" in page.text


def test_distances_of_a_comparison_are_the_nearest_of_all(make_comparison: Callable[..., Path]) -> None:
    page = Page(write_report(make_comparison(seeds=2)))
    (chart,) = [chart for chart in page.charts if str(chart["id"]).startswith("chart-distance")]
    plain = chart["series"][0]  # type: ignore[index]
    assert plain["name"] == "plain"
    assert plain["x"][-1] == pytest.approx((0.33 + 0.012) * 0.38), "of the farther seed, by the nearer attack"


def test_classes_and_calibration(run_folder: Path, make_comparison: Callable[..., Path]) -> None:
    text = Page(write_report(run_folder)).text
    assert "Accuracy by class" in text
    assert "2.3 %, mean confidence 96.1 %" in text.replace("\u00a0", " ")
    text = Page(write_report(make_comparison(seeds=2))).text
    assert "Worst case by class" in text
    assert "plain: 2.3 %, 2.3 %" in text.replace("\u00a0", " ")


def test_the_page_is_accessible(run_folder: Path, make_comparison: Callable[..., Path]) -> None:
    for path in (write_report(run_folder), write_report(make_comparison(seeds=2))):
        page = Page(path)
        assert page.source.startswith('<!DOCTYPE html>\n<html lang="en">')
        assert len(page.ids) == len(set(page.ids))
        assert set(re.findall(r'aria-labelledby="([^"]*)"', page.source)) <= set(page.ids)
        assert page.headings[0] == 1
        assert page.headings.count(1) == 1
        assert all(
            after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False)
        )
        assert all(image["alt"] for image in page.images)
        assert len({image["alt"] for image in page.images}) == len(page.images)
        targets = {reference[1:] for reference in page.references if reference.startswith("#")}
        assert targets <= set(page.ids)


@pytest.mark.usefixtures("real_plotly")
def test_the_page_needs_no_network(run_folder: Path) -> None:
    page = Page(write_report(run_folder))
    assert len(page.source) > 1_000_000
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert "default-src 'none'" in page.source
    assert "Plotly" in page.source
    style = re.search(r"<style>(.*?)</style>", page.source, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


NAME = """</script><script>alert(1)</script><img src=x onerror=alert(2)> & "quoted" 'single' {{ 7 * 7 }}"""


def test_everything_is_escaped(make_comparison: Callable[..., Path]) -> None:
    folder = make_comparison(names={"penalty": NAME})
    run = folder / "penalty-0"
    for file in ("run.json", "evaluation/evaluation.json", "plan.json"):
        content = json.loads((run / file).read_text())
        (run / file).write_text(json.dumps(_poison(content)))
    (run / "recipe.yaml").write_text(f"name: {NAME}\n")
    metrics = (run / "metrics.csv").read_text()
    header = f'"{NAME}"'.replace('"quoted"', '""quoted""')
    (run / "metrics.csv").write_text(metrics.replace("grad_norm", header))
    page = Page(write_report(folder))
    assert NAME in page.text
    assert "49" not in re.findall(r"\b49\b", page.text)
    assert page.source.count("<script") == 3  # the data, Plotly and ours
    assert all(image["src"] != "x" for image in page.images)
    assert any(NAME in str(chart["title"]) for chart in page.charts)


def _poison(value: object) -> object:
    """The same content with every text but the keys and the numbers' places made hostile."""
    if isinstance(value, dict):
        return {key: item if key in ("norm", "status") else _poison(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_poison(item) for item in value]
    return NAME if isinstance(value, str) else value


@pytest.mark.parametrize("missing", FILES)
def test_a_missing_file_is_a_sentence_in_its_section(run_folder: Path, missing: str) -> None:
    (run_folder / missing).unlink()
    page = Page(write_report(run_folder))
    assert page.sections == SECTIONS
    sentence = {
        "run.json": "unknown status",
        "recipe.yaml": "No recipe was stored",
        "plan.json": "Cost of a step",
        "metrics.csv": "No training metrics were logged.",
        "validation.csv": "No validation accuracy was logged.",
        "evaluation/evaluation.json": "Not evaluated yet: there is no evaluation to show.",
        EXAMPLES: "No examples were stored with this run.",
    }[missing]
    assert sentence in page.text


@pytest.mark.parametrize("damage", ["truncated", "binary", "null", "list", "empty", "other shape"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_never_stops_the_report(run_folder: Path, file: str, damage: str) -> None:
    path = run_folder / file
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "binary": b"\xff\xfe\x00" + bytes(range(256)),
            "null": b"null",
            "list": b'[1, "two", {"three": 3}]',
            "empty": b"",
            "other shape": b'{"clean": 3, "attacks": {"a": 1}, "curve": [[1, 2], {"eps": "x"}], "forwards": [], '
            b'"rows": [1, {"asked_by": 3}], "name": {"a": 1}, "data": [1], "model": 7, "versions": "x", '
            b'"step_seconds": "fast", "started": [], "threat": {"norm": null}, "seed": "zero", "n": []}',
        }[damage]
    )
    page = Page(write_report(run_folder))
    assert page.sections == SECTIONS
    if damage in ("truncated", "binary") and file.endswith((".json", EXAMPLES)):
        assert f"{Path(file).name} " in page.text


def test_only_a_recipe_is_enough(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: begun\n")
    page = Page(write_report(tmp_path))
    assert page.sections == SECTIONS
    assert page.charts == []
    assert "not evaluated yet" in page.text
    assert "Neither a plan nor a measured step time was stored." in page.text
    assert len(page.source) < 100_000  # nothing to draw, so Plotly is left out


@pytest.mark.parametrize("status", ["running", "interrupted", "failed", "finished", "strange", None])
def test_the_status_is_told(make_run: Callable[..., Path], status: str | None) -> None:
    text = Page(
        write_report(make_run(status=status, error="loss is nan" if status == "failed" else None))
    ).text
    expected = {
        "running": "had not ended",
        "interrupted": "was interrupted",
        "failed": "failed",
        "finished": "finished",
    }
    assert expected.get(str(status), "unknown status") in text
    assert ("training stopped with: loss is nan" in text) == (status == "failed")


def test_missing_runs_of_a_comparison_are_named(make_comparison: Callable[..., Path]) -> None:
    folder = make_comparison()
    listing = json.loads((folder / "compare.json").read_text())
    listing["runs"] += [{"name": "later", "path": "later-0", "seed": 0}, {"name": "odd"}, 3]
    (folder / "compare.json").write_text(json.dumps(listing))
    assert "3 of 6 listed runs have no folder: later-0, None, None." in Page(write_report(folder)).text


def test_a_comparison_without_runs_still_writes(tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text('{"title": "Nothing yet", "runs": []}')
    text = Page(write_report(tmp_path)).text
    assert "This comparison lists no run that could be read." in text
    assert "No run of this comparison has been evaluated yet." in text


def test_different_images_are_shown_apart(make_comparison: Callable[..., Path]) -> None:
    from safetensors.numpy import load_file, save_file

    folder = make_comparison()
    path = folder / "plain-0" / EXAMPLES
    tensors = load_file(path)
    tensors["clean"] = 1.0 - tensors["clean"]
    save_file(tensors, path)
    page = Page(write_report(folder))
    assert "The runs stored different images" in page.text
    assert len(page.images) == 3 * 4 * 4


def test_inputs_that_are_no_images_are_told(run_folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(run_folder / EXAMPLES)
    for key in ("clean", "adversarial", "gradient"):
        tensors[key] = tensors[key].reshape(8, 64)
    save_file(tensors, run_folder / EXAMPLES)
    assert "The inputs have shape [64] and cannot be drawn as images." in Page(write_report(run_folder)).text


def test_where_the_page_is_written(run_folder: Path, tmp_path: Path) -> None:
    assert write_report(run_folder, tmp_path / "deep" / "page.html") == tmp_path / "deep" / "page.html"
    (tmp_path / "folder").mkdir()
    assert write_report(str(run_folder), str(tmp_path / "folder")) == tmp_path / "folder" / "report.html"
    assert not (run_folder / "report.html").exists()
    first = (tmp_path / "folder" / "report.html").read_bytes()
    assert (tmp_path / "deep" / "page.html").read_bytes() == first


def test_other_folders_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither a run folder .* nor a comparison folder"):
        write_report(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "compare.json").write_text("{")
    with pytest.raises(ValueError, match=r"compare\.json is not valid JSON"):
        write_report(tmp_path)
    (tmp_path / "compare.json").write_text('{"runs": 3}')
    with pytest.raises(ValueError, match="no list of runs"):
        write_report(tmp_path)


@pytest.mark.parametrize("package", ["jinja2", "plotly"])
@pytest.mark.usefixtures("real_plotly")
def test_a_missing_package_is_named(run_folder: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "robustreg\[report\]"') as raised:
        write_report(run_folder)
    assert raised.value.name == package
    assert not (run_folder / "report.html").exists()


def test_importing_the_report_loads_neither_plotly_nor_jinja2() -> None:
    code = "import sys, robustreg.report; print([m for m in ('plotly', 'jinja2') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"


def _colours(css: str, theme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\n\s*\}", css, re.DOTALL)
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", light if theme == "light" else dark))


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_have_contrast(theme: str) -> None:
    from robustreg.report.charts import COLOURS
    from robustreg.report.page import _template

    colours = _colours(_template("report.css"), theme)
    for text in ("ink", "muted", "accent", "right", "wrong"):
        assert _contrast(colours[text], colours["ground"]) >= 4.5, text
        assert _contrast(colours[text], colours["faint"]) >= 4.5, text
    assert _contrast(colours["ink"], colours["notice"]) >= 4.5
    for i in range(COLOURS):
        assert _contrast(colours[f"s{i}"], colours["ground"]) >= 4.0, i


def test_colour_images_and_inputs_of_another_range(run_folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(run_folder / EXAMPLES)
    for key in ("clean", "adversarial", "gradient"):
        tensors[key] = (4.0 * tensors[key] - 2.0).repeat(3, axis=1)
    save_file(tensors, run_folder / EXAMPLES)
    page = Page(write_report(run_folder))
    assert len(page.images) == 8 * 4
    assert "Of the three colour channels the one that changes most is drawn." in page.text
    assert "Inputs outside 0–1 are scaled to their own range." in page.text

"""The page of the matrix experiment: whole, self-contained, and true to its numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustreg.connections.functionals import FUNCTIONALS
from robustreg.connections.matrix import Network, look
from robustreg.connections.outcome import matrix_of
from robustreg.report import write_matrix
from robustreg.threat import Threat

from .test_browser import needs_chromium, opened

pytest.importorskip("plotly", reason="the page needs plotly")
pytest.importorskip("jinja2", reason="the page needs jinja2")
pytest.importorskip("latex2mathml", reason="the page needs latex2mathml")

NAMES = ("plain", "jacobian", "<b>odd & long</b>")


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """Of three networks, each twice, whose slopes differ by known factors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.rand(6, 2, generator=torch.Generator().manual_seed(3))
    networks, looks = [], []
    for i, name in enumerate(NAMES):
        for seed in range(2):
            smaller = nn.Sequential(net, nn.Linear(3, 3, bias=False))
            smaller[1].weight.data = 10.0 ** (-i) * torch.eye(3)
            found = look(smaller, x, net(x).argmax(1), Threat("linf", 0.1))
            networks.append(Network(name, seed, 0.95, 0.5 + 0.1 * i + 0.01 * seed, found.means))
            looks.append(
                {"name": name, "seed": seed, "samples": 6, "threat": "Threat('linf')", **found.as_json()}
            )
    made = {"format": 1, "title": "three", "baseline": "plain", "left_out": ["late, seed 0"]}
    return {**made, **matrix_of(networks, looks, "plain")}


@pytest.fixture(scope="module")
def page(result: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_matrix(result, tmp_path_factory.mktemp("page") / "connections.html")


def drawn(page: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="chart-data">(.*?)</script>',
        page.read_text(encoding="utf-8"),
        re.S,
    )
    assert found
    return {chart["id"]: chart for chart in json.loads(found[1])}


def test_the_heat_map_has_the_measured_ratios(page: Path) -> None:
    heat = drawn(page)["chart-matrix"]
    assert heat["y"]["names"] == [NAMES[2], NAMES[1]]  # the more robust first
    assert heat["x"]["names"] == [f.title for f in FUNCTIONALS]
    column = [f.key for f in FUNCTIONALS].index("jacobian")
    assert [row[column] for row in heat["z"]] == pytest.approx([-4.0, -2.0])  # the squared norm
    assert heat["text"][1][column] == "●"
    assert sum(cell == "●" for row in heat["text"] for cell in row) == 1
    assert heat["note"][1][column] == "× 0.01 (a factor 1.00 over seeds)"


def test_tables_say_what_was_measured(page: Path, result: dict[str, Any]) -> None:
    text = page.read_text(encoding="utf-8")
    assert "50.5 ± 0.7" in text  # worst case of `plain` over its seeds
    assert "late, seed 0" in text
    assert text.count("<math ") == len(FUNCTIONALS)
    assert result["correlations"]["jacobian"]["value"] == pytest.approx(-1.0)
    assert re.search(r'Jacobian, Frobenius</th><td class="n strong">-1\.00</td>', text)
    assert "<b>odd" not in text
    assert "&lt;b&gt;odd" in text


def test_it_loads_nothing_from_elsewhere(page: Path) -> None:
    text = re.sub("<script.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.S)
    assert "default-src 'none'" in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)


@needs_chromium
def test_both_heat_maps_are_drawn(page: Path, tmp_path: Path) -> None:
    document, console = opened(page, tmp_path / "profile")
    assert console == []
    assert document.count('class="hm"') == 2
    assert "×10" in document

"""The page of checked claims: whole, self-contained, and true to its numbers."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustreg.connections import CLAIMS, Case, distance_bounds
from robustreg.connections.outcome import bounds_of, describe_case, outcome, tally
from robustreg.report import write_connections
from robustreg.report.connections import FAMILIES, NOTATION, formula

pytest.importorskip("plotly", reason="the page needs plotly")
pytest.importorskip("jinja2", reason="the page needs jinja2")
pytest.importorskip("latex2mathml", reason="the page needs latex2mathml")


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """What the command writes, of a small network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.rand(4, 2, generator=torch.Generator().manual_seed(3))
    case = Case(net, x, net(x).argmax(1), radius=1e-3)
    outcomes = [outcome(claim, claim.residual(case)) for claim in CLAIMS]
    return {
        "format": 1,
        "name": "<b>small & odd</b>",
        "case": describe_case(case),
        "tally": tally(outcomes),
        "claims": outcomes,
        "distances": bounds_of(distance_bounds(case, "l2")),
    }


@pytest.fixture(scope="module")
def page(result: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    file = write_connections(result, tmp_path_factory.mktemp("page") / "connections.html")
    return file.read_text(encoding="utf-8")


def test_every_claim_is_there_with_its_formula(page: str, result: dict[str, Any]) -> None:
    found = re.findall(r'<article class="claim" id="claim-(\w+)">', page)
    assert found == [claim["key"] for claim in result["claims"]] == [claim.key for claim in CLAIMS]
    assert page.count("<math ") == len(CLAIMS) + len(NOTATION)
    assert {key[0] for key in found} == set(FAMILIES)
    assert f"{result['tally']['holds']} statements" in page


def test_names_are_shown_as_they_stand(page: str) -> None:
    assert "&lt;b&gt;small &amp; odd&lt;/b&gt;" in page
    assert "<b>small" not in page


def test_it_loads_nothing_from_elsewhere(page: str) -> None:
    class References(HTMLParser):
        found: tuple[str, ...] = ()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            values = [v or "" for k, v in attrs if k in ("src", "href", "action", "data")]
            self.found += tuple(v for v in values if not v.startswith(("#", "data:")))

    reader = References()
    reader.feed(page)
    assert reader.found == ()
    assert "default-src 'none'" in page


def test_the_charts_have_the_measured_numbers(page: str, result: dict[str, Any]) -> None:
    found = re.search(r'<script type="application/json" id="chart-data">(.*?)</script>', page, re.S)
    assert found
    drawn = {chart["id"]: chart for chart in json.loads(found[1])}
    lower, upper = drawn["chart-distances"]["series"]
    assert upper["y"] == sorted(v for v in result["distances"]["upper"] if v)
    assert set(lower["y"]) <= set(result["distances"]["lower"])
    orders = [chart for key, chart in drawn.items() if key.startswith("chart-order")]
    assert orders
    for chart in orders:
        assert f'id="{chart["id"]}" class="canvas"' in page
        measured, claimed = chart["series"]
        assert measured["y"][0] == claimed["y"][0]


def test_a_violated_claim_is_shown_as_one(result: dict[str, Any], tmp_path: Path) -> None:
    claims = [dict(c) for c in result["claims"]]
    claims[3].update(verdict="violated", worst=0.25)
    changed = {**result, "claims": claims, "tally": tally(claims)}
    page = write_connections(changed, tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('<span class="verdict wrong">violated</span>') == 1
    assert "off by 2.5e-01" in page
    assert "1 are violated" in page


def test_without_distances_and_with_one_claim(result: dict[str, Any], tmp_path: Path) -> None:
    few = {**result, "claims": result["claims"][:1], "tally": tally(result["claims"][:1]), "distances": None}
    page = write_connections(few, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No distances were bounded." in page
    assert "No statement to an order applies here" in page


def test_formulas_are_math_and_not_their_source() -> None:
    text = str(formula(r"\|g\|_2 \le \tfrac12 \|J\|_F^2"))
    assert text.startswith("<math")
    assert "\\" not in text
    for claim in CLAIMS:
        assert "\\" not in str(formula(claim.latex)), claim.key


def test_a_family_tells_what_became_of_its_claims(page: str, result: dict[str, Any]) -> None:
    """Two classes: a network of three does not meet the condition, which is no failure."""
    two = [c["verdict"] for c in result["claims"] if c["key"].startswith("T")]
    assert set(two) == {"does not apply"}
    assert f"Two classes, and one logit ({len(two)} do not apply)" in page
    assert "says little unless that is the statement" in page  # S5: R1 of one step is nothing

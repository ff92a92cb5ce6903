"""What cards and docs say of runs beside the authors' code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from robustreg import methods
from robustreg.methods.card import Card, Compared, card_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"
CARDS = {
    name: card_of(m)
    for name in methods.__all__
    if isinstance(getattr(m := getattr(methods, name), "card", 0), Card)
}


def table() -> list[tuple[str, str, str, str]]:
    text = PAGE.read_text(encoding="utf-8").split("## Compared with the authors' code")[1]
    row = re.compile(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|", re.M)
    return [(name, code, loss, gradient) for name, code, loss, gradient in row.findall(text)]


def test_the_page_has_a_row_for_every_comparison_on_a_card() -> None:
    on_cards = [
        (name, c.code, f"{c.loss:.0e}", f"{c.gradient:.0e}")
        for name, card in CARDS.items()
        for c in card.compared
    ]
    assert sorted(table()) == sorted(on_cards)
    assert len(on_cards) > 40


def test_the_page_names_the_methods_that_were_not_compared() -> None:
    text = PAGE.read_text(encoding="utf-8").split("**Not compared:**")[1]
    assert set(re.findall(r"`(\w+)`", text)) == {name for name, card in CARDS.items() if not card.compared}


@pytest.mark.parametrize("name", sorted(CARDS))
def test_what_was_compared_agrees(name: str) -> None:
    for compared in CARDS[name].compared:
        assert compared.loss <= 1e-6
        assert compared.gradient <= 1e-6
        assert re.match(r"[\w.-]+/[\w.-]+(, |$)", compared.code)


def test_a_card_prints_it() -> None:
    card = Card("mine", "t", "c", ("e",), compared=(Compared("me/mine", 2e-16, 3e-13, "both forms"),))
    assert str(card).endswith(
        "Compared with the authors' code: largest relative difference\n"
        "  me/mine: loss 2e-16, gradient 3e-13 (both forms)"
    )
    assert "Compared" not in str(Card("mine", "t", "c", ("e",)))

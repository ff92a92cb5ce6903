"""Model cards as RobustBench documents them, and any of its models in evaluations here."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg.evaluation import Evaluation
from robustreg.integrations import ModelCard
from robustreg.integrations.robustbench import norm_folder, written_eps
from robustreg.threat import Threat

# The fields of the example in RobustBench's README, with values of our own.
DOCUMENTED = {
    "link": "https://example.org/paper",
    "name": "A paper",
    "authors": "A. One, B. Two",
    "additional_data": False,
    "number_forward_passes": 1,
    "dataset": "cifar10",
    "venue": "ICML 2020",
    "architecture": "WideResNet-34-20",
    "eps": "8/255",
    "clean_acc": "85.34",
    "reported": "58",
    "autoattack_acc": "53.42",
}
CARD = ModelCard("One2020Paper", "Linf", "cifar10", "ResNet-18", 8 / 255, 0.8534, 0.58, 0.5342)


def stored(folder: Path, values: Any, norm: str = "Linf") -> Path:
    file = folder / norm / "One2020Paper.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))
    return file


def test_a_documented_card_is_read(tmp_path: Path) -> None:
    card = ModelCard.read(stored(tmp_path, DOCUMENTED))
    assert (card.identifier, card.norm, card.dataset) == ("One2020Paper", "Linf", "cifar10")
    assert card.threat() == Threat("linf", 8 / 255)
    assert (card.clean_acc, card.reported, card.autoattack_acc) == pytest.approx((0.8534, 0.58, 0.5342))
    assert card.footnote is None


def test_what_is_written_has_the_documented_fields(tmp_path: Path) -> None:
    card = ModelCard.read(stored(tmp_path, DOCUMENTED))
    file = card.write(tmp_path / "out")
    assert file == tmp_path / "out" / "model_info" / "cifar10" / "Linf" / "One2020Paper.json"
    written = json.loads(file.read_text())
    assert written == {**DOCUMENTED, "reported": "58.0"}
    assert ModelCard.read(file) == card


def test_fields_that_not_every_card_has(tmp_path: Path) -> None:
    more = {**DOCUMENTED, "footnote": "A note.", "external": "52.10", "unreliable": True}
    card = ModelCard.read(stored(tmp_path, more))
    assert card.footnote == "A note."
    assert card.other == {"external": "52.10", "unreliable": True}
    assert card.to_dict() == {**more, "reported": "58.0"}


@pytest.mark.parametrize("reported", ["", None, "null"])
def test_unknown_accuracies(tmp_path: Path, reported: str | None) -> None:
    values = {key: value for key, value in DOCUMENTED.items() if key != "autoattack_acc"}
    card = ModelCard.read(stored(tmp_path, {**values, "reported": reported}))
    assert card.reported is None
    assert card.autoattack_acc is None
    assert "autoattack_acc" not in card.to_dict()


def test_the_norm_is_the_folder_s_or_given(tmp_path: Path) -> None:
    file = stored(tmp_path, {**DOCUMENTED, "eps": "0.5"}, norm="L2")
    assert ModelCard.read(file).threat() == Threat("l2", 0.5)
    assert ModelCard.read(file, norm="Linf").threat() == Threat("linf", 0.5)


def test_corruptions_are_no_ball(tmp_path: Path) -> None:
    card = ModelCard.read(stored(tmp_path, {**DOCUMENTED, "eps": None}, norm="corruptions"))
    with pytest.raises(ValueError, match="about corruptions, which is no ball"):
        card.threat()
    assert card.to_dict()["eps"] is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"clean_acc": None}, "clean_acc is not known"),
        ({"clean_acc": "high"}, "high"),
        ({"clean_acc": "850"}, "clean_acc should be a percentage, got '850'"),
        ({"eps": "-1/255"}, "eps should be a radius such as 8/255"),
        ({"eps": "8/0"}, "is no model card of RobustBench"),
    ],
)
def test_what_is_no_card(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ModelCard.read(stored(tmp_path, {**DOCUMENTED, **change}))


def test_missing_fields_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it lacks architecture, eps, clean_acc"):
        ModelCard.read(stored(tmp_path, {"dataset": "cifar10"}))
    with pytest.raises(ValueError, match="should hold a JSON object, got list"):
        ModelCard.read(stored(tmp_path, [1]))
    with pytest.raises(FileNotFoundError):
        ModelCard.read(tmp_path / "none.json")


@pytest.mark.parametrize(("field", "name"), [("identifier", "../out"), ("dataset", "a/b"), ("norm", "")])
def test_names_that_are_no_file_names(tmp_path: Path, field: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"the {field} of a card names a file"):
        replace(CARD, **{field: name}).write(tmp_path)


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (8 / 255, "8/255"),
        (0.5, "0.5"),
        (0.2, "0.2"),
        (4 / 255, "4/255"),
        (0.031, "0.031"),
        (0.0, "0"),
        (1.0, "1"),
    ],
)
def test_a_radius_as_it_is_written(eps: float, text: str) -> None:
    assert written_eps(eps) == text


def test_folders_of_norms() -> None:
    assert [norm_folder(Threat(p, 1.0)) for p in (math.inf, 2, 1, 1.5)] == ["Linf", "L2", "L1", "L1.5"]


class Zoo(nn.Module):
    """A model as the zoo's README describes one: inputs in [0, 1], its own normalisation, logits."""

    def __init__(self) -> None:
        super().__init__()
        self.mu = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)  # no buffers, as many of them have it
        self.sigma = torch.tensor([0.2471, 0.2435, 0.2616]).view(3, 1, 1)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.body((x - self.mu) / self.sigma)


def test_a_model_of_the_zoo_is_evaluated_as_it_is(tmp_path: Path) -> None:
    card = ModelCard.read(stored(tmp_path, DOCUMENTED))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Zoo().eval()
        x = torch.rand(20, 3, 8, 8)
    y = model(x).argmax(1)
    evaluation = rr.evaluate(model, (x, y), rr.PGD(card.threat(), steps=5), card.threat())
    assert isinstance(evaluation, Evaluation)
    assert evaluation.worst_case is not None
    assert evaluation.worst_case.accuracy < evaluation.clean.accuracy == 1.0
    audit = rr.audit(model, (x, y), card.threat(), samples=20, checks=["logits"])
    assert audit.findings

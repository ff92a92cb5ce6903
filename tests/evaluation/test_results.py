from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustreg.attacks import PGD
from robustreg.evaluation import Evaluation, evaluate, wilson
from robustreg.evaluation.packing import pack, unpack
from robustreg.points import FGSM, Gaussian


@pytest.fixture
def result(linear, data, threat):
    attacks = {"fgsm": FGSM(threat), "pgd": PGD(threat, steps=3), "noise": Gaussian(0.3)}
    return evaluate(linear, data, attacks, threat, curve=[0.0, 0.05, 0.1], curve_samples=60)


def test_json_has_the_agreed_form(result):
    values = json.loads(json.dumps(result.to_dict()))
    assert {"n", "seed", "threat", "clean", "attacks", "worst_case", "curve"} <= values.keys()
    assert values["n"] == 120
    for block in (values["clean"], values["worst_case"], *values["attacks"], *values["curve"]):
        low, high = wilson(block["correct"], block.get("n", 120))
        assert block["low"] == low <= block["accuracy"] <= block["high"] == high
    assert {"name", "attack", "threat", "seconds"} <= values["attacks"][0].keys()
    assert [row["name"] for row in values["attacks"]] == ["fgsm", "pgd", "noise"]
    assert values["attacks"][2]["threat"] is None
    assert [(row["eps"], row["attack"]) for row in values["curve"]] == [
        (0.0, "pgd"),
        (0.05, "pgd"),
        (0.1, "pgd"),
    ]


def test_saved_and_loaded_is_the_same(result, tmp_path):
    path = result.save(tmp_path / "run" / "evaluation")
    assert path == tmp_path / "run" / "evaluation" / "evaluation.json"
    for source in (path, path.parent):
        loaded = Evaluation.load(source)
        assert loaded.to_dict() == result.to_dict()
        assert loaded.table() == result.table()
        assert torch.equal(loaded.worst_case.outcomes, result.worst_case.outcomes)
        assert torch.equal(loaded["fgsm"].fooled, result["fgsm"].fooled)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], "evaluation.json"),
        (lambda text: text.replace('"n": 120', '"n": 90'), "mask"),
        (lambda text: text.replace('"clean":', '"cleaned":'), "KeyError 'clean'"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "format is 9"),
        (lambda text: "[]", "evaluation.json"),
    ],
)
def test_damaged_files_are_named(result, tmp_path, damage, words):
    path = result.save(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=words) as error:
        Evaluation.load(tmp_path)
    assert "evaluation.json" in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Evaluation.load(tmp_path)


def test_table_is_aligned_and_says_what_does_not_count(result):
    lines = result.table().splitlines()
    assert lines[0] == "linf, eps 0.1, 120 samples, seed 0"
    names = ["clean", "fgsm", "pgd", "noise", "worst case"]
    rows = {name: next(line for line in lines if line.startswith(name)) for name in names}
    column = lines[1].index("accuracy") + len("accuracy")
    for name in names:
        score = {"clean": result.clean, "worst case": result.worst_case}.get(name) or result[name].score
        assert rows[name][:column].endswith(f"{100 * score.accuracy:.2f}")
        assert f"[{100 * score.low:.2f}, {100 * score.high:.2f}]" in rows[name]
    assert rows["noise"].endswith("no threat, not in the worst case")
    curve = [line for line in lines if line.startswith("eps")]
    assert [line[:column].split()[-1] for line in curve] == [f"{100 * p.accuracy:.2f}" for p in result.curve]
    assert all(line.endswith("pgd, n = 60") for line in curve)
    assert str(result) == result.table()


def test_unknown_attack_lists_the_known(result):
    with pytest.raises(KeyError, match="fgsm, pgd, noise"):
        result["apgd"]


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_masks_survive_packing(bits):
    mask = torch.tensor(bits)
    assert torch.equal(unpack(pack(mask), len(bits)), mask)


@pytest.mark.parametrize("text", ["", "gA==x", "gIA=", "AQ==", 5, None])
def test_a_mask_of_another_size_is_refused(text):
    with pytest.raises(ValueError, match="mask"):
        unpack(text, 3)

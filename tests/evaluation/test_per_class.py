"""Accuracy class by class."""

from __future__ import annotations

import json

import pytest
import torch

from robustreg.evaluation import ClassScore, Evaluation, evaluate, wilson
from robustreg.evaluation.per_class import class_scores
from robustreg.points import FGSM, Gaussian


def test_classes_add_up_to_the_whole(net, images):
    from robustreg.threat import Threat

    threat = Threat("linf", 0.05)
    evaluation = evaluate(net, images, FGSM(threat), threat)
    assert [score.label for score in evaluation.per_class] == [0, 1, 2]
    assert sum(score.n for score in evaluation.per_class) == evaluation.n
    assert sum(score.clean for score in evaluation.per_class) == evaluation.clean.correct
    assert sum(score.robust or 0 for score in evaluation.per_class) == evaluation.worst_case.correct
    for score in evaluation.per_class:
        mine = images[1] == score.label
        assert score.clean == int(evaluation.clean.outcomes[mine].sum())


def test_no_worst_case_without_an_attack_that_counts(linear, data, threat):
    evaluation = evaluate(linear, data, Gaussian(0.1), threat)
    assert all(score.robust is None for score in evaluation.per_class)
    assert all(score.robust_interval() is None for score in evaluation.per_class)
    assert evaluation.class_table().splitlines()[1].rstrip().endswith("-")


def test_by_hand():
    y = torch.tensor([3, 0, 3, 3])
    clean, standing = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([0, 1, 1, 0]).bool()
    assert class_scores(y, clean, standing) == [ClassScore(0, 1, 1, 1), ClassScore(3, 3, 2, 1)]
    assert ClassScore(3, 3, 2, 1).clean_interval() == wilson(2, 3)
    assert ClassScore(3, 3, 2, 1).robust_interval() == wilson(1, 3)


def test_is_saved_read_and_printed(linear, data, threat, tmp_path):
    evaluation = evaluate(linear, data, FGSM(threat), threat)
    file = evaluation.save(tmp_path)
    row = json.loads(file.read_text())["per_class"][1]
    assert row["worst_case"]["low"] <= row["worst_case"]["accuracy"] <= row["worst_case"]["high"]
    assert Evaluation.load(tmp_path).per_class == evaluation.per_class
    first = evaluation.per_class[0]
    assert f"{100 * first.clean / first.n:.2f}" in evaluation.class_table().splitlines()[1]


@pytest.mark.parametrize("key", ["per_class", "distances"])
def test_files_of_before_are_read(linear, data, threat, key):
    values = evaluate(linear, data, FGSM(threat), threat).to_dict()
    del values[key]
    assert getattr(Evaluation.from_dict(values), key) == []

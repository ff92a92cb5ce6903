"""Per-sample losses by name or as functions, and the check of labels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustreg import numerics
from robustreg.losses import (
    SmoothedCrossEntropy,
    check_labels,
    check_loss,
    labelled,
    needs_labels,
    negative_margin,
)

Z = torch.tensor([[2.0, 1.0, -1.0, 0.0], [0.0, 3.0, 1.0, 1.0], [1.0, 1.0, 1.0, 2.0]])
Y = torch.tensor([0, 2, -1])


def test_names_are_the_functions_of_numerics() -> None:
    assert torch.equal(labelled("ce")(Z, Y), numerics.cross_entropy(Z, Y))
    assert torch.equal(labelled("margin")(Z, Y), -numerics.margin(Z, Y))
    assert torch.equal(labelled("dlr")(Z, Y), numerics.dlr(Z, Y))
    assert torch.equal(labelled(SmoothedCrossEntropy(0.1))(Z, Y), numerics.cross_entropy(Z, Y, 0.1))


def test_a_negative_margin_is_positive_exactly_where_the_prediction_is_wrong() -> None:
    assert ((negative_margin(Z[:2], Y[:2]) > 0) == (Z[:2].argmax(1) != Y[:2])).all()


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", SmoothedCrossEntropy(0.3)])
def test_a_sample_without_a_label_has_no_loss_and_no_gradient(loss: object) -> None:
    z = Z.clone().requires_grad_()
    values = labelled(loss)(z, Y)  # type: ignore[arg-type]
    (g,) = torch.autograd.grad(values.sum(), z)
    assert values[2] == 0
    assert (g[2] == 0).all()
    assert (g[:2] != 0).any()


def test_a_users_function_need_not_know_of_unlabelled_samples() -> None:
    def mine(logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none")  # refuses the label -1

    z = Z.clone().requires_grad_()
    values = labelled(mine)(z, Y)
    (g,) = torch.autograd.grad(values.sum(), z)
    assert torch.equal(values[:2], mine(Z[:2], Y[:2]))
    assert values[2] == 0
    assert (g[2] == 0).all()


def test_a_loss_that_takes_the_mean_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"one value per sample, \[3\], but cross_entropy gave \[\]: use reduction="
    ):
        labelled(F.cross_entropy)(Z, Y)


def test_only_kl_needs_no_labels() -> None:
    assert not needs_labels("kl")
    assert all(
        needs_labels(loss) for loss in ["ce", "margin", "dlr", negative_margin, SmoothedCrossEntropy(0.1)]
    )


def test_wrong_names_and_values_are_refused() -> None:
    with pytest.raises(ValueError, match="loss must be one of ce, margin, dlr, kl or a function"):
        check_loss("cross_entropy")
    with pytest.raises(ValueError, match="bound to a probe"):
        labelled("kl")
    with pytest.raises(ValueError, match=r"smoothing must lie in \[0, 1\], got 1.5"):
        SmoothedCrossEntropy(1.5)


@pytest.mark.parametrize(
    ("y", "error", "sentence"),
    [
        (torch.zeros(3), TypeError, r"labels must be integers \[B\], got torch.float32"),
        (torch.zeros(3, dtype=torch.bool), TypeError, "labels must be integers"),
        ([0, 1, 2], TypeError, "labels must be a tensor of integers"),
        (torch.zeros(2, dtype=torch.long), ValueError, r"labels must be \[B\] = \[3\]"),
        (torch.zeros(3, 4, dtype=torch.long), ValueError, r"got \[3, 4\]"),
        (torch.tensor([0, -2, 1]), ValueError, "or -1 for unlabelled, got -2"),
    ],
)
def test_labels_are_checked_in_one_sentence(y: Tensor, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        check_labels(Z, y)

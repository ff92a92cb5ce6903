"""The algebra of objectives, what a step returns, and what is refused before it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr

T = rr.Threat("linf", 0.1)
L2 = rr.Threat("l2", 0.3)


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


# -- algebra -------------------------------------------------------------------------------------------------

CE, GN, PE = rr.CrossEntropy(), rr.GradientNorm(T), rr.Perturbed(L2)


@pytest.mark.parametrize(
    ("objective", "weights"),
    [
        (CE + GN, [1, 1]),
        (CE + 0.3 * GN, [1, 0.3]),
        (CE + GN * 0.3, [1, 0.3]),
        (0.5 * (CE + 0.3 * GN) + PE, [0.5, 0.15, 1]),
        (CE + (GN + 2 * PE), [1, 1, 2]),
        ((CE + GN) * 2 + (PE + CE) * 3, [2, 2, 3, 3]),
        (sum([CE, GN, 2 * PE]), [1, 1, 2]),
        (sum([0.5 * CE]), [0.5]),
        (CE + np.float64(0.3) * GN, [1, 0.3]),
        (CE + -1 * GN, [1, -1]),
        (CE + rr.Ramp(0, 1) * GN, [1, 0.25]),
        (2 * (CE + rr.Ramp(0, 1) * (3 * GN)), [2, 1.5]),
        (rr.Cosine(0, 1) * (rr.Ramp(0, 4) * GN + CE), [rr.Cosine(0, 1)(0.25), rr.Cosine(0, 1)(0.25)]),
        ((lambda progress: 8 * progress) * CE, [2]),
        (CE + 0 * (rr.Ramp(0, 1) * GN), [1, 0]),
    ],
)
def test_weights_multiply_and_terms_line_up(objective: rr.Objective, weights: list[float]) -> None:
    assert list(objective.weights_at(0.25).values()) == pytest.approx(weights)


def test_the_loss_is_the_weighted_sum(smooth_net: nn.Module, double_batch: Any) -> None:
    objective = 0.5 * (CE + 0.3 * GN) + rr.Ramp(0, 2) * PE
    out = objective.detailed(smooth_net, *double_batch, progress=0.25)
    assert out.weights == pytest.approx({"cross_entropy": 0.5, "gradient_norm": 0.15, "perturbed": 0.5})
    assert float(out.loss.detach()) == pytest.approx(
        sum(out.weights[n] * float(v) for n, v in out.values.items())
    )
    assert all(v.ndim == 0 and not v.requires_grad for v in out.values.values())
    assert all(float(out.per_sample[n].mean()) == pytest.approx(float(v)) for n, v in out.values.items())
    assert objective(smooth_net, *double_batch, progress=0.25).item() == pytest.approx(out.loss.item())


def test_the_gradient_is_linear_in_the_terms(smooth_net: nn.Module, double_batch: Any) -> None:
    terms = [CE, GN, PE]
    alone = [gradients(rr.Objective.of(t)(smooth_net, *double_batch), smooth_net) for t in terms]
    together = gradients((2 * CE + 0.3 * GN + 0.1 * PE)(smooth_net, *double_batch), smooth_net)
    torch.testing.assert_close(together, 2 * alone[0] + 0.3 * alone[1] + 0.1 * alone[2], rtol=0, atol=1e-14)


def test_a_name_that_comes_again_is_numbered() -> None:
    assert (CE + CE + GN + 2 * CE).names == (
        "cross_entropy",
        "cross_entropy#2",
        "gradient_norm",
        "cross_entropy#3",
    )


@pytest.mark.parametrize(
    ("multiply", "sentence"),
    [
        (lambda: CE * GN, r"weighted\(term, by=...\)"),
        (lambda: (CE + GN) * (CE + GN), r"weighted\(term, by=...\)"),
        (lambda: "2" * CE, "a weight is a number or a function of progress, got '2'"),
        (lambda: None * CE, "got None"),
        (lambda: rr.Ramp * CE, "got <class 'robustreg.schedules.Ramp'>"),
        (lambda: rr.Clean() * CE, "a weight is a number"),
        (lambda: rr.Objective((("1", CE),)), "a weight is a number"),
    ],
)
def test_what_is_not_a_weight_is_refused(multiply: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        multiply()


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_are_finite(weight: float) -> None:
    with pytest.raises(ValueError, match="a weight must be finite"):
        weight * CE


@pytest.mark.parametrize("other", [1, "x", None, T])
def test_only_terms_and_objectives_are_added(other: Any) -> None:
    for left in (CE, CE + GN):
        with pytest.raises(TypeError):
            left + other
        with pytest.raises(TypeError):
            other + left


def test_adding_makes_a_new_objective() -> None:
    first = CE + GN
    second = first + PE
    assert len(first.entries) == 2
    assert len(second.entries) == 3


def test_it_reads_like_the_code_that_made_it() -> None:
    objective = rr.CrossEntropy() + 0.3 * rr.GradientNorm(T) + rr.Ramp(0, 1) * rr.CrossEntropy(at=rr.PGD(T))
    first, second, third = repr(objective).split(" + ")
    assert first == "CrossEntropy(at=Clean(), smoothing=0.0, mode='train')"
    assert second.startswith(
        "0.3 * GradientNorm(threat=Threat('linf', eps=0.1), squared=False, estimator='double'"
    )
    assert third.startswith(
        "Ramp(start=0, end=1, until=1.0) * CrossEntropy(at=PGD(threat=Threat('linf', eps=0.1)"
    )
    assert repr(rr.Objective(())) == "Objective()"


def test_an_objective_with_nothing_to_minimise_is_refused(smooth_net: nn.Module, double_batch: Any) -> None:
    for objective in (rr.Objective(()), 0 * CE):
        with pytest.raises(ValueError, match="nothing to minimise"):
            objective(smooth_net, *double_batch)


# -- threats -------------------------------------------------------------------------------------------------


def test_a_threat_reaches_the_terms_that_have_none(smooth_net: nn.Module, double_batch: Any) -> None:
    objective = (CE + rr.GradientNorm() + rr.GradientNorm(L2)).with_threat(T)
    assert [t.threat for _, t in objective.entries[1:]] == [T, L2]
    later = objective + rr.Perturbed()
    assert later.entries[-1][1].threat == T
    inner = rr.Objective.of(rr.weighted(rr.GradientNorm(), by=rr.GradientNorm())).with_threat(T)
    assert torch.isfinite(inner(smooth_net, *double_batch))


def test_objectives_under_different_threats_are_not_added() -> None:
    with pytest.raises(ValueError, match="under different threats"):
        (CE + GN).with_threat(T) + (CE + GN).with_threat(L2)


# -- what is missing or wrong --------------------------------------------------------------------------------


class Adversarial(rr.Term):
    """A term with an adversary that was not given."""

    needs = frozenset({"adversary"})


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        (
            CE + rr.GradientNorm(),
            r"gradient_norm needs a threat: pass GradientNorm\(threat\) or objective.with_threat",
        ),
        (CE + rr.weighted(CE, by=rr.Perturbed()), "cross_entropy_by_perturbed needs a threat"),
        (
            rr.CrossEntropy() + Adversarial(),
            r"adversarial needs an adversary: pass a point such as PGD\(threat\)",
        ),
    ],
)
def test_what_a_term_needs_is_checked_before_the_first_step(
    objective: rr.Objective, sentence: str, batch: Any
) -> None:
    def never(x: Tensor) -> Tensor:
        raise AssertionError("the network ran")

    for call in (objective.check_needs, objective.plan, lambda: objective(never, *batch)):
        with pytest.raises(ValueError, match=sentence):
            call()


@pytest.mark.parametrize(
    "term",
    [
        CE,
        GN,
        PE,
        rr.Vulnerability(),
        rr.LossAt(loss="margin"),
        rr.LossAt(rr.PGD(T), "kl"),
        rr.weighted(GN, by=CE),
    ],
)
def test_labels_are_asked_for_where_they_are_needed(term: rr.Term, batch: Any) -> None:
    with pytest.raises(ValueError, match=f"the term {term.name} needs labels, but y is None"):
        rr.Objective.of(term)(lambda x: 1 / 0, batch[0])


def test_terms_that_need_no_labels_work_without(relu_net: nn.Module, batch: Any) -> None:
    objective = rr.LossAt(rr.Uniform(T), "kl") + rr.LossAt(rr.PGD(T, 2, loss="kl"), "kl")
    assert torch.isfinite(objective(relu_net, batch[0]))


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda x, y: (255 * x, y), ValueError, "but the threat's bounds are .* divide by 255"),
        (lambda x, y: ((255 * x).to(torch.uint8), y), TypeError, "x must be floating point"),
        (lambda x, y: (x.long(), y), TypeError, "x must be floating point"),
        (lambda x, y: (x.numpy(), y), TypeError, "x must be a floating point tensor"),
        (lambda x, y: (x.where(x < 0.7, torch.nan), y), ValueError, "NaN or infinite"),
        (lambda x, y: (x, y.float()), TypeError, "labels must be integers"),
        (lambda x, y: (x, F.one_hot(y)), ValueError, r"labels must be \[B\] = \[6\]"),
        (lambda x, y: (x, y[:1]), ValueError, r"labels must be \[B\] = \[6\]"),
        (lambda x, y: (x, y - 4), ValueError, "or -1 for unlabelled, got -4"),
    ],
)
def test_bad_batches_are_refused_before_the_network_runs(
    change: Callable[..., Any], error: type[Exception], sentence: str, batch: Any
) -> None:
    with pytest.raises(error, match=sentence):
        (CE + GN)(lambda x: 1 / 0, *change(*batch))


def test_without_a_threat_nan_is_refused_too(batch: Any) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        rr.Objective.of(CE)(lambda x: 1 / 0, batch[0] * torch.nan, batch[1])


def test_labels_out_of_range_are_refused(relu_net: nn.Module, batch: Any) -> None:
    with pytest.raises(ValueError, match="labels run up to 3, but the model has 3 classes"):
        (CE + GN)(relu_net, batch[0], batch[1] + 1)


def test_softmax_outputs_are_warned_of_once(relu_net: nn.Module, batch: Any) -> None:
    model, objective = nn.Sequential(relu_net, nn.Softmax(dim=1)), CE + GN
    with pytest.warns(UserWarning, match="look like probabilities .* remove the final softmax"):
        objective(model, *batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective(model, *batch)
        (CE + GN)(relu_net, *batch)


def test_a_schedule_asks_for_progress(relu_net: nn.Module, batch: Any) -> None:
    with pytest.raises(ValueError, match="pass progress="):
        (CE + rr.Ramp(0, 1) * GN)(relu_net, *batch)


# -- unlabelled samples --------------------------------------------------------------------------------------

LABELLED = [
    CE,
    rr.CrossEntropy(smoothing=0.1),
    GN,
    rr.GradientNorm(L2, estimator="central"),
    PE,
    rr.CrossEntropy(at=rr.PGD(T, 2, start=rr.Clean())),
    rr.LossAt(loss="margin"),
    rr.LossAt(rr.FGSM(T), "kl"),
    rr.Vulnerability(),
    rr.weighted(GN, by=rr.Vulnerability()),
    rr.weighted(CE, by=rr.Vulnerability(), normalise=True),
    rr.weighted(rr.LossAt(rr.FGSM(T, loss="margin"), "kl"), by=rr.Vulnerability(), normalise=True),
]


@pytest.mark.parametrize("term", LABELLED, ids=lambda t: t.name)
def test_the_mean_is_over_labelled_samples(term: rr.Term, smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    rows = torch.tensor([0, 2, 3])
    some = torch.full_like(y, -1)
    some[rows] = y[rows]

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        loss = rr.Objective.of(term)(smooth_net, x, y)
        return loss.detach(), gradients(loss, smooth_net)

    for a, b in zip(step(x, some), step(x[rows], y[rows]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("term", LABELLED, ids=lambda t: t.name)
def test_without_any_label_the_loss_is_zero(term: rr.Term, smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    loss = rr.Objective.of(term)(smooth_net, x, torch.full_like(y, -1))
    assert loss.item() == 0
    assert (gradients(loss, smooth_net) == 0).all()


def test_terms_without_labels_take_the_mean_over_everybody(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    objective = CE + rr.LossAt(rr.Uniform(T), "kl")
    some = torch.where(torch.arange(6) < 2, y, -1)
    out = objective.detailed(smooth_net, x, some, step=0)
    values = out.per_sample["loss_at"]
    assert (values[2:] > 0).all()
    assert out.values["loss_at"] == values.mean()
    assert out.values["cross_entropy"] == pytest.approx(F.cross_entropy(smooth_net(x[:2]), y[:2]).item())


# -- per-sample values ---------------------------------------------------------------------------------------

DETERMINISTIC = (
    CE
    + GN
    + rr.GradientNorm(L2, squared=True)
    + rr.GradientNorm(rr.Threat("l1", 0.2), estimator="forward")
    + PE
    + rr.CrossEntropy(at=rr.PGD(T, 2, start=rr.Clean()))
    + rr.weighted(GN, by=rr.Vulnerability())
    + rr.LossAt(rr.FGSM(T, loss="margin"), "kl")
)


@given(cut=st.integers(1, 5), order=st.permutations(range(6)))
@settings(max_examples=10, deadline=None)
def test_values_of_a_sample_do_not_depend_on_its_batch(cut: int, order: list[int]) -> None:
    g = torch.Generator().manual_seed(2)
    x = 0.2 + 0.6 * torch.rand(6, 5, generator=g, dtype=torch.float64)
    y = torch.arange(6) % 3
    weight = torch.randn(5, 3, generator=g, dtype=torch.float64, requires_grad=True)

    def values(rows: list[int]) -> dict[str, Tensor]:
        return DETERMINISTIC.detailed(lambda u: torch.tanh(u @ weight), x[rows], y[rows]).per_sample

    whole, left, right = values(list(range(6))), values(order[:cut]), values(order[cut:])
    for name, expected in whole.items():
        torch.testing.assert_close(torch.cat([left[name], right[name]]), expected[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (3, 4, 5), (2, 1, 3, 3), (2, 2, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_any_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(3)
    x = (0.2 + 0.6 * torch.rand(shape, generator=g)).to(dtype)
    net = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 4)).to(dtype)
    loss = copy.copy(DETERMINISTIC)(net, x, torch.arange(shape[0]))
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert gradients(loss, net).isfinite().all()


def test_memory_layout_does_not_matter(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    strided, labels = torch.stack([x, -x], dim=-1)[..., 0], torch.stack([y, y], dim=1)[:, 0]
    assert not strided.is_contiguous()
    torch.testing.assert_close(
        DETERMINISTIC(relu_net, strided, labels), DETERMINISTIC(relu_net, x, y), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_validation_loss_without_gradients_has_the_same_value(
    context: Callable[[], Any], relu_net: nn.Module, batch: Any
) -> None:
    objective = CE + GN + PE + rr.CrossEntropy(at=rr.PGD(T, 2))
    expected = objective(relu_net, *batch, step=0)
    with context():
        x, y = (t.clone() for t in batch)
        loss = objective(relu_net, x, y, step=0)
    assert not loss.requires_grad
    assert loss.item() == expected.item()


# -- steps ---------------------------------------------------------------------------------------------------


def test_steps_are_counted_or_named(relu_net: nn.Module, batch: Any) -> None:
    objective = rr.Objective.of(rr.CrossEntropy(at=rr.Uniform(T)))
    counted = [objective(relu_net, *batch).item() for _ in range(3)]
    assert len(set(counted)) == 3
    assert [objective(relu_net, *batch, step=i).item() for i in range(3)] == counted
    assert objective(relu_net, *batch, step=np.int64(1)).item() == counted[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + 1)
        assert objective(relu_net, *batch, step=1).item() != counted[1]


def test_a_saved_objective_goes_on_where_it_was(relu_net: nn.Module, batch: Any) -> None:
    build = lambda: rr.Objective.of(rr.CrossEntropy(at=rr.Uniform(T)))  # noqa: E731
    first, second = build(), build()
    for _ in range(2):
        first(relu_net, *batch)
    second.load_state_dict(first.state_dict())
    assert second(relu_net, *batch).item() == first(relu_net, *batch).item()
    assert build()(relu_net, *batch).item() != first(relu_net, *batch).item()


# -- memory --------------------------------------------------------------------------------------------------


def test_nothing_piles_up_over_many_steps(relu_net: nn.Module, batch: Any) -> None:
    import gc

    objective = CE + GN + PE + 0 * rr.GradientNorm(L2)
    optimiser = torch.optim.SGD(relu_net.parameters(), lr=0.01)

    def tensors() -> int:
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    gc.collect()
    gc.disable()  # what only the collector of cycles can free, a graph say, counts as a leak
    try:
        counts = []
        for step in range(200):
            loss = objective(relu_net, *batch, step=step)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step in (20, 199):
                counts.append(tensors())
    finally:
        gc.enable()
    assert counts[0] == counts[1]

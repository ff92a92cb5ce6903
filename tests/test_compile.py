"""A whole step as one compiled graph: eager's gradients, or a refusal.

``aot_eager`` traces everything that ``inductor`` does and generates no code, which keeps these tests short.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg.probe import Probe

T = rr.Threat("linf", 0.1)
L2 = rr.Threat("l2", 0.3)
PENALTY = rr.CrossEntropy() + 0.3 * rr.GradientNorm(T)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    before = torch._dynamo.config.trace_autograd_ops
    torch._dynamo.reset()
    yield
    torch._dynamo.config.trace_autograd_ops = before


def gradients(net: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def pair(
    net: nn.Module, objective: rr.Objective, backend: Any = "aot_eager"
) -> tuple[rr.ObjectiveModule, ...]:
    """The same module twice, eager and compiled."""
    eager, compiled = (rr.ObjectiveModule(copy.deepcopy(net), copy.copy(objective), seed=0) for _ in range(2))
    compiled.compile(backend=backend)
    return eager, compiled


def assert_equal_steps(modules: tuple[rr.ObjectiveModule, ...], batch: Any, tolerance: float = 1e-12) -> None:
    eager, compiled = modules
    for step in (3, 4):
        losses = [m(*batch, step=step, progress=0.3) for m in modules]
        torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=tolerance)
        for loss, module in zip(losses, modules, strict=True):
            module.zero_grad()
            loss.backward()
        torch.testing.assert_close(gradients(eager.net), gradients(compiled.net), rtol=0, atol=tolerance)
        assert eager.values.keys() == compiled.values.keys()
        torch.testing.assert_close(
            torch.stack(list(eager.values.values())),
            torch.stack(list(compiled.values.values())),
            rtol=0,
            atol=tolerance,
        )


@pytest.mark.parametrize(
    "objective",
    [
        rr.CrossEntropy()
        + rr.CrossEntropy(at=rr.PGD(T, 2))
        + rr.GradientNorm(L2, at=rr.Uniform(T), squared=True),
        rr.Ramp(0, 1) * rr.weighted(rr.GradientNorm(L2, estimator="central"), by=rr.Vulnerability(rr.FGSM(T)))
        + 0 * rr.Perturbed(T),
    ],
    ids=["random", "weighted"],
)
def test_a_compiled_step_has_eagers_gradients(
    objective: rr.Objective, smooth_net: nn.Module, double_batch: Any
) -> None:
    assert_equal_steps(pair(smooth_net, objective), double_batch)


def test_with_batchnorm_and_its_statistics(restless_net: nn.Module, double_batch: Any) -> None:
    net = restless_net.double()
    for layer in net:
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    modules = pair(net, PENALTY + rr.CrossEntropy(at=rr.FGSM(T)))
    assert_equal_steps(modules, double_batch)
    for a, b in zip(modules[0].buffers(), modules[1].buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_torch_compile_takes_the_module_whole(smooth_net: nn.Module, double_batch: Any) -> None:
    torch._dynamo.config.trace_autograd_ops = True
    eager = rr.ObjectiveModule(copy.deepcopy(smooth_net), copy.copy(PENALTY), seed=0)
    module = rr.ObjectiveModule(copy.deepcopy(smooth_net), copy.copy(PENALTY), seed=0)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for m in (eager, compiled):
        m(*double_batch, step=0).backward()
    torch.testing.assert_close(gradients(module.net), gradients(eager.net), rtol=0, atol=1e-12)


def test_torch_compile_refuses_random_points_that_it_cannot_draw(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    torch._dynamo.config.trace_autograd_ops = True
    module = rr.ObjectiveModule(smooth_net, rr.CrossEntropy(at=rr.Uniform(T)), seed=0)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"use ObjectiveModule.compile\(\)"):
        compiled(*double_batch)


def test_batches_of_another_size_and_schedules_go_on(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    eager, compiled = pair(smooth_net, rr.CrossEntropy() + rr.Ramp(0, 1) * rr.GradientNorm(T))
    for size, progress in ((6, 0.0), (6, 0.1), (5, 0.2), (4, 0.3), (6, 1.0)):
        losses = [m(x[:size], y[:size], progress=progress) for m in (eager, compiled)]
        torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-12)


def test_unlabelled_samples_and_bad_batches_are_as_in_eager(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    eager, compiled = pair(smooth_net, PENALTY)
    with pytest.raises(ValueError, match="divide by 255"):
        compiled(255 * x, y)
    labels = torch.where(torch.arange(6) < 3, y, -1)
    torch.testing.assert_close(compiled(x, labels), eager(x, labels), rtol=0, atol=1e-12)


# -- the self-test -------------------------------------------------------------------------------------------


def wrong(factor: float) -> Callable[..., Any]:
    """A backend that computes something else: aot_eager's outputs times a factor."""
    from torch._dynamo.backends.debugging import aot_eager

    def backend(graph: Any, inputs: Any, **options: Any) -> Callable[..., Any]:
        right = aot_eager(graph, inputs, **options)

        def run(*args: Any) -> Any:
            return [
                factor * out if isinstance(out, Tensor) and out.requires_grad else out for out in right(*args)
            ]

        return run

    return backend


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_a_wrong_gradient_is_refused(factor: float, smooth_net: nn.Module, double_batch: Any) -> None:
    _, compiled = pair(smooth_net, PENALTY, wrong(factor))
    for _ in range(2):  # and not only the first time
        with pytest.raises(RuntimeError, match="compiling this network changes the penalties' gradient"):
            compiled(*double_batch)


@pytest.mark.parametrize("weight", [rr.Ramp(0, 1), 1e-9], ids=str)
def test_it_looks_at_the_penalties_whatever_their_weight(
    weight: Any, smooth_net: nn.Module, double_batch: Any
) -> None:
    _, compiled = pair(smooth_net, rr.CrossEntropy() + weight * rr.GradientNorm(T), wrong(0.0))
    with pytest.raises(RuntimeError, match="changes the penalties' gradient"):
        compiled(*double_batch, progress=0.0)


def test_it_is_not_skipped_where_the_objective_was_used_before(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    module = rr.ObjectiveModule(smooth_net, copy.copy(PENALTY), seed=0)
    module(*double_batch)
    module.compile(backend=wrong(0.0))
    with pytest.raises(RuntimeError, match="changes the penalties' gradient"):
        module(*double_batch)


def test_it_leaves_no_trace(
    restless_net: nn.Module, double_batch: Any, snapshot: Callable[..., dict[str, Any]]
) -> None:
    net = restless_net.double()
    module = rr.ObjectiveModule(net, copy.copy(PENALTY), seed=0)
    module.compile(backend=wrong(0.0))
    before = snapshot(net)
    with pytest.raises(RuntimeError, match="changes the penalties' gradient"):
        module(*double_batch)
    assert snapshot(net) == before


@pytest.mark.slow
def test_max_pooling_under_inductor_is_refused(double_batch: Any) -> None:
    def build(pool: nn.Module) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.GELU(), pool, nn.Flatten(), nn.Linear(16, 3)
        ).double()

    _, compiled = pair(build(nn.MaxPool2d(2)), PENALTY, "inductor")
    with pytest.raises(RuntimeError, match="replace max-pooling by strided"):
        compiled(*double_batch)
    assert_equal_steps(pair(build(nn.AvgPool2d(2)), PENALTY, "inductor"), double_batch)


# -- what cannot be compiled ---------------------------------------------------------------------------------


def test_dropout_has_a_stream_of_its_own_and_leaves_no_trace(
    restless_net: nn.Module, batch: Any, snapshot: Callable[..., dict[str, Any]]
) -> None:
    net = restless_net
    module = rr.ObjectiveModule(net, copy.copy(PENALTY), seed=0)
    module.compile(backend="aot_eager")
    before = snapshot(net, buffers=False)
    losses = [module(*batch, step=i).item() for i in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]
    assert snapshot(net, buffers=False) == before


def test_masks_that_must_be_shared_are_refused(restless_net: nn.Module, batch: Any) -> None:
    for term in (rr.GradientNorm(T, estimator="forward"), rr.Perturbed(T, same_dropout=True)):
        _, compiled = pair(restless_net, rr.CrossEntropy() + term)
        with pytest.raises(RuntimeError, match="the same dropout masks at two points"):
            compiled(*batch)


class Counting(rr.Term):
    """A term with a state."""

    def __call__(self, probe: Probe) -> Tensor:
        probe.defer(lambda: None)
        return probe.logits().square().mean(1)


class Looking(rr.Term):
    """A term that looks into the network."""

    def __call__(self, probe: Probe) -> Tensor:
        return probe.model[1].weight.square().sum()  # type: ignore[index]


@pytest.mark.parametrize(
    ("term", "sentence"),
    [(Counting(), "a term updates a state of its own"), (Looking(), "a term looks into the network")],
)
def test_terms_that_a_graph_cannot_hold_are_refused(
    term: rr.Term, sentence: str, smooth_net: nn.Module, double_batch: Any
) -> None:
    _, compiled = pair(smooth_net, PENALTY + term)
    with pytest.raises(RuntimeError, match=f"cannot compile: {sentence}"):
        compiled(*double_batch)


# -- copies --------------------------------------------------------------------------------------------------


def test_a_copy_compiles_its_own_step(smooth_net: nn.Module, double_batch: Any) -> None:
    _, compiled = pair(smooth_net, PENALTY)
    expected = compiled(*double_batch, step=0).item()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(compiled)))
    with torch.no_grad():
        for p in compiled.net.parameters():
            p.zero_()
    assert twin(*double_batch, step=0).item() == pytest.approx(expected, abs=1e-12)
    assert compiled(*double_batch, step=0).item() != pytest.approx(expected, abs=1e-3)


def test_more_modules_than_torchs_limit_of_recompilations(double_batch: Any) -> None:
    for width in range(3, 8):  # each compiles twice, for the self-test and for the step
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.Tanh(), nn.Linear(width, 3)).double()
        module = rr.ObjectiveModule(net, rr.Objective.of(rr.GradientNorm(T)), seed=0)
        module.compile(backend="eager")
        assert module(*double_batch).isfinite()

"""Attacks in bfloat16: every verdict is in full precision, and who was fooled in bfloat16 only is attacked again."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from robustreg.attacks import APGD, FAB, PGD
from robustreg.evaluation import Evaluation, EvaluationInterrupted, evaluate, verify
from robustreg.evaluation.predict import correct, logits_of
from robustreg.evaluation.reduced import Reduced, lost_in_rounding
from robustreg.threat import Threat

T = Threat("linf", 0.1)


class Rounded(nn.Module):
    """A linear network that adds 1 to 256: in bfloat16 that is 256 again, and the first class loses its lead."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[256.0, 1.0], [256.0, 0.0]]))

    def forward(self, x):
        return self.linear(x) + torch.tensor([0.0, 0.01])


def test_logits_and_gradients_have_the_dtype_of_the_inputs(net, images):
    x = images[0].clone().requires_grad_()
    logits = Reduced(net.eval())(x)
    (g,) = torch.autograd.grad(logits.sum(), x)
    assert logits.dtype == g.dtype == torch.float32
    exact = net(x)
    error = (logits - exact).abs().max()
    assert 0 < error < 0.02 * exact.abs().max(), "bfloat16 has eight bits"


@pytest.mark.parametrize("attack", [PGD(T, steps=20, restarts=2), APGD(T, steps=20), FAB(T, steps=20)])
def test_the_verdicts_are_those_of_the_model_itself(net, images, attack, tmp_path):
    full = evaluate(net, images, {"a": attack}, T, seed=1)
    found = evaluate(net, images, {"a": attack}, T, seed=1, precision="bf16", evidence_dir=tmp_path)
    assert found.precision == "bf16"
    assert torch.equal(found.outcomes["a"], full.outcomes["a"])
    assert torch.equal(found.clean.outcomes, full.clean.outcomes)
    assert verify(tmp_path, net, images).ok, "its points fool the model in full precision"


def test_who_is_fooled_in_bfloat16_only_is_attacked_in_full_precision():
    model, x, y = Rounded(), torch.ones(3, 2), torch.zeros(3, dtype=torch.int64)
    assert not correct(logits_of(Reduced(model), x), y).any()
    assert correct(logits_of(model, x), y).all()
    runs = []

    def attack(lent, x, y):
        runs.append((isinstance(lent, Reduced), len(x)))
        return x if isinstance(lent, Reduced) else x - torch.tensor([0.0, 1.0])

    threat = Threat("linf", 1.0, bounds=None)
    found = evaluate(model, (x, y), {"a": attack}, threat, precision="bf16")
    assert runs == [(True, 3), (False, 3)]
    assert found["a"].score.correct == 0
    runs.clear()
    assert evaluate(model, (x, y), {"a": attack}, threat)["a"].score.correct == 0
    assert runs == [(False, 3)]


def test_the_table_and_the_file_say_so(net, images, tmp_path):
    found = evaluate(net, images, PGD(T, steps=2), T, precision="bf16")
    assert "Attacks ran in bf16; every verdict was made in full precision." in found.table()
    assert Evaluation.load(found.save(tmp_path)).precision == "bf16"
    values = found.to_dict()
    del values["precision"]  # as files of before have it
    assert Evaluation.from_dict(json.loads(json.dumps(values))).precision == "full"


def test_unfinished_work_in_another_precision_is_not_taken_up(net, images, tmp_path):
    def press(progress):
        if progress.stage == "pgd" and progress.done >= 8:
            raise KeyboardInterrupt

    options = {"batch_size": 8, "evidence_dir": tmp_path}
    with pytest.raises(EvaluationInterrupted):
        evaluate(net, images, PGD(T, steps=2), T, progress=press, **options)
    told = []
    evaluate(net, images, PGD(T, steps=2), T, progress=told.append, precision="bf16", **options)
    assert next(p.done for p in told if p.stage == "pgd") == 0


def test_another_precision_is_refused(net, images):
    with pytest.raises(ValueError, match="precision must be one of 'full', 'bf16', got 'fp8'"):
        evaluate(net, images, PGD(T), T, precision="fp8")


def test_how_close_to_the_boundary_is_close():
    """Within four rounding errors of the sample itself, whatever the scale of the logits."""
    logits = torch.tensor([[3.9, 0.0], [4.1, 0.0], [4.1e3, 0.0], [3.9e3, 0.0], [1.0, 0.0]])
    error = torch.tensor([[1.0], [1.0], [1e3], [1e3], [0.0]])
    x, y = torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64)
    lost = lost_in_rounding(x + 0.1, x, logits, logits + error, y)
    assert lost.tolist() == [True, False, False, True, False]


def test_an_attack_that_steps_onto_the_boundary_runs_in_full_precision(net, images):
    found = evaluate(net, images, {"a": FAB(T, steps=5)}, T, precision="bf16")
    seen = []
    handle = net.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    evaluate(net, images, {"a": FAB(T, steps=5)}, T, precision="bf16")
    handle.remove()
    assert not any(seen)
    assert torch.equal(found.outcomes["a"], evaluate(net, images, {"a": FAB(T, steps=5)}, T).outcomes["a"])


def test_who_is_given_back_as_they_are_is_attacked_in_full_precision(net, images):
    """However sure the model is of them: that an attack found nothing does not tell how close it came."""
    x, y = images
    runs = []

    def attack(lent, x, y):
        runs.append(isinstance(lent, Reduced))
        return x if isinstance(lent, Reduced) else (x + T.eps / 2).clamp(0, 1)

    evaluate(net, (x, y), {"a": attack}, T, precision="bf16", batch_size=len(x))
    assert runs == [True, False]

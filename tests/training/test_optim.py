from __future__ import annotations

import json
import math

import pytest
import torch

from robustreg.training.optim import OPTIMIZERS, build_optimizer, build_schedule
from robustreg.training.schedules import SHAPES

TOTAL = 40


def rates(name, total=TOTAL, lr=0.5, opt="sgd", **options):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(opt, [parameter], lr=lr)
    schedule = build_schedule(name, optimizer, total, **options)
    seen = []
    for _ in range(total):
        seen.append(dict(optimizer.param_groups[0]))
        optimizer.step()
        schedule.step()
    return seen


def lrs(*args, **options):
    return [group["lr"] for group in rates(*args, **options)]


def torch_rates(make, total=TOTAL, lr=0.5):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    schedule = make(optimizer)
    seen = []
    for _ in range(total):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_steps_as_torchs_own(name):
    start = torch.randn(5, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    cls = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    options = {"lr": 0.1, "weight_decay": 0.02}
    mine, reference = build_optimizer(name, [ours], **options), cls([theirs], **options)
    for _ in range(4):
        for parameter, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            (parameter**2).sum().backward()
            optimizer.step()
    assert torch.equal(ours, theirs)


def test_torchs_defaults_are_ours():
    parameter = torch.nn.Parameter(torch.zeros(1))
    for name, cls in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        assert build_optimizer(name, [parameter]).defaults == cls([parameter]).defaults


def test_cosine_is_torchs():
    reference = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.05))
    assert lrs("cosine", final=0.1) == pytest.approx(reference)


def test_onecycle_is_torchs():
    reference = torch_rates(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.5, total_steps=TOTAL))
    assert lrs("onecycle") == pytest.approx(reference)


def test_multistep_is_torchs_in_fractions_and_in_epochs():
    reference = torch_rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [20, 30], 0.1))
    assert lrs("multistep", milestones=[0.5, 0.75]) == pytest.approx(reference)
    assert lrs("multistep", milestones=[4, 6], epochs=8) == pytest.approx(reference)


def test_exponential_is_torchs():
    reference = torch_rates(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 1 / 1.1))
    assert lrs("exponential", divide=1.1) == pytest.approx(reference)
    assert lrs("exponential", divide=1.1, floor=0.5) == pytest.approx([max(0.25, r) for r in reference])
    assert lrs("exponential", final=0.01)[-1] == pytest.approx(0.005)


def test_cyclic_rises_to_the_peak_and_falls_to_the_end():
    values = lrs("cyclic", peak=0.4)
    top = values.index(max(values))
    assert top == 15
    assert values[top] == pytest.approx(0.5)
    assert values[0] == pytest.approx(0.5 / 16)
    steps = [values[i + 1] - values[i] for i in range(TOTAL - 1)]
    assert steps[:top] == pytest.approx([0.5 / 16] * top)
    assert steps[top:] == pytest.approx([-0.5 / 24] * (TOTAL - 1 - top))


def test_piecewise_is_cyclic_where_its_points_are():
    points = [[0, 0.0], [0.4, 1.0], [8, 0.25]]
    assert lrs("piecewise", points=points, epochs=8) == pytest.approx(lrs("cyclic", peak=0.4, final=0.25))


def test_piecewise_jumps_where_two_points_share_a_place():
    """A warm-up over 2 of 8 epochs, constant up to 4, half of it up to 6, and a tenth from there on."""
    points = [[0, 0.0], [2, 1.0], [4, 1.0], [4, 0.5], [6, 0.5], [6, 0.1]]
    values = lrs("piecewise", points=points, epochs=8, lr=1.0)
    assert values[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert values[10:] == pytest.approx([1.0] * 10 + [0.5] * 10 + [0.1] * 10)


def test_piecewise_is_constant_before_its_first_point():
    assert lrs("piecewise", points=[[0.5, 0.4], [0.5, 0.2]], lr=1.0) == pytest.approx([0.4] * 20 + [0.2] * 20)


def test_warm_up_is_linear_and_never_zero():
    for name in ("constant", "cosine"):
        values = lrs(name, warmup=0.25)
        assert values[:11] == pytest.approx([0.5 * (i + 1) / 11 for i in range(11)])
        assert values[10] == pytest.approx(0.5)


@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize("name", SHAPES)
def test_short_runs_are_no_trouble(name, total):
    options = {"divide": 1.1} if name == "exponential" else {}
    values = lrs(name, total=total, **options)
    assert all(0 <= v <= 0.5 + 1e-12 and math.isfinite(v) for v in values)
    assert sum(values) > 0


def test_momentum_ramps_as_in_the_maxout_configurations():
    """0.5 to 0.7 in a line over the run, or over a part of it."""
    values = [g["momentum"] for g in rates("constant", momentum=[0.5, 0.7])]
    assert values == pytest.approx([0.5 + 0.2 * i / TOTAL for i in range(TOTAL)])
    half = [g["momentum"] for g in rates("constant", momentum=[0.5, 0.7], momentum_until=0.5)]
    assert half[20:] == pytest.approx([0.7] * 20)
    betas = [g["betas"] for g in rates("constant", opt="adam", momentum=[0.8, 0.9])]
    assert betas[20] == pytest.approx((0.85, 0.999))


def test_a_schedule_needs_no_pickle_and_resumes():
    parameter = torch.nn.Parameter(torch.zeros(1))
    whole = lrs("cosine", warmup=0.1, momentum=[0.5, 0.9])
    optimizer = build_optimizer("sgd", [parameter], lr=0.5)
    schedule = build_schedule("cosine", optimizer, TOTAL, warmup=0.1, momentum=[0.5, 0.9])
    for _ in range(13):
        optimizer.step()
        schedule.step()
    state = json.loads(json.dumps(schedule.state_dict()))
    other = build_optimizer("sgd", [parameter], lr=0.5)
    second = build_schedule("cosine", other, TOTAL, warmup=0.1, momentum=[0.5, 0.9])
    other.load_state_dict(optimizer.state_dict())
    second.load_state_dict(state)
    rest = []
    for _ in range(13, TOTAL):
        rest.append(other.param_groups[0]["lr"])
        other.step()
        second.step()
    assert rest == whole[13:]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda p, o: build_optimizer("adma", p), "unknown optimizer 'adma'; did you mean 'adam'"),
        (
            lambda p, o: build_optimizer("sgd", p, momentun=1),
            "has no option 'momentun'; did you mean 'momentum'",
        ),
        (lambda p, o: build_optimizer("adam", p, betas=[0.9]), "expected two numbers"),
        (lambda p, o: build_optimizer("sgd", p, lr=-1), "learning rate"),
        (
            lambda p, o: build_schedule("cosin", o, 9),
            "unknown learning-rate schedule 'cosin'; did you mean 'cosine'",
        ),
        (lambda p, o: build_schedule("cosine", o, 9, warm=1), "no option 'warm'; did you mean 'warmup'"),
        (lambda p, o: build_schedule("cosine", o, 9, warmup=1.5), r"fraction of the run in \[0, 1\)"),
        (lambda p, o: build_schedule("piecewise", o, 9, points=[]), r"pairs \[when, factor\], got \[\]"),
        (lambda p, o: build_schedule("piecewise", o, 9, points=[[0, 1], [1]]), r"pairs \[when, factor\]"),
        (lambda p, o: build_schedule("piecewise", o, 9, points=[[0.5, 1], [0, 1]]), "one another"),
        (lambda p, o: build_schedule("piecewise", o, 9, points=[[3, 1]]), "the epochs are not known"),
        (lambda p, o: build_schedule("cyclic", o, 9, peak=-0.1), r"fraction of the run in \[0, 1\)"),
        (lambda p, o: build_schedule("multistep", o, 9, milestones=[3]), "epochs are not known"),
        (lambda p, o: build_schedule("exponential", o, 9), "needs either divide"),
        (lambda p, o: build_schedule("exponential", o, 9, divide=0.9), "at least 1"),
        (lambda p, o: build_schedule("exponential", o, 9, final=0), "above 0"),
        (lambda p, o: build_schedule("constant", o, 9, momentum=0.5), "two numbers"),
        (
            lambda p, o: build_schedule("constant", torch.optim.Adagrad(p), 9, momentum=[0, 1]),
            "Adagrad has no momentum",
        ),
    ],
)
def test_settings_that_cannot_be(build, message):
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    with pytest.raises(ValueError, match=f"(?i){message}"):
        build(parameters, torch.optim.SGD(parameters, lr=0.1))


def test_an_optimiser_of_the_users_own():
    OPTIMIZERS["rmsprop"] = torch.optim.RMSprop
    try:
        parameters = [torch.nn.Parameter(torch.zeros(1))]
        assert build_optimizer("rmsprop", parameters, alpha=0.9).defaults["alpha"] == 0.9
        with pytest.raises(ValueError, match="optimizer rmsprop has no option 'alhpa'; did you mean 'alpha'"):
            build_optimizer("rmsprop", parameters, alhpa=0.9)
    finally:
        del OPTIMIZERS["rmsprop"]

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, TensorDataset

from robustreg import PGD, CrossEntropy
from robustreg.module import ObjectiveModule
from robustreg.training import loop
from robustreg.training.handler import Handler
from robustreg.training.loop import Trainer


def test_the_loop_is_readable_at_a_sitting():
    assert len(Path(inspect.getsourcefile(loop)).read_text().splitlines()) < 250


def test_events_come_in_order(tools):
    recorder = tools.Recorder()
    trainer = tools.trainer((recorder,), epochs=2, n=16)
    assert trainer.total == 4
    trainer.fit()
    step = ["step_start", "gradients", "updated", "step_end"]
    expected = ["setup", "start", *(["epoch_start", *step, *step, "epoch_end"] * 2), "end"]
    assert [name for name, _ in recorder.events] == expected
    assert [at for name, at in recorder.events if name == "step_end"] == [1, 2, 3, 4]
    assert (trainer.step, trainer.epoch, trainer.status) == (4, 2, "finished")


def test_one_step_is_the_step_written_by_hand(tools):
    trainer = tools.trainer(steps=3, net=tools.net(batch_norm=True))
    trainer.fit()

    net = tools.net()
    from robustreg.data import Loader
    from robustreg.training.optim import build_optimizer, build_schedule

    optimizer = build_optimizer("sgd", net.parameters(), lr=0.1, momentum=0.9)
    schedule = build_schedule("cosine", optimizer, 3)
    module = ObjectiveModule(net, tools.objective(), seed=7)
    batches = iter(Loader(tools.data(), 8, shuffle=True, seed=3, augment=["crop1", "flip"]))
    for step in range(3):
        x, y = next(batches)
        optimizer.zero_grad()
        module(x, y, step=step, progress=step / 3).backward()
        optimizer.step()
        schedule.step()
    for name, value in net.state_dict().items():
        assert torch.equal(value, trainer.module.net.state_dict()[name]), name


def test_it_learns(tools):
    trainer = tools.trainer(
        epochs=12, n=96, objective=CrossEntropy(), optimizer={"name": "adam", "lr": 0.01}
    ).fit()
    x, y = tools.data(96, seed=1)[:]
    trainer.module.eval()
    assert (trainer.module.net(x).argmax(1) == y).float().mean() > 0.9


def test_steps_that_end_inside_an_epoch(tools):
    recorder = tools.Recorder()
    trainer = tools.trainer((recorder,), steps=7)
    trainer.fit()
    assert (trainer.step, trainer.epoch, trainer.batches.position) == (7, 1, 2)
    assert [name for name, _ in recorder.events].count("epoch_end") == 1
    assert trainer.status == "finished"


def test_stop_ends_after_the_step_in_hand(tools):
    recorder = tools.Recorder()
    trainer = tools.trainer((tools.StopAt(3), recorder))
    trainer.fit()
    assert (trainer.step, trainer.status) == (3, "interrupted")
    assert recorder.events[-3:] == [("step_end", 3), ("interrupt", 3), ("end", 3)]


def test_stop_in_the_very_last_step_is_a_finished_run(tools):
    recorder = tools.Recorder()
    trainer = tools.trainer((tools.StopAt(10), recorder), epochs=2)
    trainer.fit()
    assert (trainer.status, trainer.epoch) == ("finished", 2)
    assert recorder.events[-2:] == [("epoch_end", 10), ("end", 10)]


def test_an_error_is_told_and_passes_through(tools):
    class Boom(Handler):
        def gradients(self, trainer):
            if trainer.step == 2:
                raise KeyError("boom")

    recorder = tools.Recorder()
    trainer = tools.trainer((recorder, Boom()))
    with pytest.raises(KeyError, match="boom"):
        trainer.fit()
    assert trainer.status == "failed"
    assert isinstance(trainer.error, KeyError)
    assert [name for name, _ in recorder.events][-2:] == ["exception", "end"]


def test_an_error_at_the_start_still_ends(tools):
    class Boom(Handler):
        def start(self, trainer):
            raise ValueError("no")

    recorder = tools.Recorder()
    trainer = tools.trainer((recorder, Boom()))
    with pytest.raises(ValueError, match="no"):
        trainer.fit()
    assert [name for name, _ in recorder.events][-2:] == ["exception", "end"]


def test_handlers_are_heard_in_their_order(tools):
    heard = []

    class Late(Handler):
        order = 50

        def step_end(self, trainer):
            heard.append("late")

    class Early(Handler):
        order = 0

        def step_end(self, trainer):
            heard.append("early")

    tools.trainer((Late(), Early()), steps=1).fit()
    assert heard == ["early", "late"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 1, "steps": 2}, "either epochs or steps"),
        ({}, "either epochs or steps"),
        ({"epochs": 0}, "at least one step"),
        ({"steps": -1}, "at least one step"),
    ],
)
def test_a_length_that_cannot_be(tools, given, message):
    net = tools.net()
    module = ObjectiveModule(net, CrossEntropy(), seed=0)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(ValueError, match=message):
        Trainer(module, optimizer, [tools.data()[:8]], fabric=Fabric(accelerator="cpu", devices=1), **given)


def test_epochs_of_a_loader_without_length(tools):
    def batches():
        yield tools.data()[:8]

    net = tools.net()
    module = ObjectiveModule(net, CrossEntropy(), seed=0)
    with pytest.raises(ValueError, match=r"no length.*give steps"):
        Trainer(module, torch.optim.SGD(net.parameters(), 0.1), batches(), epochs=1)


def test_a_loader_that_gives_nothing_is_refused_and_not_waited_for(tools):
    class Empty:
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match=r"the loader \(Empty\) gave no batch"):
        tools.trainer(loader=Empty(), steps=2).fit()


def test_float16_is_refused(tools):
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric._precision.precision = "16-mixed"  # Fabric itself has it on GPUs only
    with pytest.raises(ValueError, match=r"16-mixed.*bf16-mixed"):
        tools.trainer(fabric=fabric)


def test_bfloat16_trains_close_to_float32(tools):
    """The weights stay float32, and the loss follows that of float32 to bfloat16's precision."""
    exact = tools.trainer(steps=5, net=tools.net(dropout=0.0)).fit()
    mixed = tools.trainer(steps=5, net=tools.net(dropout=0.0), precision="bf16-mixed").fit()
    assert all(p.dtype == torch.float32 for p in mixed.module.parameters())
    assert mixed.loss.item() != exact.loss.item()
    assert mixed.loss.item() == pytest.approx(exact.loss.item(), rel=0.1)


def test_bfloat16_leaves_the_inputs_alone(tools):
    """A perturbation rounded to bfloat16 with its pixels would leave its ball."""
    seen = []

    class Inside(CrossEntropy):
        def __call__(self, probe):
            seen.append((probe.x, probe.at(PGD(tools.threat, steps=2)).detach()))
            return super().__call__(probe)

    net = tools.net()
    loader = [tools.data()[:8]]
    tools.trainer(loader=loader, epochs=1, net=net, precision="bf16-mixed", objective=Inside()).fit()
    x, x_adv = seen[-1]
    assert x.dtype == x_adv.dtype == torch.float32
    assert torch.equal(x, loader[0][0])
    assert tools.threat.contains(x_adv, x).all()


def test_any_iterable_of_batches_will_do(tools):
    x, y = tools.data()[:]
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    trainer = tools.trainer(loader=loader, epochs=2).fit()
    assert trainer.step == 10

from __future__ import annotations

import io
import re

import pytest
import torch
from rich.console import Console

from robustreg.training import tree
from robustreg.training.progress import ProgressBar
from robustreg.training.validation import Validation


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def test_without_a_terminal_there_is_a_line_an_epoch(tools):
    out = console(False)
    tools.trainer((ProgressBar(out, "digits"), Validation(tools.data(12), None)), epochs=2).fit()
    lines = out.file.getvalue().splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"digits epoch 2, step 10/10: loss [\d.]+  clean [\d.]+ % \(\d+ s\)", lines[1])


def test_on_a_terminal_there_is_a_bar_with_numbers_and_time_left(tools):
    out = console(True)
    handler = ProgressBar(out, "digits", interval=0.0)
    trainer = tools.trainer((handler, Validation(tools.data(12), None)), epochs=2).fit()
    shown = out.file.getvalue()
    assert "digits" in shown
    assert "10/10" in shown
    assert f"loss {trainer.loss.item():.4f}" in shown
    assert f"clean {100 * trainer.scores['clean']:.1f} %" in shown
    assert re.search(r"left\s+\d:\d\d:\d\d", shown)


def test_the_terminal_is_given_back_after_an_error(tools):
    class Boom(tools.StopAt):
        def step_end(self, trainer):
            raise ValueError("boom")

    handler = ProgressBar(console(True))
    with pytest.raises(ValueError, match="boom"):
        tools.trainer((handler, Boom(0))).fit()
    assert handler._bar is None
    assert handler.console.show_cursor() is True


def test_it_changes_nothing(tools):
    torch.manual_seed(0)
    alone = tools.trainer(steps=3).fit()
    torch.manual_seed(0)
    shown = tools.trainer((ProgressBar(console(True), interval=0.0),), steps=3).fit()
    assert tree.same(alone.state_dict()["network"], shown.state_dict()["network"])
    assert tree.same(alone.state_dict()["random"], shown.state_dict()["random"])

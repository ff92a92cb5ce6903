"""Telling how far an evaluation is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Progress:
    """Where an evaluation stands after a batch.

    Attributes:
        stage: "clean", the name of an attack, "name: member" for one that is made of several, or "curve eps ...".
        done: samples of this stage that are finished.
        total: samples of this stage.
        standing: how many of the finished ones are still right.
    """

    stage: str
    done: int
    total: int
    standing: int


class Reporter(Protocol):
    """What `evaluate` tells its progress to."""

    def __enter__(self) -> Reporter: ...

    def __exit__(self, *exc: object) -> None: ...

    def __call__(self, progress: Progress) -> None:
        """Take note of it."""


def reporter(progress: bool | Callable[[Progress], object] | None) -> Reporter:
    """Return a reporter for the option of `evaluate`: True draws bars, a function is called, None is mute."""
    if progress is True:
        return RichBars()
    if progress is None or progress is False:
        return Callback(lambda _: None)
    if not callable(progress):
        raise TypeError(f"progress must be True, None or a function of a Progress, got {progress!r}")
    return Callback(progress)


class Callback:
    """Hands the progress to a function."""

    def __init__(self, function: Callable[[Progress], object]) -> None:
        self._function = function

    def __enter__(self) -> Callback:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __call__(self, progress: Progress) -> None:
        """Pass it on."""
        self._function(progress)


class RichBars:
    """One bar a stage with the time left and the accuracy so far; needs `rich`, imported when used."""

    def __init__(self) -> None:
        try:
            from rich import progress as bars
        except ImportError as error:
            raise ImportError(
                "progress=True draws bars with rich: install robustreg[train] or rich"
            ) from error
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[right]}"),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> RichBars:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Draw it."""
        right = f"{progress.standing} right"
        if progress.stage not in self._tasks:
            task = self._bars.add_task(progress.stage, total=progress.total, right=right)
            self._tasks[progress.stage] = task
        self._bars.update(self._tasks[progress.stage], completed=progress.done, right=right)

"""The command line: `robustreg train | adopt | evaluate | audit | compare | leaderboard | report | verify | ...`.

Each command is one file in `commands/`, and imports what it needs when it runs: help and mistyped options
must answer at once, so nothing here may import torch. Whatever goes wrong ends as one sentence on stderr and
an exit code: 2 for a command, option or recipe that cannot be used, 1 for work that failed; `audit` also
ends with 3 and 4, the verdicts suspicious and masked.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

PROG = "robustreg"
USAGE, FAILURE, INTERRUPTED = 2, 1, 130
EXTRA_OF = {
    "plotly": "report",
    "jinja2": "report",
    "latex2mathml": "report",
    "tensorboard": "loggers",
    "mlflow": "loggers",
    "wandb": "loggers",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. `--debug` anywhere shows the traceback of an error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _main(words)
    finally:
        if arguments is None:  # the process ends now
            # Ctrl-C while Python clears up would print a traceback and still exit with 0.
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _main(words: list[str]) -> int:
    debug = _take_flag(words, "--debug")
    # Idle OpenMP threads that spin starve each other on small shared machines; read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]  # mypy wants the stub's own names
            return _run(words)
    except (KeyboardInterrupt, _Interrupted) as stop:
        return _say(str(stop) or "interrupted", INTERRUPTED)
    except BrokenPipeError:  # `robustreg list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        return _explain(error)


class _Interrupted(Exception):
    """A KeyboardInterrupt that Typer does not swallow: an evaluation says in it what is kept."""


def _interruptible(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except KeyboardInterrupt as stop:
            raise _Interrupted(str(stop)) from stop

    return run


def app() -> typer.Typer:
    """The commands as a Typer application."""
    import typer

    from robustreg.commands import (
        adopt,
        audit,
        compare,
        connections,
        demo,
        evaluate,
        export,
        leaderboard,
        listing,
        report,
        root,
        show,
        train,
        verify,
    )

    application = typer.Typer(
        name=PROG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.callback()(root.root)
    for module in (
        train,
        adopt,
        evaluate,
        audit,
        compare,
        leaderboard,
        report,
        verify,
        export,
        connections,
        listing,
        show,
        demo,
    ):
        name = "list" if module is listing else module.__name__.rpartition(".")[2]
        command = getattr(module, name if name != "list" else "list_names")
        application.command(name)(_interruptible(command))
    return application


def _run(words: list[str]) -> int:
    try:
        application = app()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == PROG:
            raise
        return _say(_missing_extra(error), FAILURE)
    result: Any = application(args=words, prog_name=PROG, standalone_mode=False)
    return result if isinstance(result, int) else 0


def _explain(error: Exception) -> int:
    if hasattr(error, "format_message"):  # click's and typer's own: unknown command, option or argument
        sentence, code = error.format_message(), getattr(error, "exit_code", USAGE)
        return _say(f"{sentence} (see {_help_of(error)})", code) if sentence else code
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] != PROG:
        return _say(_missing_extra(error), FAILURE)
    if type(error).__name__ in ("RecipeError", "UsageError"):
        return _say(str(error), USAGE)
    text = str(error).strip() or type(error).__name__
    if not isinstance(error, (ValueError, OSError, RuntimeError, TypeError, LookupError, ImportError)):
        text = f"{type(error).__name__}: {text}"
    return _say(text, FAILURE)


def _help_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context is not None else PROG} --help"


def _missing_extra(error: ModuleNotFoundError) -> str:
    if "robustreg[" in str(error):  # whoever raised it has said it already
        return str(error)
    module = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(module, "train")
    return f'{module} is not installed, which this needs: pip install "robustreg[{extra}]"'


def _say(sentence: str, code: int) -> int:
    print(f"{PROG}: {sentence}", file=sys.stderr)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """A sentence, like an error's, and not a place in this library's code."""
    kind = "warning" if category is UserWarning else category.__name__
    print(f"{PROG}: {kind}: {message}", file=sys.stderr)


def _take_flag(words: list[str], flag: str) -> bool:
    end = words.index("--") if "--" in words else len(words)
    if flag in words[:end]:
        words.remove(flag)
        return True
    return False

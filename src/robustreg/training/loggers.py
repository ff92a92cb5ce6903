"""Experiment trackers by name, imported only when asked for."""

from __future__ import annotations

import importlib.util
import os
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import Logger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from robustreg.registry import suggestion

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


def build_logger(name: str, run_dir: Path, run_name: str = "") -> Logger:
    """The tracker `name`: "tensorboard", "mlflow" or "wandb".

    It writes under `run_dir` unless its own settings (`MLFLOW_TRACKING_URI`, ...) say otherwise.

    Raises:
        ValueError: unknown name, with the closest known.
        ModuleNotFoundError: the package is not installed; the message says how to get it.
    """
    if name not in PACKAGES:
        raise ValueError(f"unknown logger {name!r}{suggestion(name, PACKAGES)}.")
    if importlib.util.find_spec(PACKAGES[name]) is None:
        raise ModuleNotFoundError(
            f'the logger {name!r} needs the package {PACKAGES[name]}: pip install "robustreg[loggers]".'
        )
    title = run_name or run_dir.name
    if name == "tensorboard":
        return TensorBoardLogger(root_dir=run_dir / "tensorboard", name="", version="")
    return MLflowLogger(run_dir, title) if name == "mlflow" else WandbLogger(run_dir, title)


class MLflowLogger(Logger):
    """MLflow through its client, by default into `run_dir/mlruns`."""

    def __init__(self, run_dir: Path, title: str) -> None:
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:  # plain files in the run's folder, which MLflow 3 only allows when told
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (run_dir / "mlruns").resolve().as_uri()
        self._client: Any = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name("robustreg")
        number = (
            self._client.create_experiment("robustreg") if experiment is None else experiment.experiment_id
        )
        self._run_id: str = self._client.create_run(number, run_name=title).info.run_id
        self._title = title

    @property
    def name(self) -> str:
        """The run's name."""
        return self._title

    @property
    def version(self) -> str:
        """The run's identifier."""
        return self._run_id

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Send values."""
        for key, value in metrics.items():
            allowed = re.sub(
                r"[^\w\-./: ]", ".", key, flags=re.ASCII
            )  # not the "#" of a second term of a kind
            self._client.log_metric(self._run_id, allowed, value, step=step or 0)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Send settings."""
        for key, value in (vars(params) if isinstance(params, Namespace) else params).items():
            self._client.log_param(self._run_id, key, value)

    def finalize(self, status: str) -> None:
        """End the run."""
        outcome = {"finished": "FINISHED", "interrupted": "KILLED"}.get(status, "FAILED")
        self._client.set_terminated(self._run_id, outcome)


class WandbLogger(Logger):
    """Weights & Biases; its files go to `run_dir/wandb`."""

    def __init__(self, run_dir: Path, title: str) -> None:
        import wandb

        run_dir.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(project="robustreg", name=title, dir=str(run_dir))
        self._title = title

    @property
    def name(self) -> str:
        """The run's name."""
        return self._title

    @property
    def version(self) -> str:
        """The run's identifier."""
        return str(self._run.id)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Send values."""
        self._run.log(metrics, step=step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Send settings."""
        self._run.config.update(vars(params) if isinstance(params, Namespace) else params)

    def finalize(self, status: str) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if status == "finished" else 1)

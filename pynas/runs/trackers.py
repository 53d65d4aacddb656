"""Trackers of experiments: TensorBoard, MLflow, Weights & Biases and Trackio, each by its own library."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

PROJECT, TABLE = "pynas", "networks"
Rows = Sequence[Mapping[str, Any]]


class Tracker(Protocol):
    """One tracker of a run.

    folder: the run's, in which what is kept locally lies in a subfolder of the tracker's name.
    """

    def __init__(self, folder: Path) -> None: ...

    def start(self, name: str, settings: Mapping[str, Any], known: str | None) -> str:
        """Begin a run of this name and settings, or go on with the known one; return its identity."""
        ...

    def log(self, training: str, step: int, values: Mapping[str, float]) -> None:
        """Log values of a step of a training, counted from 1."""
        ...

    def figure(self, path: Path) -> None:
        """Log a picture."""
        ...

    def table(self, rows: Rows) -> None:
        """Log what was found: rows of the same columns."""
        ...

    def close(self, whole: bool) -> None:
        """End the run, or leave it as stopped."""
        ...


class TensorBoard:
    """Event files in `tensorboard`, a subfolder for each training; the steps that a resumed training repeats are replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.writers = folder / "tensorboard", dict[str, Any]()

    def start(self, name: str, settings: Mapping[str, Any], known: str | None) -> str:
        return str(self.folder)

    def log(self, training: str, step: int, values: Mapping[str, float]) -> None:
        writer = self._writer(training, step)
        for name, value in values.items():
            writer.add_scalar(f"{training}/{name}", value, step)

    def figure(self, path: Path) -> None:
        from matplotlib.pyplot import imread

        self._writer("results").add_image(path.stem, imread(path)[..., :3], dataformats="HWC")

    def table(self, rows: Rows) -> None:
        cells = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
        self._writer("results").add_text(TABLE, "\n".join(lines))

    def close(self, whole: bool) -> None:
        for writer in self.writers.values():
            writer.close()

    def _writer(self, training: str, step: int = 0) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if training not in self.writers:
            folder = str(self.folder / training.replace(" ", "_"))
            self.writers[training] = SummaryWriter(folder, purge_step=step or None)
        return self.writers[training]


class MLflow:
    """Runs of MLflow's experiment `pynas`: at MLFLOW_TRACKING_URI, else in the database `mlflow/mlflow.db` of the run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.waiting, self.flushed = folder / "mlflow", list[Any](), time.monotonic()

    def start(self, name: str, settings: Mapping[str, Any], known: str | None) -> str:
        from mlflow import MlflowClient

        uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            self.folder.mkdir(parents=True, exist_ok=True)
            uri, artifacts = (
                f"sqlite:///{self.folder.resolve()}/mlflow.db",
                (self.folder.resolve() / "artifacts").as_uri(),
            )
        self.client = MlflowClient(uri)
        if known is not None:
            self.client.update_run(known, status="RUNNING")
            self.id = known
            return known
        found = self.client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self.client.create_experiment(PROJECT, artifacts)
        self.id = self.client.create_run(experiment, run_name=name).info.run_id
        for key, value in settings.items():
            self.client.log_param(self.id, key, value)
        return self.id

    def log(self, training: str, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.waiting += [Metric(f"{training}/{name}", value, now, step) for name, value in values.items()]
        if len(self.waiting) > 500 or time.monotonic() > self.flushed + 2:
            self._flush()

    def figure(self, path: Path) -> None:
        self.client.log_artifact(self.id, str(path))

    def table(self, rows: Rows) -> None:
        self.client.log_table(self.id, {name: [row.get(name) for row in rows] for name in rows[0]}, f"{TABLE}.json")
        for name, value in rows[0].items():
            if isinstance(value, int | float):
                self.client.log_metric(self.id, f"best/{name}", value)

    def close(self, whole: bool) -> None:
        self._flush()
        self.client.set_terminated(self.id, "FINISHED" if whole else "KILLED")

    def _flush(self) -> None:
        while self.waiting:  # MLflow takes 1,000 at a time
            self.client.log_batch(self.id, metrics=self.waiting[:1000])
            del self.waiting[:1000]
        self.flushed = time.monotonic()


class WandB:
    """Runs of the project `pynas` of Weights & Biases: in `wandb` of the run's folder, for `wandb sync`, without a login.

    After `wandb login`, or with WANDB_API_KEY, they go to its server; WANDB_MODE goes before that.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.trainings = folder, set[str]()

    def start(self, name: str, settings: Mapping[str, Any], known: str | None) -> str:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        identity = known or os.urandom(4).hex()
        self.run: Any = wandb.init(project=PROJECT, name=name, id=identity, dir=str(self.folder), config=dict(settings),
                                   mode=mode, resume="allow", settings=wandb.Settings(silent=True))  # fmt: skip
        return identity

    def log(self, training: str, step: int, values: Mapping[str, float]) -> None:
        if training not in self.trainings:
            self.trainings.add(training)
            self.run.define_metric(f"{training}/*", step_metric=f"{training}/step")
        self.run.log({f"{training}/step": step, **{f"{training}/{name}": value for name, value in values.items()}})

    def figure(self, path: Path) -> None:
        import wandb

        self.run.log({path.stem: wandb.Image(str(path))})

    def table(self, rows: Rows) -> None:
        import wandb

        self.run.log({TABLE: wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])})
        self.run.summary.update({f"best/{name}": value for name, value in rows[0].items()})

    def close(self, whole: bool) -> None:
        self.run.finish(exit_code=0 if whole else 1)


class Trackio:
    """Runs of the project `pynas` of Trackio: in its own folder on this machine (TRACKIO_DIR), or where its variables say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, name: str, settings: Mapping[str, Any], known: str | None) -> str:
        import trackio

        name = known or f"{name}-{os.urandom(3).hex()}"  # Trackio knows runs by their names
        self.run = trackio.init(project=PROJECT, name=name, config=dict(settings), resume="allow", embed=False,
                                auto_log_gpu=False, auto_log_cpu=False)  # fmt: skip
        return name

    def log(self, training: str, step: int, values: Mapping[str, float]) -> None:
        self.run.log({f"{training}/{name}": value for name, value in values.items()}, step=step)

    def figure(self, path: Path) -> None:
        import trackio

        self.run.log({path.stem: trackio.Image(str(path))})

    def table(self, rows: Rows) -> None:
        import pandas
        import trackio

        self.run.log({TABLE: trackio.Table(dataframe=pandas.DataFrame(list(rows)))})

    def close(self, whole: bool) -> None:
        import trackio

        trackio.finish()


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB, "trackio": Trackio}

"""`pynas submit`: give a command line to Slurm, by submitit."""

from __future__ import annotations

import importlib.util
import os
import runpy
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pynas.cli import options


@dataclass
class Job:
    """Command line of one task of a job; submitit calls it, and submits it again when it is preempted or its time is over.

    words: those after `pynas`. cores: of each task; None where the cluster decides.
    """

    words: list[str]
    cores: int | None = None

    def __call__(self) -> None:
        """Join the other tasks by the variables that torchrun sets too, and run the command line."""
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        job = JobEnvironment()
        if job.num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if self.cores and hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) <= self.cores:
            os.environ["LOCAL_WORLD_SIZE"] = "1"  # these cores are not shared with other tasks
        # The signal reaches processes that read images too, which must not submit anything.
        number = getattr(signal, f"SIG{job.USR_SIG}")
        os.register_at_fork(after_in_child=lambda: signal.signal(number, signal.SIG_IGN))
        sys.argv = ["pynas", *self.words]
        runpy.run_module("pynas", run_name="__main__")

    def checkpoint(self) -> Any:
        """Return what to submit again: the same command line, which goes on where it was stopped."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def command(
    context: typer.Context,
    words: Annotated[list[str], typer.Argument(help="-- and a command line of pynas, with --run FOLDER.")],
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each machine, a process for each.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Processes on each machine where --gpus is 0.")] = 1,
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores of each process. Default: the cluster's.")] = None,
    hours: Annotated[float, typer.Option(min=0.02, help="Time limit; the job is submitted again then.")] = 24,
    partition: Annotated[str | None, typer.Option(help="Slurm's partition. Default: Slurm's.")] = None,
    name: Annotated[str, typer.Option(help="Name of the job.")] = "pynas",
    slurm: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of sbatch, as account=vision; or KEY=.")] = None,
    cluster: Annotated[str, typer.Option(help="slurm, or local: processes on this machine.")] = "slurm",
    logs: Annotated[Path | None, typer.Option(help="Folder of submitit's files. Default: RUN-submitit.")] = None,
    json: options.Json = False,
) -> None:
    """Submit a command line as a job, which goes on with the run when it is preempted or its time is over.

    Example: `pynas submit --nodes 2 --gpus 8 --hours 48 -- train --data imagenet/ --space mbconv-dna --run /shared/runs/dna`
    """
    from pynas.cli import display
    from pynas.errors import InputError
    from pynas.quantities import assignments

    run = _run_of(context, words)
    if cluster not in ("slurm", "local") or (cluster == "local" and nodes > 1):
        raise InputError(f"[submit] expected --cluster slurm, or local with one machine, got {cluster} with {nodes}")
    extra: Any = {key: value or True for key, value in assignments(slurm).items()}
    shape = {"name": name, "nodes": nodes, "tasks_per_node": gpus or processes, "gpus_per_node": gpus or None,
             "cpus_per_task": cpus, "timeout_min": round(60 * hours), "slurm_partition": partition,
             "slurm_additional_parameters": {"requeue": True, **extra}}  # fmt: skip
    folder = (logs or run.with_name(f"{run.name}-submitit")).absolute()
    job = _submit(Job(words, cpus), folder, cluster, shape)
    if json:
        display.print_json({"job": job, "logs": str(folder), "run": str(run)})
    else:
        display.say(
            f"Submitted as job {job}; logs: {folder}/{job}_0_log.out and .err; watch: pynas status {run} --watch"
        )


def _run_of(context: typer.Context, words: list[str]) -> Path:
    """Return the run's folder of a command line, which is parsed, not run.

    Raises:
        InputError: none is named: a job that is submitted again would begin anew.
    """
    from pynas.errors import InputError

    app: Any = context.find_root().command
    name, inner, rest = app.resolve_command(context.find_root(), list(words))
    run = inner.make_context(name, rest, parent=context.find_root()).params.get("run")
    if run is None:
        raise InputError(
            f"[submit] expected --run FOLDER after --, got {' '.join(words)!r}; name a folder that all machines reach"
        )
    return Path(run)


def _submit(job: Job, folder: Path, cluster: str, shape: dict[str, Any]) -> str:
    """Submit a job and return its number.

    folder: of logs. shape: parameters of `submitit.AutoExecutor`.

    Raises:
        InputError: no submitit, no Slurm, or Slurm refuses.
    """
    from pynas.errors import InputError, last_line

    if importlib.util.find_spec("submitit") is None:
        raise InputError('[submit] expected submitit, got no such package; pip install ".[submit]"')
    import submitit

    try:
        with submitit.helpers.clean_env():
            executor = submitit.AutoExecutor(folder, cluster=cluster)
            executor.update_parameters(**shape)
            return executor.submit(job).job_id
    except RuntimeError as error:
        raise InputError(
            f"[submit] expected {cluster} to take the job, got: {last_line(error)}; see --cluster and --slurm"
        ) from None

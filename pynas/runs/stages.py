"""The stages of a run, each from the files of the stage before it to files of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pynas import export, spaces, teachers
from pynas.cli.display import Show
from pynas.runs.recipe import LOADER, Flow
from pynas.runs.settings import Settings
from pynas.costs import Costs, LayerCosts, count, count_layers
from pynas.data import ImageData, Loader, load
from pynas.errors import InputError
from pynas.files import read_json
from pynas.methods.dna.scaling import load_scaled
from pynas.rating import Progress, ScoreTable
from pynas.rating.scores import load_block, save_block
from pynas.spaces import Architecture
from pynas.supernets import AutoFormer, Supernet, supernet
from pynas.tensor_files import read_tensors
from pynas.train import fit
from pynas.train.checkpoint import CHECKPOINT, load_weights
from pynas.train.loop import LAST
from pynas.train.team import is_first_process

SEARCH = "pynas.search"
# Batches that batch-norm statistics of a found network are re-estimated on.
CALIBRATION_BATCHES = 32


class Run:
    """A run's folder and what its settings stand for; parts are built when first needed."""

    def __init__(self, folder: Path, settings: Settings, flow: Flow, device: str = "auto", spread: str = "data"):
        self.folder, self.settings, self.flow, self.spread = folder, settings, flow, spread
        self.device = choose_device(device)
        flow.check_options(settings.options)
        self.space = spaces.get(settings.space)

    @property
    def options(self) -> dict[str, Any]:
        """All options of the flow, with the recipe's values or the defaults for those left open."""
        return self.flow.filled(self.settings.options)

    @property
    def method_options(self) -> dict[str, Any]:
        """Those among them that the method's constructor takes."""
        options = self.options
        return {name: options[name] for name in self.flow.method_options}

    @cached_property
    def data(self) -> ImageData:
        """The images, at the size that the space is meant for unless the settings say another.

        A pretrained teacher gets them normalised as it was trained on them.
        """
        size = self.settings.image_size or self.space.image_size
        settings = self.settings
        images = load(settings.data, size, val_fraction=settings.val_fraction, seed=settings.seed,
                      limit=settings.limit_images)  # fmt: skip
        named = self.named_teacher
        if named is not None and "mean" in named.metadata:
            images = replace(images, mean=tuple(named.metadata["mean"]), std=tuple(named.metadata["std"]))
        return images

    @cached_property
    def net(self) -> Supernet:
        """The supernet with fresh weights from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return supernet(self.space, self.data.num_classes)

    @cached_property
    def named_teacher(self) -> teachers.Teacher | None:
        """A teacher by its timm name; None for one that is made in the run and kept in its folder."""
        if self.settings.teacher in ("small", "scaled"):
            return None
        return teachers.timm_teacher(self.settings.teacher, self.settings.pretrained, taps=self.settings.taps)

    def teacher(self, progress: Callable[[int, int, float], None] | None = None) -> teachers.Teacher:
        """The named teacher, DNA+'s scaled one, or a small one, which is trained once and kept in the folder."""
        if self.named_teacher is not None:
            return self.named_teacher
        path = self.folder / "teacher.safetensors"
        if self.settings.teacher == "scaled":
            return load_scaled(path)
        if path.exists():
            return teachers.load_small(path)
        shape = self.data.image_shape
        blocks, stem = teachers.small_like(self.net.block_shapes(shape), shape)
        seed, device = self.settings.seed, self.device
        teacher = teachers.fit_small(self.data, blocks, stem, seed=seed, device=device, progress=progress)
        teachers.save_small(path, teacher)
        return teacher

    def method(self, show: Show) -> Any:
        """The method on the run's supernet and device, its teacher trained if need be."""
        with first_process_first():
            method = self.flow.build(self, show)
        # Convolutions are faster in this layout, on CPUs and on GPUs alike.
        return method.to(self.device, memory_format=torch.channels_last)

    def loader(self, part: str, augmentation: str = "none", views: int = 1, **options: Any) -> Loader:
        """Batches of a part of the data; options: those of `ImageData.loader`."""
        size = min(self.settings.batch_size, len(getattr(self.data, part)))
        return self.data.loader(part, size, augmentation, views=views, seed=self.settings.seed, device=self.device,
                                **options)  # fmt: skip

    def training_loader(self, augmentation: str | None = None) -> Loader:
        """The training images as the options say, where the method leaves them to the user, else as the flow says.

        augmentation: another than these.
        """
        said = {"augmentation": self.flow.augmentation}
        said |= {name: self.options[name] for name in LOADER if name in self.options}
        said |= {} if augmentation is None else {"augmentation": augmentation}
        return self.loader("train", views=self.flow.views, **said)

    def trained_method(self) -> tuple[Any, str]:
        """The method with the weights of the finished training, and the digest of these.

        Raises:
            InputError: no training, or one that has not finished.
        """
        path = self.folder / LAST
        if not path.exists():
            raise InputError(
                f"[run] expected a trained supernet, got no {path}; run `pynas train --run {self.folder}` first"
            )
        checkpoint = read_tensors(path, CHECKPOINT)
        position = checkpoint.metadata
        if position["step"] < position["steps"]:
            raise InputError(
                f"[run] expected a finished training, got step {position['step']} of {position['steps']}; "
                f"run `pynas train --run {self.folder}` to go on"
            )
        method = self.method(Show(None))
        load_weights(checkpoint, method)
        return method.eval(), checkpoint.digest


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is a device, else the CPU. Under torchrun each process has a GPU of its own.

    Raises:
        InputError: an unknown device, or CUDA where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"[device] expected auto, cpu or cuda, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"[device] expected a CUDA device for {name!r}, got none on this machine; use --device cpu")
    return device


def train(run: Run, show: Show, augmentation: str | None = None) -> None:
    """Train the teacher if need be, then the supernet; goes on where it was stopped.

    augmentation: another than the flow's.
    """
    method = run.method(show)
    loader = run.training_loader(augmentation)
    settings = run.settings
    fit(method, loader, settings.epochs, run.folder, seed=settings.seed, accumulate=settings.accumulate,
        on_step=show.steps(), spread=run.spread)  # fmt: skip


def rate(run: Run, loss: str, norm: str, show: Show) -> list[list[ScoreTable]]:
    """Score every path of every block; blocks that are rated already, from the same weights, are read.

    A rating that was stopped goes on where it was. Under torchrun the processes share the paths, and the first one
    writes.
    """
    method, digest = run.trained_method()
    batches = run.loader("val")
    metadata = {"checkpoint": digest, "data": run.data.fingerprint, "loss": loss, "norm": norm}
    folder, tables = run.folder / "scores", []
    meter = _Meter(show.paths(), sum(run.space.path_counts) * len(batches))
    for b, paths in enumerate(run.space.path_counts):
        path = folder / f"block_{b + 1}.npz"
        block, before = load_block(path) if path.exists() else ([], {})
        if before != metadata:
            partial = folder / f".{digest[:8]}-{loss}-{norm}-block_{b + 1}"
            block = method.rate_block(batches, b, loss=loss, norm=norm, progress=meter.inside, resume=partial)
            if is_first_process():
                save_block(path, block, **metadata)
        meter.block_done(paths * len(batches))
        tables.append(block)
    if is_first_process():
        costs(run)
    return tables


class _Meter:
    """Adds up the progress of ratings that come one after the other."""

    def __init__(self, report: Callable[[int, int], None] | None, total: int):
        self.report, self.total, self.blocks, self.cells, self.now = (
            report or (lambda done, total: None),
            total,
            0,
            0,
            0,
        )

    def inside(self, progress: Progress) -> None:
        """What one cell's rating says of itself."""
        if progress.done < self.now:
            self.cells += self.now
        self.now = progress.done
        self.report(self.blocks + self.cells + self.now, self.total)

    def block_done(self, evaluations: int) -> None:
        """A block is rated, or was before."""
        self.blocks, self.cells, self.now = self.blocks + evaluations, 0, 0
        self.report(self.blocks, self.total)


@contextlib.contextmanager
def processes(device: torch.device, folder: Path | None) -> Iterator[None]:
    """Join the processes that torchrun started; without it, nothing.

    Raises:
        InputError: several processes, and no folder that all work in.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if folder is None:
        raise InputError("[run] expected a folder for several processes to work in, got none; name it with --run")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def check_alone(command: str) -> None:
    """Raise InputError where torchrun started several processes for a command that is one process's work."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"[run] expected one process for `pynas {command}`, got {os.environ['WORLD_SIZE']}; "
                         "`pynas train`, `rate` and `retrain` share their work")  # fmt: skip


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """What the first process makes, the others then find made."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if together and not is_first_process():
        torch.distributed.barrier()
    yield
    if together and is_first_process():
        torch.distributed.barrier()


def costs(run: Run) -> Any:
    """The costs, counted once and kept: tables of paths, or values by layer where there are too many paths."""
    by_layer = isinstance(run.net, AutoFormer)
    path = run.folder / ("layer-costs.npz" if by_layer else "costs.npz")
    if path.exists():
        return (LayerCosts if by_layer else Costs).load(path)
    counted = (count_layers if by_layer else count)(run.net, run.data.image_shape)
    counted.save(path)
    return counted


def export_found(run: Run, architecture: Architecture | None) -> dict[str, Any]:
    """Take a network out of the supernet with its weights, re-estimate its batch norm, measure it, write it.

    architecture: the best of search.json when None.
    """
    method, digest = run.trained_method()
    return export_from(run, method.net, digest, architecture)


def export_from(run: Run, net: Any, digest: str, architecture: Architecture | None) -> dict[str, Any]:
    """The same from the supernet `net`, whose weights have this digest."""
    architecture = architecture or found_architecture(run)
    model = export.subnet(net, architecture)
    recalibrate(run, model)
    return write_subnet(run, model, architecture, digest)


def found_architecture(run: Run) -> Architecture:
    """The best one of search.json."""
    found = read_json(run.folder / "search.json", SEARCH)["found"]
    return run.space.parse(found[0]["architecture"])


def recalibrate(run: Run, model: torch.nn.Module) -> None:
    """Re-estimate a network's batch norm on training images, and leave it in evaluation mode."""
    export.recalibrate(model, itertools.islice(run.loader("train"), CALIBRATION_BATCHES))
    model.eval()


def write_subnet(run: Run, model: torch.nn.Module, architecture: Architecture, digest: str) -> dict[str, Any]:
    """Measure a network on the test images and write it; digest: of the weights it was taken from."""
    accuracy = teachers.accuracy(model, run.data, device=run.device)
    path = run.folder / "subnet.safetensors"
    metadata = {"checkpoint": digest, "image_shape": list(run.data.image_shape), "data": run.data.fingerprint,
                 "test_accuracy": accuracy}  # fmt: skip
    export.save_subnet(path, model, run.space, architecture, run.data.num_classes, **metadata)
    return {"architecture": run.space.format(architecture), "file": str(path), "test_accuracy": accuracy,
            **costs(run).of(architecture)}  # fmt: skip

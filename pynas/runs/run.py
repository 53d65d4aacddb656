"""A run: a folder, its settings, and the stages that lead from images to a found network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pynas import costs, spaces, teachers
from pynas.data import ImageData, Loader, load
from pynas.errors import InputError
from pynas.rating import Scores
from pynas.rating.averaging import combined
from pynas.runs.block_teachers import fitting_teacher, kept_teacher
from pynas.runs.images import check_images, split_of
from pynas.runs.options import loader_options
from pynas.runs.processes import choose_device, first_process_first, meet
from pynas.runs.progress import Progress
from pynas.runs.recipe import Recipe
from pynas.runs.request import Request
from pynas.runs.settings import Settings, member_folder
from pynas.runs.spent import spending
from pynas.runs.status import reporting
from pynas.spaces import Architecture
from pynas.supernets import supernet
from pynas.tabular.bootstrap import standardised
from pynas.tensor_files import TensorFile, read_tensors
from pynas.train import Keep
from pynas.train.checkpoint import CHECKPOINT, LAST, epoch_file, load_weights

COSTS = "costs.npz"


class Run:
    """A run's folder and the parts that its settings stand for, each built when first needed.

    `train`, `rate`, `search` and `export` are its stages, in this order; what a stage wrote before is not done again.

    workers: processes that read images, None for a number that suits the device (`pynas.data.loaders.default_workers`).
    keep: epochs whose weights stay, beside the settings' keep_epochs; results do not depend on it.
    sync_batch_norm: batch norms of several processes' GPUs normalise the whole batch (`pynas.train.Method`).
    rehearsal: a small teacher is not trained, as in dry runs. base: the run whose images, teacher and costs a variant in one of
    its subfolders shares.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        recipe: Recipe,
        device: str = "auto",
        spread: str = "data",
        progress: Progress | None = None,
        rehearsal: bool = False,
        base: Run | None = None,
        workers: int | None = None,
        keep: Keep | None = None,
        sync_batch_norm: bool = False,
    ):
        self.folder, self.settings, self.recipe, self.spread = folder, settings, recipe, spread
        self.rehearsal, self.base, self.workers, self.keep = rehearsal, base, workers, keep or Keep()
        self.sync_batch_norm = sync_batch_norm
        self.home: Path = folder if base is None else base.home  # the folder that the user knows
        self.device, self.progress = choose_device(device), progress or Progress()
        self.options: dict[str, Any] = recipe.options().filled(settings.recipe, settings.options)
        self.space = spaces.get(settings.space)

    def train(self) -> None:
        """Train the supernet (and a small teacher where none is named), or go on where a training was stopped."""
        with reporting(self, "train"):
            for member in self.members():
                member.train_alone()
            meet()

    def train_alone(self) -> None:
        """Train this run's own supernet, without those of further seeds."""
        with spending(self, "train"):
            self.recipe.train(self)

    def rate(self, loss: str | None = None, norm: str | None = None) -> Scores | None:
        """Rate every path of every block on the validation images; None for methods that rate whole networks.

        Of a run of several seeds the scores are the average of their standardised ones (`pynas.rating.average`).

        loss, norm: as of `pynas.rate`; None for the method's own.

        Raises:
            InputError: no finished training, or a loss or norm that the method does not rate by.
        """
        with reporting(self, "rate"):
            return combined([member.rate_alone(loss, norm) for member in self.members()])

    def rate_alone(self, loss: str | None, norm: str | None) -> Scores | None:
        """Rate this run's own supernet, without those of further seeds; otherwise as `rate`."""
        defaults = self.recipe.defaults
        defaults.check_rating(loss, norm)
        with spending(self, "rate"):
            return self.recipe.rate(self, loss or defaults.loss, norm or defaults.norms[0])

    def score(self, networks: Sequence[Architecture], loss: str | None = None, norm: str | None = None) -> np.ndarray:
        """Rate some networks alone by the trained supernet; return their scores `[N]`, lower is better.

        Of a run of several seeds these are the mean of each seed's scores, standardised over the networks.

        loss, norm: as of `rate`.

        Raises:
            InputError: as `rate`.
        """
        defaults = self.recipe.defaults
        defaults.check_rating(loss, norm)
        rated = [
            self.recipe.score(member, networks, loss or defaults.loss, norm or defaults.norms[0])
            for member in self.members()
        ]
        return rated[0] if len(rated) == 1 else np.mean([standardised(scores) for scores in rated], axis=0)

    def search(self, limits: Mapping[str, Any] | None = None, **request: Any) -> dict[str, Any]:
        """Find the architectures of least score that keep every limit; return the content of search.json.

        limits: by cost, e.g. `{"madds": 15e6}`; `{"madds": "60%"}` of the space's largest network by that cost, and
        `{"madds": "60% of teacher"}` of the teacher. Costs without a limit, or with None or infinity, are unlimited.
        request: further fields of `Request`.

        Raises:
            InputError: no scores, an unknown cost, or a limit of another form.
            InfeasibleError: no architecture keeps the limits.
        """
        with reporting(self, "search"):
            return self.recipe.find(self, Request(limits or {}, **request))

    def export(self, architecture: Architecture | str | None = None) -> dict[str, Any]:
        """Write a network with its weights as subnet.safetensors; return its name, accuracy, costs and file.

        architecture: None for the best that was found.
        """
        chosen = self.space.parse(architecture) if isinstance(architecture, str) else architecture
        return self.recipe.export(self, chosen)

    def members(self) -> Iterator[Run]:
        """Yield the runs whose scores are averaged: this one, and of each further seed a variant in a subfolder."""
        yield self
        for seed in self.settings.further_seeds:
            yield self.variant(member_folder(seed), self.settings.replace(seed=seed, seeds=1))

    def variant(self, name: str, settings: Settings) -> Run:
        """Return a run in a subfolder, of other settings but with the images, the split, the teacher and costs of this one."""
        return self.beside(self.folder / name, settings, self.recipe, progress=self.progress.named(name), base=self)

    def beside(self, folder: Path, settings: Settings, recipe: Recipe, **others: Any) -> Run:
        """Return a run in another folder that works on the same device and in the same way."""
        return Run(folder, settings, recipe, **{"device": str(self.device), "spread": self.spread, "progress": self.progress,
                   "rehearsal": self.rehearsal, "workers": self.workers, "keep": self.keep,
                   "sync_batch_norm": self.sync_batch_norm, **others})  # fmt: skip

    @property
    def method_options(self) -> dict[str, Any]:
        """The options that the method's constructor takes."""
        return {name: self.options[name] for name in self.recipe.options().method}

    @cached_property
    def data(self) -> ImageData:
        """Images at the size of the settings, else of the space, normalised as the pretrained teacher expects them.

        Raises:
            InputError: other images than those that the folder's earlier stages saw.
        """
        if self.base is not None:
            return self.base.data
        images = load(self.settings.data, self.image_size, seed=self.settings.seed, **self.split)
        check_images(self.folder, images)
        teacher = self.named_teacher
        if teacher is not None and "mean" in teacher.metadata:
            images = replace(images, mean=tuple(teacher.metadata["mean"]), std=tuple(teacher.metadata["std"]))
        return replace(images, workers=self.workers)

    @property
    def split(self) -> dict[str, Any]:
        """How the training images are limited and split, as `pynas.data.load` takes it."""
        return split_of(self.settings, self.recipe.options())

    @property
    def image_size(self) -> int:
        """Side of the images in pixels: of the settings, else of the space."""
        return self.settings.image_size or self.space.image_size

    def other_images(self, name: str, image_size: int, **options: Any) -> ImageData:
        """Return images of another data set or side, normalised as the run's; options: of `pynas.data.load`."""
        images = load(name, image_size, seed=self.settings.seed, **options)
        return replace(images, mean=self.data.mean, std=self.data.std, workers=self.workers)

    @cached_property
    def net(self) -> Any:
        """The supernet with fresh weights from the seed."""
        return self.seeded(lambda: supernet(self.space, self.data.num_classes))

    @cached_property
    def costs(self) -> Any:
        """Costs of the space, counted once and kept as costs.npz."""
        self.count_costs()
        return costs.load(self.home / COSTS)

    def count_costs(self) -> None:
        """Count the costs of the space and write costs.npz, unless that is done."""
        path = self.home / COSTS
        if not path.exists():
            costs.count(self.net, self.data.image_shape).save(path)

    @cached_property
    def named_teacher(self) -> teachers.Teacher | None:
        """The teacher that the settings name; None for one that is made in the run and kept in its folder."""
        if self.settings.teacher in ("small", "scaled"):
            return None
        return teachers.named_teacher(self.settings.teacher, self.settings.pretrained, self.settings.taps)

    @cached_property
    def tapped_teacher(self) -> teachers.Teacher | None:
        """That teacher with its taps as maps, those named or such as fit the supernet's blocks; None as above."""
        if self.named_teacher is None:
            return None
        if self.settings.taps is not None:
            return teachers.with_maps(self.named_teacher, self.data.image_shape)
        return fitting_teacher(self, self.named_teacher)

    def teacher(self) -> teachers.Teacher:
        """Return the named teacher, DNA+'s scaled one, or a small one, which is trained once and kept in the folder."""
        if self.base is not None:
            return self.base.teacher()
        if self.tapped_teacher is not None:
            return self.tapped_teacher
        return kept_teacher(self)

    def method(self) -> Any:
        """Return the method on the run's supernet and device; its teacher is trained if need be."""
        with first_process_first():
            method = self.seeded(lambda: self.recipe.build(self))  # weights that a method adds follow the seed too
        method.sync_batch_norm = self.sync_batch_norm
        # Convolutions are faster in this layout, on CPUs and on GPUs alike.
        return method.to(self.device, memory_format=torch.channels_last)

    def method_after(self, epoch: int) -> tuple[Any, str]:
        """Return the method with the weights that were kept after an epoch, and their digest.

        Raises:
            InputError: none were kept.
        """
        path = self.folder / epoch_file(epoch)
        if not path.exists():
            raise InputError(f"[run] expected weights of epoch {epoch}, got no {path}; name it in --keep-epochs")
        return self._loaded(read_tensors(path, CHECKPOINT))

    def trained_method(self) -> tuple[Any, str]:
        """Return the method with the weights of the finished training, and their digest.

        Raises:
            InputError: no training, or one that has not finished.
        """
        path = self.folder / LAST
        if not path.exists():
            raise InputError(
                f"[run] expected a trained supernet, got no {path}; run `pynas train --run {self.home}` first"
            )
        checkpoint = read_tensors(path, CHECKPOINT)
        step, steps = checkpoint.metadata["step"], checkpoint.metadata["steps"]
        if step < steps:
            raise InputError(f"[run] expected a finished training, got step {step} of {steps}; "
                             f"run `pynas train --run {self.home}` to go on")  # fmt: skip
        return self._loaded(checkpoint)

    def _loaded(self, checkpoint: TensorFile) -> tuple[Any, str]:
        method = self.method()
        load_weights(checkpoint, method)
        return method.eval(), checkpoint.digest

    def loader(
        self, part: str, augmentation: str = "none", views: int = 1, batch_size: int | None = None, **options: Any
    ) -> Loader:
        """Return batches of a part of the data; batch_size: None for the run's. options: those of `ImageData.loader`."""
        size = min(batch_size or self.settings.batch_size, len(getattr(self.data, part)))
        return self.data.loader(part, size, augmentation, views=views, seed=self.settings.seed, device=self.device,
                                **options)  # fmt: skip

    def training_loader(self, views: int | None = None) -> Loader:
        """Return the training images, augmented as the options say.

        views: of each image, None for the method's.
        """
        chosen = {name: self.options[name] for name in loader_options()}
        return self.loader("train", views=views or self.recipe.defaults.views, **chosen)

    def seeded(self, build: Any, offset: int = 0) -> Any:
        """Return what `build()` returns, with torch's generator at the run's seed (plus an offset) meanwhile."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed + offset)
            return build()

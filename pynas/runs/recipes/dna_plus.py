"""DNA+: generations of DNA, each a run of its own in a subfolder, `generation_1`, `generation_2`, ..."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pynas import export, teachers
from pynas.checked import AtLeastOne, fields
from pynas.errors import InputError
from pynas.export import RECIPES as TRAININGS
from pynas.files import atomic, header, read_json, write_json
from pynas.methods import DNAPlus
from pynas.methods.dna.plus import Generation
from pynas.methods.dna.scaling import compound_scaling, save_scaled
from pynas.rating import Scores
from pynas.runs.defaults import Defaults
from pynas.runs.options import SETTINGS, Options
from pynas.runs.processes import first_process_first, from_first_process
from pynas.runs.rate import load_scores
from pynas.runs.recipes.dna import RECIPES as DNA_RECIPES
from pynas.runs.recipes.dna import DNARecipe
from pynas.runs.run import Request, Run
from pynas.runs.search import find_limits, gather_costs
from pynas.runs.settings import Settings, open_folder
from pynas.spaces import Architecture
from pynas.train.team import is_first_process

GENERATIONS = "pynas.generations"
# Training of a scaled teacher: a recipe of `pynas.export.RECIPES`, epochs and images per batch (None: the recipe's), and the side
# of its images: the supernet's, or that times the scaling's resolution. It teaches at the supernet's size in any case, as its
# features must have the size of the blocks (the paper tests its teachers so, table 11).
_TEACHER = {
    "teacher_recipe": (Literal[tuple(TRAININGS)], "small"),
    "teacher_epochs": (AtLeastOne | None, None),
    "teacher_batch_size": (AtLeastOne | None, None),
    "teacher_size": (Literal["supernet", "scaled"], "supernet"),
}
# Each generation's DNA takes the recipe of the same name. Table 5: three generations, the first scaled teacher an EfficientNet-B7.
_SCALED = {"phi": "b7", "teacher_recipe": "efficientnet", "teacher_size": "scaled"}
RECIPES = {
    name: {**{key: value for key, value in DNA_RECIPES[name].items() if key in SETTINGS}, "generations": 3, **teacher}
    for name, teacher in (("small", {"phi": 2.0}), ("paper", _SCALED), ("code", _SCALED))
}


class DNAPlusRecipe:
    """`pynas run --method dna-plus`: each generation's teacher is the architecture found before it, scaled and trained."""

    summary = (DNAPlus.__doc__ or "").partition("\n")[0]
    defaults = Defaults(averages=False, shares_search=True)

    def __init__(self) -> None:
        self._dna = DNARecipe()

    def options(self) -> Options:
        """Return the options of the generations and their teachers; `dna` holds those of each generation's DNA."""
        return Options(fields(DNAPlus), _TEACHER, RECIPES)

    def teacher(self, run: Run) -> teachers.Teacher:
        """Return the first generation's teacher."""
        return self.generation(run, 1).teacher()

    def build(self, run: Run) -> Any:
        """Return the first generation's DNA."""
        return self._dna.build(self.generation(run, 1))

    def train(self, run: Run) -> None:
        """Train the first generation's supernet."""
        self.generation(run, 1).train()

    def rate(self, run: Run, loss: str | None, norm: str) -> Scores:
        """Rate the first generation; `find` rates the others alike."""
        return self._dna.rate(self.generation(run, 1), loss, norm)

    def find(self, run: Run, request: Request) -> dict[str, Any]:
        """Search the first generation, then train, rate and search the next ones until they saturate.

        All generations have the same limits; a share of the teacher is of the first one's. Without limits each is unlimited.
        Under torchrun the processes share the trainings and ratings, and the first one writes.
        A stage that is done is not done again. generations.json holds what each generation found; search.json is the last's.

        Raises:
            InputError: another request than the generations after the first were made with.
        """
        plus, found = self._plus(run), []
        history: list[Generation] = []
        first = self.generation(run, 1)
        limits = from_first_process(lambda: find_limits(first, request, gather_costs(first, request)))
        request = replace(request, limits=limits.upper, at_least=limits.lower)
        rated_by = load_scores(first).metadata
        while True:
            number = len(history) + 1
            generation = self.generation(run, number)
            if number > 1:
                generation.train()
                generation.rate(rated_by["loss"], rated_by["norm"])
            content = self._dna.find(generation, request)
            architecture = run.space.parse(content["found"][0]["architecture"])
            history.append(Generation(architecture, load_scores(generation)))
            tau = plus.correlation(history[-2].scores, history[-1].scores) if number > 1 else None
            found.append({"generation": number, "folder": generation.folder.name, **content["found"][0],
                          "teacher_accuracy": generation.teacher().metadata.get("test_accuracy"),
                          "tau_to_last": tau})  # fmt: skip
            stop = plus.why_stop(history)
            if stop is not None:
                break
            self._make_teacher(run, plus, architecture, number + 1)
        shares = {"shares": limits.shares} if limits.shares else {}
        content = {**content, **shares, "generations": found, "stopped": stop}
        if is_first_process():
            write_json(run.folder / "generations.json", header(GENERATIONS) | {"stopped": stop, "generations": found})
            write_json(run.folder / "search.json", content)
        return content

    def score(self, run: Run, networks: Sequence[Architecture], loss: str | None, norm: str) -> np.ndarray:
        """Rate the paths of some networks by the last generation that was searched, the first before any search."""
        path = run.folder / "generations.json"
        last = read_json(path, GENERATIONS)["generations"][-1]["generation"] if path.exists() else 1
        return self._dna.score(self.generation(run, last), networks, loss, norm)

    def export(self, run: Run, architecture: Architecture | None) -> dict[str, Any]:
        """Take a network out of the last generation's supernet; its file is in the run's folder too."""
        last = read_json(run.folder / "generations.json", GENERATIONS)["generations"][-1]
        content = self._dna.export(self.generation(run, last["generation"]), architecture)
        with atomic(run.folder / "subnet.safetensors") as temporary:
            shutil.copyfile(content["file"], temporary)
        return content | {"file": str(run.folder / "subnet.safetensors")}

    def generation(self, run: Run, number: int) -> Run:
        """Return the run of a generation, counted from 1: the same settings, another teacher."""
        recipe = self._dna.options().recipe(run.settings.recipe, run.space)
        settings = run.settings.replace(method="dna", recipe=recipe, options=dict(run.options["dna"] or {}))
        if number > 1:
            settings = settings.model_copy(update={"teacher": "scaled", "taps": None})
        with first_process_first():
            folder, settings = open_folder(run.folder / f"generation_{number}", settings, Settings.model_fields)
        return run.beside(folder, settings, self._dna)

    def _plus(self, run: Run) -> DNAPlus:
        return DNAPlus(run.space, **run.method_options)

    def _make_teacher(self, run: Run, plus: DNAPlus, found: Architecture, number: int) -> None:
        """Scale the found architecture and train it, unless that is done.

        Raises:
            InputError: the folder holds a teacher made from another architecture.
        """
        generation = self.generation(run, number)
        path = generation.folder / "teacher.safetensors"
        if path.exists():
            have, want = generation.teacher().metadata["architecture"], run.space.format(found)
            if have != want:
                raise InputError(f"[dna-plus] expected generation {number} to be taught by {want}, got {have} in {path}; "
                                 f"search {generation.folder} by itself, or use another folder")  # fmt: skip
            return
        teacher = run.seeded(lambda: plus.next_teacher(found, run.data.num_classes), number)
        training, accuracy = self._train_teacher(run, plus, teacher, generation.folder / "teacher", number)
        if is_first_process():
            save_scaled(path, teacher, **training, data=run.data.fingerprint, test_accuracy=accuracy)

    def _train_teacher(
        self, run: Run, plus: DNAPlus, teacher: teachers.Teacher, folder: Path, number: int
    ) -> tuple[dict[str, Any], float]:
        """Train a scaled teacher in a folder, or go on there; return its settings, and its accuracy at the supernet's size."""
        options, recipe = run.options, TRAININGS[run.options["teacher_recipe"]]
        data, side = run.data, run.data.image_shape[1]
        if options["teacher_size"] == "scaled":
            side = compound_scaling(plus.phi).side(side)
            data = run.other_images(run.settings.data, side, **run.split)
        training: dict[str, Any] = {"recipe": recipe.name, "epochs": options["teacher_epochs"] or recipe.epochs,
                    "batch_size": options["teacher_batch_size"] or recipe.batch_size, "seed": run.settings.seed,
                    "image_size": side}  # fmt: skip
        model, _ = export.retrain(
            teacher.module.requires_grad_(True), data, recipe, epochs=training["epochs"], batch_size=training["batch_size"],
            run=folder, seed=run.settings.seed, device=run.device, on_step=run.progress.steps(f"train teacher {number}"),
        )  # fmt: skip
        teacher.module.load_state_dict(model.state_dict())  # the average of the weights, where the recipe has one
        return training, export.evaluate(teacher.module.eval(), run.data, device=run.device)["top1"]

"""DNA+: generations of DNA, each a run of its own in a subfolder, `generation_1`, `generation_2`, ..."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from pynas import teachers
from pynas.runs import search as finding
from pynas.runs.recipes import dna as flow_dna
from pynas.runs import stages
from pynas.cli.display import Show, progress_bar
from pynas.runs.recipe import Flow
from pynas.runs.settings import open_run
from pynas.runs.stages import Run
from pynas.errors import InputError
from pynas.files import header, read_json, write_json
from pynas.methods import DNAPlus
from pynas.methods.dna.plus import Generation
from pynas.methods.dna.scaling import save_scaled
from pynas.rating import ScoreTable
from pynas.rating.scores import load_block
from pynas.spaces import Architecture

GENERATIONS = "pynas.generations"


def plus_of(run: Run) -> DNAPlus:
    """The method with the run's options."""
    return DNAPlus(run.space, **run.settings.options)


def generation(run: Run, number: int) -> Run:
    """The run of a generation, counted from 1: the same settings, another teacher."""
    plus = plus_of(run)
    given = {**asdict(run.settings), "method": "dna", "options": plus.options}
    if number > 1:
        given |= {"teacher": "scaled", "taps": None}
    with stages.first_process_first():
        folder, settings = open_run(run.folder / f"generation_{number}", given)
    return Run(folder, settings, flow_dna.FLOW, str(run.device), run.spread)


def build(run: Run, show: Show) -> Any:
    """The first generation's DNA."""
    return flow_dna.build(generation(run, 1), show)


def train(run: Run, show: Show) -> None:
    """Train the first generation's supernet."""
    flow_dna.train(generation(run, 1), show)


def rate(run: Run, loss: str, norm: str, show: Show) -> list[list[ScoreTable]]:
    """Rate the first generation; the others are rated alike."""
    return stages.rate(generation(run, 1), loss, norm, show)


def find(run: Run, wishes: finding.Wishes) -> dict[str, Any]:
    """Search the first generation, then train, rate and search the next ones until they saturate.

    Each stage that is done is not done again. generations.json says what each generation found; search.json is the last's.

    Raises:
        InputError: other wishes than the generations after the first were made with.
    """
    plus, number, history, said = plus_of(run), 1, [], []
    with progress_bar() as progress:
        while True:
            now = generation(run, number)
            if number > 1:
                metadata = load_block(generation(run, 1).folder / "scores" / "block_1.npz")[1]
                show = Show(progress)
                flow_dna.train(now, show)
                stages.rate(now, metadata["loss"], metadata["norm"], show)
            content = finding.find(now, wishes)
            found = run.space.parse(content["found"][0]["architecture"])
            history.append(Generation(found, finding.rated(now)))
            tau = plus.correlation(history[-2].tables, history[-1].tables) if number > 1 else None
            stop = plus.why_stop(history)
            teacher = {"teacher_accuracy": now.teacher().metadata.get("test_accuracy"), "tau_to_last": tau}
            said.append({"generation": number, "folder": now.folder.name, **content["found"][0], **teacher})
            if stop is not None:
                break
            make_teacher(run, plus, found, number + 1, Show(progress))
            number += 1
    write_json(run.folder / "generations.json", header(GENERATIONS) | {"stopped": stop, "generations": said})
    content = {**content, "generations": said, "stopped": stop}
    write_json(run.folder / "search.json", content)
    return content


def make_teacher(run: Run, plus: DNAPlus, found: Architecture, number: int, show: Show) -> None:
    """Scale the found architecture and train it, unless that is done.

    Raises:
        InputError: a teacher made from another architecture.
    """
    next_run = generation(run, number)
    path = next_run.folder / "teacher.safetensors"
    if path.exists():
        have, want = next_run.teacher().metadata["architecture"], run.space.format(found)
        if have != want:
            raise InputError(f"[dna-plus] expected generation {number} to be taught by {want}, got {have} in {path}; "
                             f"search {next_run.folder} by itself, or use another folder")  # fmt: skip
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.settings.seed + number)
        teacher = plus.next_teacher(found, run.data.num_classes)
    how = {"epochs": plus.teacher_epochs, "batch_size": run.settings.batch_size, "seed": run.settings.seed}
    module, progress = teacher.module.requires_grad_(True), show.teacher(f"train teacher {number}")
    accuracy = teachers.train_classifier(module, run.data, **how, device=run.device, progress=progress)
    save_scaled(path, teacher, **how, data=run.data.fingerprint, test_accuracy=accuracy)


def export(run: Run, architecture: Architecture | None) -> dict[str, Any]:
    """Take a network out of the last generation's supernet."""
    last = read_json(run.folder / "generations.json", GENERATIONS)["generations"][-1]
    return stages.export_found(generation(run, last["generation"]), architecture)


FLOW = Flow(DNAPlus, build, train, rate, find, export)

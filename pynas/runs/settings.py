"""Settings of a run: the content of its folder's config.yaml."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Ge, Lt
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pynas.checked import AtLeastOne, validate
from pynas.errors import InputError
from pynas.files import check_header, header, write_text

CONFIG, STATUS = "config.yaml", "status.json"
_KIND = "pynas.run"


class Settings(BaseModel):
    """Everything that a run's results depend on, apart from the search, which is repeated at will.

    method: a name of `pynas.runs.METHODS`; options: of the method, beside those of the `recipe`, see `pynas methods`. space: a
    name of `pynas.spaces.SPACES`. data: as `pynas.data.load` takes it. teacher: a name as
    `pynas.teachers.named_teacher` takes it, or small (trained in the run); taps: its submodules after each block; pretrained:
    whether a named teacher has weights.
    accumulate: batches whose mean gradient makes one step. image_size: side in pixels, None for the space's.
    limit_images: use so many training images. val_fraction: share of the training images that paths are rated on. val_images:
    rate on so many of them instead; a number that is the recipe's own becomes a fifth of the training images where it is more.
    keep_epochs: epochs after which weights are kept beside the last ones, for `pynas stability`.
    seeds: supernets whose scores are averaged, of the seeds from `seed` on; the one setting that a run may raise later.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "dna"
    recipe: str = "small"
    space: str = "mbconv-mini"
    data: str = "digits"
    teacher: str = "small"
    taps: list[str] | None = None
    pretrained: bool = True
    epochs: AtLeastOne = 20
    batch_size: AtLeastOne = 64
    accumulate: AtLeastOne = 1
    image_size: AtLeastOne | None = None
    limit_images: AtLeastOne | None = None
    val_fraction: Annotated[float, Ge(0), Lt(1)] = 0.2
    val_images: AtLeastOne | None = None
    seed: Annotated[int, Ge(0)] = 0
    seeds: AtLeastOne = 1
    keep_epochs: list[AtLeastOne] = Field(default_factory=list)
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("data", "teacher", mode="before")
    @classmethod
    def _text(cls, path: Any) -> Any:
        return str(path) if isinstance(path, Path) else path

    @field_validator("taps", mode="before")
    @classmethod
    def _split(cls, taps: Any) -> Any:
        return [tap.strip() for tap in taps.split(",")] if isinstance(taps, str) else taps

    @field_validator("keep_epochs", mode="before")
    @classmethod
    def _numbers(cls, epochs: Any) -> Any:
        return [part for part in epochs.split(",") if part.strip()] if isinstance(epochs, str) else epochs

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Build the settings from those that are named; None stands for the default.

        Raises:
            InputError: an unknown setting, a value of a wrong type or out of its range.
        """
        return validate("settings", cls, {name: value for name, value in given.items() if value is not None})

    @property
    def untrained_teacher(self) -> str | None:
        """Name of a teacher without trained weights; None where there is none."""
        return None if self.pretrained or self.teacher in ("small", "scaled") else self.teacher

    @property
    def further_seeds(self) -> range:
        """Seeds of the supernets after the first, each in a subfolder (`member_folder`)."""
        return range(self.seed + 1, self.seed + self.seeds)

    def replace(self, **changes: Any) -> Settings:
        """Return a copy with other values."""
        return Settings.of({**self.model_dump(), **changes})


def member_folder(seed: int) -> str:
    """Return the name of the subfolder of a run's further seed."""
    return f"seed_{seed}"


def method_options(given: list[str] | None) -> dict[str, Any] | None:
    """Read `NAME=VALUE` options, each value as YAML: numbers, true, false, null, text, [lists]; None stays None.

    Raises:
        InputError: no NAME=VALUE, or no YAML.
    """
    if given is None:
        return None
    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            options[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals:
            raise InputError(f"[settings] expected an option as NAME=VALUE, got {text!r}")
    return options


def open_folder(folder: Path | None, settings: Settings, named: Collection[str]) -> tuple[Path, Settings]:
    """Return the run's folder and its settings; a new folder gets a config.yaml.

    folder: None for a new one under runs/. settings: those of a new run. named: names of the settings that the user named,
    which an existing run must have been made with; but for more `seeds`, which it has from now on.

    Raises:
        InputError: a folder that holds a run of other settings or of another version, or something else than a run.
    """
    if folder is not None and (folder / CONFIG).exists():
        made_with = before = read_settings(folder)
        if "seeds" in named and settings.seeds > before.seeds:
            made_with = before.replace(seeds=settings.seeds)
        for name in named:
            if getattr(made_with, name) != getattr(settings, name):
                more = "name as many or more, or " if name == "seeds" else ""
                raise InputError(
                    f"[run] expected {name} = {getattr(made_with, name)!r}, as {folder} was made with, got "
                    f"{getattr(settings, name)!r}; {more}use another folder"
                )
        if made_with != before:
            _write_settings(folder, made_with)
        return folder, made_with
    folder = folder or _fresh_folder(settings)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"[run] expected a new or empty folder or a run's, got {folder}, which holds no {CONFIG}")
    _write_settings(folder, settings)
    return folder, settings


def _write_settings(folder: Path, settings: Settings) -> None:
    content = {name: value for name, value in header(_KIND).items() if name != "metadata"}
    write_text(folder / CONFIG, yaml.safe_dump({**content, **settings.model_dump(mode="json")}, sort_keys=False))


def read_settings(folder: Path) -> Settings:
    """Read a run's config.yaml.

    Raises:
        InputError: missing, malformed, or of another version.
    """
    path = folder / CONFIG
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"[run] expected a run's folder, got {folder}, which holds no {CONFIG}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"[run] expected YAML in {path}, got {str(error).splitlines()[0]}") from None
    check_header(content, _KIND, path)
    for name, before in (
        ("seeds", 1),
        ("recipe", "small"),
        ("keep_epochs", []),
        ("val_images", None),
    ):  # of runs made before there were others
        content.setdefault(name, before)
    old = (content["options"] or {}).pop(
        "recipe", None
    )  # of runs of dna and prenas, when recipes were an option of theirs
    if old is not None:
        content["recipe"] = {"none": "small", "paper": "paper"}.get(old, f"paper-{old}")
    known = {"format", "version", *Settings.model_fields}
    if set(content) != known:
        raise InputError(f"[run] expected the settings {', '.join(Settings.model_fields)}, got {', '.join(map(str, content))} "
                         f"in {path}")  # fmt: skip
    try:
        return Settings.of({name: content[name] for name in Settings.model_fields})
    except InputError as error:
        raise InputError(f"{error} in {path}") from None


def _fresh_folder(settings: Settings) -> Path:
    """Return a new name under runs/, made of the method, the space and the time."""
    stem = f"runs/{settings.method}-{settings.space}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = Path(stem), 1
    while path.exists():
        number += 1
        path = Path(f"{stem}-{number}")
    return path

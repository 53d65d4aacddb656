"""What a run is: the settings in its folder's config.yaml."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from pynas.errors import InputError
from pynas.files import FORMAT_VERSION, write_text

_KIND = "pynas.run"
CONFIG = "config.yaml"


@dataclass(frozen=True)
class Settings:
    """Everything that a run's results depend on, but for the search, which is repeated at will."""

    method: str = "dna"
    space: str = "mbconv-mini"
    data: str = "digits"
    teacher: str = "small"
    taps: list[str] | None = None
    pretrained: bool = True
    epochs: int = 20
    batch_size: int = 64
    accumulate: int = 1
    image_size: int | None = None
    limit_images: int | None = None
    val_fraction: float = 0.2
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)  # of the method

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise InputError(f"[settings] expected {name} of at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"[settings] expected a seed of at least 0, got {self.seed}")


def names(text: str | None) -> list[str] | None:
    """Names separated by commas; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",")]


def named_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among a command's arguments; None for those that the user left open."""
    given = {known.name: arguments[known.name] for known in fields(Settings) if known.name != "options"}
    return {**given, "taps": names(arguments["taps"]), "options": method_options(arguments["option"])}


def method_options(given: list[str] | None) -> dict[str, Any] | None:
    """From NAME=VALUE, each value read as YAML: numbers, true, false, null, text, [lists]; None stays None.

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


def fresh_folder(settings: Settings) -> Path:
    """A new name under runs/, from the method, the space and the time."""
    stem = f"runs/{settings.method}-{settings.space}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = Path(stem), 1
    while path.exists():
        number += 1
        path = Path(f"{stem}-{number}")
    return path


def open_run(folder: Path | None, given: Mapping[str, Any]) -> tuple[Path, Settings]:
    """The run in `folder`, made if it is new; `given` are the settings the user named, None for those left open.

    Raises:
        InputError: the folder holds a run of other settings or of another version, or something else than a run.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if folder is not None and (folder / CONFIG).exists():
        settings = read_settings(folder)
        for name, value in given.items():
            if getattr(settings, name) != value:
                raise InputError(
                    f"[run] expected {name} = {getattr(settings, name)!r}, as {folder} was made with, got {value!r}; "
                    "use another folder"
                )
        return folder, settings
    settings = Settings(**given)
    folder = folder or fresh_folder(settings)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"[run] expected a new or empty folder or a run's, got {folder}, which holds no {CONFIG}")
    content = {"format": _KIND, "version": FORMAT_VERSION, **asdict(settings)}
    write_text(folder / CONFIG, yaml.safe_dump(content, sort_keys=False))
    return folder, settings


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
    if not isinstance(content, dict) or content.pop("format", None) != _KIND:
        raise InputError(f"[run] expected a file of the format {_KIND!r}, got another in {path}")
    version = content.pop("version", None)
    if version != FORMAT_VERSION:
        raise InputError(
            f"[run] expected format version {FORMAT_VERSION}, got {version!r} in {path}; "
            "it was written by another version of pynas: use that version, or another run folder"
        )
    known = {known.name for known in fields(Settings)}
    if set(content) != known:
        raise InputError(
            f"[run] expected the settings {', '.join(sorted(known))}, got {', '.join(map(str, content))} in {path}"
        )
    return Settings(**content)

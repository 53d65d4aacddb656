"""Models and batches by name, as the command line takes them."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pynas import data as images
from pynas.errors import InputError


@dataclass(frozen=True)
class Source:
    """A model with what its inputs are made by.

    kind: "timm", "hf" or "file". tokenizer: of a Hugging Face folder, None where there is none. image_size, mean, std: of the
    images that it was trained on, None where that is not known.
    """

    model: nn.Module
    kind: str
    tokenizer: Any = None
    image_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


def load_source(text: str, pretrained: bool = True) -> Source:
    """Load a model: "timm:NAME", "hf:FOLDER_OR_NAME" or "FILE.py:FUNCTION" (called without arguments, returns the model;
    its `pretrained_cfg`, if any, names `input_size`, `mean` and `std` of its images, as timm's does).

    pretrained: load trained weights of a timm model.

    Raises:
        InputError: another form, an unknown name, weights that cannot be loaded, a function that returns no module.
    """
    prefix, colon, name = text.partition(":")
    if prefix == "timm" and name:
        return _timm(name, pretrained)
    if prefix == "hf" and name:
        return _hugging_face(name)
    path, _, function = text.rpartition(":")
    if colon and path.endswith(".py") and function:
        return _described(_from_file(Path(path), function), "file")
    raise InputError(f"[compress] expected a model as timm:NAME, hf:FOLDER_OR_NAME or FILE.py:FUNCTION, got {text!r}")


def _timm(name: str, pretrained: bool) -> Source:
    import timm

    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise InputError(f"[compress] expected a timm model, got {name!r}; near: {', '.join(near) or 'none'}")
    try:
        model = timm.create_model(name, pretrained=pretrained)
    except Exception as error:
        raise InputError(
            f"[compress] expected trained weights of {name}, got {type(error).__name__}: {_line(error)}"
        ) from error
    return _described(model, "timm")


def _described(model: nn.Module, kind: str) -> Source:
    """Return a source with what a model's `pretrained_cfg`, as timm's models have it, says of its images."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    size = config.get("input_size")
    return Source(model.eval(), kind, None, size and size[-1], config.get("mean"), config.get("std"))


def _hugging_face(name: str) -> Source:
    try:
        import transformers
    except ImportError:
        raise InputError('[compress] expected transformers for an hf: model, got none; pip install ".[hf]"') from None
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
        model = kind.from_pretrained(name).eval()
    except Exception as error:
        raise InputError(
            f"[compress] expected a model of transformers in {name}, got {type(error).__name__}: {_line(error)}"
        ) from error
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except Exception:  # a model of images has none
        tokenizer = None
    return Source(model, "hf", tokenizer, getattr(config, "image_size", None))


def _from_file(path: Path, function: str) -> nn.Module:
    if not path.is_file():
        raise InputError(f"[compress] expected the file {path}, got none; check the path")
    spec = importlib.util.spec_from_file_location(f"compress_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules[spec.name] = module  # dataclasses look there for the names of types
    try:
        spec.loader.exec_module(module)
        build: Callable[[], Any] | None = getattr(module, function, None)
        if build is None:
            raise InputError(f"[compress] expected a function {function} in {path}, got none")
        model = build()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"[compress] expected {path}:{function} to build a model, got {type(error).__name__}: {_line(error)}"
        ) from error
    finally:
        sys.path.pop(0)
    if not isinstance(model, nn.Module):
        raise InputError(f"[compress] expected {path}:{function} to return an nn.Module, got {type(model).__name__}")
    return model


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def load_batches(
    source: Source,
    data: str | None,
    example: Path | None = None,
    *,
    samples: int = 1024,
    batch_size: int = 32,
    image_size: int | None = None,
    length: int = 128,
    seed: int = 0,
) -> list[Any]:
    """Return batches as a model takes them.

    data: a text file with a text per line, for a model with a tokenizer; a .pt file with a list of batches; else images as
        `pynas.data.load` takes them, of which the training part is used. None for the example alone.
    example: a .pt file with one batch: a tensor, a tuple or a mapping. samples: at most so many. length: most tokens of a text.

    Raises:
        InputError: no data, files that cannot be read, texts for a model without a tokenizer.
    """
    if data is None and example is None:
        raise InputError("[compress] expected --data, or --example with a batch, got neither")
    if data is None:
        return [_read(example)]  # type: ignore[arg-type]
    if data.endswith(".pt"):
        batches = _read(Path(data))
        if not isinstance(batches, (list, tuple)) or not batches:
            raise InputError(f"[compress] expected a list of batches in {data}, got {type(batches).__name__}")
        return list(batches)
    if data.endswith((".txt", ".md", ".text")):
        return _texts(source, Path(data), samples, batch_size, length)
    return _images(source, data, samples, batch_size, image_size, seed)


def _read(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:
        raise InputError(
            f"[compress] expected tensors in {path}, written by torch.save, got {type(error).__name__}: {_line(error)}"
        ) from error


def _texts(source: Source, path: Path, samples: int, batch_size: int, length: int) -> list[Mapping[str, Any]]:
    if source.tokenizer is None:
        raise InputError(
            f"[compress] expected a model with a tokenizer for the texts of {path}, got one without; give --data batches.pt"
        )
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"[compress] expected a text file, got {path} ({error})") from None
    lines = [line for line in lines if line][:samples]
    if not lines:
        raise InputError(f"[compress] expected a text per line in {path}, got none")
    tokenizer = source.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return [
        dict(
            tokenizer(
                lines[first : first + batch_size], return_tensors="pt", padding=True, truncation=True, max_length=length
            )
        )
        for first in range(0, len(lines), batch_size)
    ]


def _images(
    source: Source, name: str, samples: int, batch_size: int, image_size: int | None, seed: int
) -> list[torch.Tensor]:
    size = image_size or source.image_size
    loaded = images.load(name, size, seed=seed)
    if source.mean is not None and source.std is not None:
        loaded = replace(loaded, mean=source.mean, std=source.std)
    batches, count = [], 0
    for x, _ in loaded.loader("train", batch_size, seed=seed):
        batches.append(x)
        count += len(x)
        if count >= samples:
            break
    return batches

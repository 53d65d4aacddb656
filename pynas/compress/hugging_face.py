"""Folders from which `from_pretrained` of transformers loads a smaller model, without pynas."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pynas.calls import Call, pick_output
from pynas.compress.layers import close, of_transformers
from pynas.compress.settings import differences, fitted_config
from pynas.copies import unwrapped
from pynas.errors import InputError
from pynas.files import TEMPORARY, write_text
from pynas.runtimes.batches import quiet
from pynas.supernets.modes import evaluating
from pynas.tensor_files import digest, read_tensors, write_tensors
from pynas.train.method import unshared_state

KIND, WEIGHTS, CODE = "pynas.compressed", "model.safetensors", "modeling_compressed.py"


def save_pretrained(folder: str | Path, model: nn.Module, example: Any, tokenizer: Any = None) -> dict[str, str]:
    """Write a folder from which `from_pretrained` of transformers loads a smaller model; nothing of pynas is needed for that.

    Where a configuration can tell all sizes, the model's own class loads it. Else `modeling_compressed.py` lies beside it, a
    subclass that gives its parts their sizes, and `trust_remote_code=True` is needed. Either is loaded and compared with the model
    before it is left in the folder. Weights that `pynas.compress.save` wrote there serve both.

    model: of transformers, as `pynas.compress` returned it, trained further or not. example: a batch as the model takes it.
    tokenizer: is written too, as are the settings of generation.

    Returns `sizes`, "config.json" or "modeling_compressed.py", where these stand, and `load`, the line of Python that loads it.

    Raises:
        InputError: a model of another library, or one that would not come back as it is.
    """
    folder, model = Path(folder), unwrapped(model)
    if not of_transformers(model):
        raise InputError(
            f"[compress] expected a model of transformers for a folder of Hugging Face, got {type(model).__name__}; "
            "pynas.compress.save writes any model"
        )
    reason = "no configuration has these sizes"
    write_weights(folder, model)
    for write in (_write_config, _write_code):
        with tempfile.TemporaryDirectory(dir=folder, prefix=TEMPORARY) as name:
            inner = Path(name)
            try:
                if (content := write(inner, model, tokenizer)) is None:
                    continue
                _link(folder / WEIGHTS, inner / WEIGHTS)
                same = _comes_back(inner, model, Call.of(example, model))
            except Exception as error:  # code of others, of any model
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                continue
            if same:
                _move(inner, folder)
                return content | {"load": content["load"].format(folder)}
            reason = "other outputs than the model's"
    raise InputError(
        f"[compress] expected a folder that from_pretrained loads, got {reason}; pynas.compress.save writes any model"
    )


def write_weights(folder: Path, model: nn.Module) -> None:
    """Write the weights of a smaller model, tied ones once, unless the folder has them."""
    path, state = folder / WEIGHTS, unshared_state(model)
    if not path.is_file() or read_tensors(path, KIND).digest != digest(state):
        write_tensors(path, KIND, state, {"format": "pt"})


def _write_config(folder: Path, model: Any, tokenizer: Any) -> dict[str, str] | None:
    """Write the files of a model that a configuration tells; None where there is none."""
    config = fitted_config(model)
    if config is None:
        return None
    kind, auto = type(model), next(iter(_auto_classes(model)), None)
    _write(folder, model, config, kind.__name__, tokenizer)
    return {"sizes": "config.json", "load": f'transformers.{auto or kind.__name__}.from_pretrained("{{}}")'}


def _write_code(folder: Path, model: Any, tokenizer: Any) -> dict[str, str]:
    """Write the files of a model of any sizes: those of its parts, and the class that makes them so."""
    import transformers

    kind, config, autos = type(model), copy.deepcopy(model.config), _auto_classes(model) or ["AutoModel"]
    source = "transformers" if hasattr(transformers, kind.__name__) else kind.__module__
    template = Path(__file__).with_name(f"{CODE}.txt").read_text(encoding="utf-8")
    write_text(folder / CODE, template.replace("{base}", kind.__name__).replace("{module}", source))
    config.compressed = differences(model)
    config.auto_map = {auto: f"{Path(CODE).stem}.Compressed{kind.__name__}" for auto in autos}
    _write(folder, model, config, f"Compressed{kind.__name__}", tokenizer)
    return {"sizes": CODE, "load": f'transformers.{autos[0]}.from_pretrained("{{}}", trust_remote_code=True)'}


def _write(folder: Path, model: Any, config: Any, name: str, tokenizer: Any) -> None:
    config.architectures = [name]
    setattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", str(model.dtype).removeprefix("torch."))
    config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None and model.can_generate():
        model.generation_config.to_json_file(folder / "generation_config.json")  # it checks nothing
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _auto_classes(model: Any) -> list[str]:
    """Return names of the classes of transformers that choose the model's class by its configuration, the shortest first."""
    from transformers.models.auto import modeling_auto

    config, found = type(model.config), list[str]()
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None)
        if name.startswith("AutoModel") and mapping is not None and config in mapping:
            kinds = mapping[config]
            if type(model) in (kinds if isinstance(kinds, (tuple, list)) else [kinds]):
                found.append(name)
    return sorted(found, key=len)


@torch.no_grad()
def _comes_back(folder: Path, model: Any, call: Call) -> bool:
    """Tell whether the class that a folder's configuration names loads all of it, and puts out what the model does."""
    kind = type(model)
    if (folder / CODE).is_file():
        spec = importlib.util.spec_from_file_location(f"{Path(CODE).stem}_{kind.__name__}", folder / CODE)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        kind = getattr(module, f"Compressed{kind.__name__}")
    with _silent():
        loaded, info = kind.from_pretrained(
            folder, output_loading_info=True, attn_implementation=model.config._attn_implementation
        )
    wrong = sorted(map(str, (*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"])))
    if wrong:
        raise ValueError(f"other tensors, as {wrong[0]}")
    loaded = loaded.to(model.device) if loaded.dtype == model.dtype else loaded.to(model.device, model.dtype)
    with evaluating(model):
        return close(pick_output(call(loaded.eval()), call), pick_output(call(model), call))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hold back what transformers prints while it loads."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with quiet():
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _move(source: Path, folder: Path) -> None:
    """Put the files in a folder, the configuration last; a modelling file of before that is no longer needed goes."""
    (folder / CODE).unlink(missing_ok=True)
    for path in sorted(source.iterdir(), key=lambda path: path.name == "config.json"):
        if path.name != WEIGHTS and not path.name.startswith("__"):
            os.replace(path, folder / path.name)

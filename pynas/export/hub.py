"""Folders in timm's form for the hub of Hugging Face: written, compared with the network, and pushed."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import torch

from pynas.errors import InputError, last_line
from pynas.export.files import SUBNET, load_subnet
from pynas.export.timm_network import NAME, build, check_space, model_args, pretrained_cfg
from pynas.files import TEMPORARY, atomic, write_text
from pynas.tensor_files import read_metadata

FILES = ("config.json", "model.safetensors", "README.md")


def write_hub(folder: str | Path, subnet: str | Path, card: str) -> Path:
    """Write a network as config.json, model.safetensors and README.md in timm's form; return the folder.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` loads it where pynas is imported, and from a hub "hf-hub:USER/NAME". It
    is loaded so, and compared with the network, before it is left in the folder.

    subnet: a file of `save_subnet`. card: the text of README.md.

    Raises:
        InputError: a file that `load_subnet` refuses, a space that is not pynas's own, or a folder that timm reads otherwise.
    """
    from timm import create_model
    from timm.models import save_for_hf

    check_space(read_metadata(subnet, SUBNET)["space"])
    expected, described = load_subnet(subnet)
    metadata, folder = dict(described), Path(folder)
    arguments = {**model_args(metadata), "img_size": metadata["image_shape"][-1]}
    model = build(num_classes=metadata["num_classes"], **arguments)
    model.load_state_dict(expected.state_dict())
    model.pretrained_cfg = pretrained_cfg(metadata, model)  # type: ignore[arg-type, assignment]
    images = torch.rand((2, *metadata["image_shape"]), generator=torch.Generator().manual_seed(0))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=TEMPORARY) as temporary:
        save_for_hf(model, temporary, model_args=arguments, safe_serialization=True)
        try:
            loaded = create_model(f"local-dir:{temporary}", pretrained=True).eval()
            with torch.no_grad():
                same = torch.allclose(loaded(images), expected(images), rtol=1e-5, atol=1e-5)
        except Exception as error:  # of a timm that reads such folders otherwise
            raise InputError(f"[hub] expected a folder that timm loads, got {last_line(error)}; update timm") from None
        if not same:
            raise InputError(f"[hub] expected the network's outputs from a folder of {NAME}, got others; update timm")
        for name in FILES[:2]:
            with atomic(folder / name) as path:
                shutil.copyfile(Path(temporary) / name, path)
    write_text(folder / FILES[2], card)
    return folder


def check_repository(name: str) -> None:
    """Raise InputError unless a repository's name has the form USER/NAME."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"[hub] expected a repository as USER/NAME, got {name!r}")


def push(folder: str | Path, repository: str) -> str:
    """Push the files of `write_hub` to a repository on the hub, which is made if need be; return its address.

    The token is that of `HF_TOKEN` or of `hf auth login`.

    Raises:
        InputError: a name of another form, no token, or a hub that cannot be reached or refuses; the folder stays as it is.
    """
    from huggingface_hub import HfApi, get_token

    check_repository(repository)
    later = f"{folder} is whole: hf upload {repository} {folder}"
    if get_token() is None:
        raise InputError(f"[hub] expected a token of the hub, got none; set HF_TOKEN or run hf auth login. {later}")
    try:
        api = HfApi(library_name="pynas")
        made = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, allow_patterns=list(FILES),
                          commit_message="Add a network found by pynas")  # fmt: skip
    except Exception as error:  # httpx's, the hub's and the system's, which differ between versions
        raise InputError(f"[hub] expected the hub to take {repository}, got {type(error).__name__}: {last_line(error)}; try again "
                         f"when it can be reached and the token may write. {later}") from None  # fmt: skip
    return str(made)

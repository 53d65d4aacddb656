"""`pynas export --hub`: the folder that timm loads, its model card, and the push."""

import json
import types

import huggingface_hub
import pytest
import timm
import torch
import yaml

from pynas import export
from pynas.errors import InputError
from pynas.export.hub import FILES
from pynas.spaces import get

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folder(whole_run, tmp_path_factory, pynas):
    """The folder of the finished run's network."""
    folder = tmp_path_factory.mktemp("hub") / "net"
    file = whole_run / "subnet.safetensors"
    content = pynas("export", "--run", whole_run, "--subnet", file, "--hub", folder, "--json")
    assert content["hub"] == str(folder) and sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    return folder


def test_timm_loads_the_folder(folder, whole_run):
    model, images = export.from_pretrained(whole_run), torch.randn(2, 3, 32, 32)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
        maps = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
        torch.testing.assert_close(maps(images), export.from_pretrained(whole_run, features_only=True)(images))
        seven = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7).eval()
        assert seven(images).shape == (2, 7)
        assert torch.equal(seven.forward_features(images), loaded.forward_features(images))
    fresh = timm.create_model(f"local-dir:{folder}")
    assert not torch.equal(fresh(images), loaded(images))
    metadata = export.load_subnet(whole_run / "subnet.safetensors")[1]
    data = timm.data.resolve_model_data_config(loaded)
    assert list(data["mean"]) == metadata["mean"] and list(data["std"]) == metadata["std"] and data["crop_pct"] == 1


def test_timm_saves_a_loaded_network_again(folder, tmp_path):
    loaded, images = (
        timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=5).eval(),
        torch.randn(1, 3, 32, 32),
    )
    timm.models.save_for_hf(loaded, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(images), loaded(images)) and again.num_classes == 5


def test_the_card_tells_how_it_was_found(folder, whole_run):
    text, searched = (folder / "README.md").read_text(), json.loads((whole_run / "search.json").read_text())
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "timm" and head["metrics"] == ["accuracy"] and "license" not in head
    best = searched["found"][0]
    metadata = export.load_subnet(whole_run / "subnet.safetensors")[1]
    for part in (f"# {best['architecture']} of mbconv-mini", best["architecture"].replace("|", r"\|"), "Method: `dna`",
                 f"Exact: {searched['visited']:,} nodes visited", f"among {searched['space_size']:,}", "number 1,",
                 f"| parameters | {best['params'] / 1e3:.2f}k |", f"{metadata['test_accuracy']:.2%}", "CVPR 2020",
                 "pynas train --run first-again --method dna", "trained on halves.npz: 2 classes",
                 "pynas search first-again"):  # fmt: skip
        assert part in text, part
    assert str(whole_run.parent) not in text and "data" not in head
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "pynas_subnet" and config["num_classes"] == 2 and config["num_features"] == 96


SENT = []


class FakeHub:
    """Records what would be sent."""

    def __init__(self, **options):
        SENT.append(options)

    def create_repo(self, name, exist_ok):
        SENT.append((name, exist_ok))
        return types.SimpleNamespace(repo_id=name, __str__=lambda self: name)

    def upload_folder(self, **options):
        SENT.append(options)


def test_push_sends_three_files(folder, whole_run, pynas, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    SENT.clear()
    file = whole_run / "subnet.safetensors"
    said = pynas("export", "--run", whole_run, "--subnet", file, "--hub", folder, "--push", "me/net")
    made, (repository, exists), upload = SENT
    assert made["library_name"] == "pynas" and repository == "me/net" and exists
    assert upload["repo_id"] == "me/net" and upload["folder_path"] == folder
    assert upload["allow_patterns"] == list(FILES) and "Pushed to" in said


def test_pushes_that_fail_leave_the_folder(folder, whole_run, pynas, monkeypatch):
    words = [
        "export",
        "--run",
        whole_run,
        "--subnet",
        whole_run / "subnet.safetensors",
        "--hub",
        folder,
        "--push",
        "me/net",
    ]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(InputError, match="expected a token of the hub, got none.*hf upload me/net"):
        pynas(*words)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_none")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="expected the hub to take me/net, got OfflineModeIsEnabled.*is whole"):
        pynas(*words)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(InputError, match="expected --hub FOLDER beside --push"):
        pynas(*words[:5], "--push", "me/net")
    with pytest.raises(InputError, match="expected a repository as USER/NAME, got 'net'"):
        pynas(*words[:-1], "net")


def test_a_space_of_ones_own_is_refused_before_anything_is_written(tmp_path):
    from dataclasses import replace

    space = replace(get("mbconv-mini"), name="mine")
    model = export.standalone(space, "0|00|00|00", 3)
    export.save_subnet(tmp_path / "net.safetensors", model, space, space.parse("0|00|00|00"), 3)
    with pytest.raises(InputError, match="one of pynas's spaces, got one of 'mine'"):
        export.hub.write_hub(tmp_path / "hub", tmp_path / "net.safetensors", "")
    assert not (tmp_path / "hub").exists()

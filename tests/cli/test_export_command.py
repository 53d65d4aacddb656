"""`pynas export` into every format, of networks taken out and of files."""

import shutil

import pytest
import torch

from pynas import export, runs, runtimes
from pynas.errors import InputError

pytestmark = pytest.mark.integration


def test_every_format_at_once(run_copy, tmp_path, pynas):
    folder = tmp_path / "out"
    words = ["--python", folder / "plain", "--torch-export", folder / "net.pt2", "--json"]
    words += ["--onnx", folder / "net.onnx"] if torch.onnx and _installed("onnxscript") else []
    content = pynas("export", "--run", run_copy, "--architecture", "0|00|00|00", *words)
    assert content["architecture"] == "0|00|00|00" and content["python"] == str(folder / "plain" / "model.py")
    model = export.from_pretrained(run_copy)
    images = torch.randn(2, 3, 32, 32)
    got = torch.export.load(folder / "net.pt2").module()(images)
    torch.testing.assert_close(got, model(images), rtol=1e-4, atol=1e-5)
    assert "0|00|00|00 of mbconv-mini" in (folder / "plain" / "model.py").read_text()


def test_a_file_that_was_written_before(run_copy, tmp_path, pynas):
    path = shutil.copy(run_copy / "subnet.safetensors", tmp_path / "other.safetensors")
    (run_copy / "subnet.safetensors").unlink()
    content = pynas("export", "--run", run_copy, "--subnet", path, "--python", tmp_path / "plain", "--json")
    assert content["file"] == str(path) and not (run_copy / "subnet.safetensors").exists()
    with pytest.raises(InputError, match="got both"):
        pynas("export", "--run", run_copy, "--subnet", path, "--architecture", "0|00|00|00")


def test_formats_for_another_image_size(run_copy, tmp_path, pynas):
    words = ["export", "--run", run_copy, "--subnet", run_copy / "subnet.safetensors", "--image-size", 48]
    pynas(*words, "--python", tmp_path / "plain")
    assert "[B, 3, 48, 48]" in (tmp_path / "plain" / "model.py").read_text()
    with pytest.raises(InputError, match="beside --image-size, got none"):
        pynas(*words)


def test_8_bits_and_their_accuracy(run_copy, tmp_path, pynas):
    pytest.importorskip("onnxruntime")
    words = ["export", "--run", run_copy, "--onnx-int8", tmp_path / "8.onnx"]
    content = pynas(*words, "--json")
    got, images = runtimes.onnx_runner(tmp_path / "8.onnx"), runs.load(run_copy).data
    hits = [got(batch).argmax(1) == labels for batch, labels in images.loader("test", 7, shuffle=False)]
    assert content["onnx_int8_accuracy"] == pytest.approx(torch.cat(hits).double().mean().item())
    assert f"{content['onnx_int8_accuracy']:.2%} top-1 on the test images with 8 bits" in pynas(*words)
    with pytest.raises(
        InputError, match="the run's side, 32, for int8, which is calibrated on them, got --image-size 48"
    ):
        pynas(*words, "--image-size", 48)


def _installed(name):
    import importlib.util

    return importlib.util.find_spec(name) is not None

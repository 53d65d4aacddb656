"""Images of every kind are read as 8-bit RGB or refused by name; hidden and system files are no images."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from pynas import data
from pynas.data.decode import decode, read_image
from pynas.errors import InputError

GREY = np.linspace(0, 65535, 256).round().reshape(16, 16)
COLOURS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(pixels: np.ndarray, bits: int, colour: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """A PNG of big-endian rows, without the help of Pillow, which writes no 16-bit colours."""
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0))
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(pixels: bytes, bits: int, photometric: int = 1, kind: int = 1, order: str = "<") -> bytes:
    """A TIFF of 16x16 grey levels. kind: 1 unsigned, 2 signed, 3 float."""
    tags = [(256, 16), (257, 16), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 16), (279, len(pixels)),
            (339, kind)]  # fmt: skip
    listed = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(pixels))
    return start + pixels + struct.pack(f"{order}H", len(tags)) + listed + bytes(4)


def packed_12_bits(values: np.ndarray) -> bytes:
    bits = np.unpackbits(values.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 4:]
    return np.packbits(bits).tobytes()


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


RGB, L = Image.fromarray(COLOURS), Image.fromarray(COLOURS[..., 0])
SCALED = GREY * 255 / 65535
PALETTE = RGB.quantize(100)
DEEP = np.random.default_rng(1).integers(0, 65536, (16, 16, 3))
CASES = {  # content, values wanted, error allowed
    "16-bit PNG": (saved(Image.fromarray(GREY.astype(np.uint16)), "PNG"), SCALED, 0.5),
    "16-bit TIFF": (saved(Image.fromarray(GREY.astype(np.uint16)), "TIFF"), SCALED, 0.5),
    "16-bit big-endian TIFF": (tiff(GREY.astype(">u2").tobytes(), 16, order=">"), SCALED, 0.5),
    "16-bit TIFF, white is zero": (tiff(GREY.astype("<u2").tobytes(), 16, photometric=0), 255 - SCALED, 0.5),
    "12-bit TIFF": (tiff(packed_12_bits(GREY // 16), 12), GREY // 16 * 255 / 4095, 0.5),
    "16-bit PGM": (b"P5 16 16 65535\n" + GREY.astype(">u2").tobytes(), SCALED, 0.5),
    "16-bit colour PNG": (png(DEEP.astype(">u2"), 16, 2), DEEP * 255 / 65535, 1),
    "2-bit PNG": (png(np.full((16, 4), 0b00011011, np.uint8), 2, 0), np.tile([0, 85, 170, 255], (16, 4)), 0),
    "1-bit": (saved(Image.fromarray(GREY > 30000), "PNG"), (GREY > 30000) * 255, 0),
    "grey": (saved(L, "PNG"), COLOURS[..., 0], 0),
    "grey with alpha": (saved(Image.merge("LA", (L, L)), "PNG"), COLOURS[..., 0], 0),
    "colours with alpha": (saved(Image.merge("RGBA", (*RGB.split(), L)), "PNG"), COLOURS, 0),
    "palette": (saved(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB")), 0),
    "transparent palette": (
        saved(PALETTE, "PNG", transparency=bytes(range(100))),
        np.asarray(PALETTE.convert("RGB")),
        0,
    ),
    "CMYK": (saved(RGB.convert("CMYK"), "TIFF"), COLOURS, 0),
    "CMYK JPEG": (saved(RGB.convert("CMYK"), "JPEG", quality=100), COLOURS, 3),
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_scaled_to_8_bits(name: str) -> None:
    content, want, error = CASES[name]
    image = read_image(content, "x")
    want = np.asarray(want, np.float64)
    want = want if want.ndim == 3 else want[..., None]
    assert image.mode == "RGB" and image.size == (16, 16)
    assert np.abs(np.asarray(image) - want).max() <= error + 1e-9
    assert np.array_equal(decode(content, "x").permute(1, 2, 0), np.asarray(image))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"quality": 60, "subsampling": 2}, {"quality": 95, "subsampling": 0},
                                     {"progressive": True}, {"subsampling": 1}])  # fmt: skip
def test_jpegs_are_decoded_as_pillow_decodes_them(mode: str, options: dict[str, object]) -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize(
        (125, 83), Image.Resampling.BICUBIC
    )
    content = saved(smooth.convert(mode), "JPEG", **options)
    want = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    with mock.patch("pynas.data.decode.read_image", side_effect=AssertionError("Pillow")):
        got = decode(content, "x")
    assert got.shape == (3, 83, 125) and np.array_equal(got.permute(1, 2, 0), want)


def test_truncated_and_too_large_jpegs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(RGB, "JPEG")
    with pytest.raises(InputError, match="expected an image, got pic: .*[Tt]runcated"):
        decode(content[:-200], "pic")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="at most 100 pixels, got pic: "):
        decode(content, "pic")


GOOD = saved(Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "PNG")
BAD = {
    "floats": (
        tiff(GREY.astype("<f4").tobytes(), 32, kind=3),
        r"8 or 16 bits per channel, got .*'F' \(32-bit floats\)",
    ),
    "signed": (tiff(GREY.astype("<i2").tobytes(), 16, kind=2), r"got .*'I' \(signed or 32-bit integers\)"),
    "32 bits": (tiff(GREY.astype("<u4").tobytes(), 32), r"got .*'I' \(signed or 32-bit integers\)"),
    "empty": (b"", "expected an image, got"),
    "text": (b"no image", "expected an image, got"),
    "truncated": (GOOD[:5000], "expected an image, got"),
    "no end": (GOOD[:-12], "expected an image, got"),
    "chunk name": (GOOD[:-12] + b"\0\0\0\0\xa9\x8a\xbc\x07" + GOOD[-4:], "expected an image, got .*: broken PNG file"),
    "checksum": (GOOD[:45] + bytes([GOOD[45] ^ 255]) + GOOD[46:], "expected an image, got"),
    "large text": (
        GOOD[:33] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000))) + GOOD[33:],
        "expected an image, got .*: Decompressed data too large",
    ),
    "bomb": (png(np.zeros((0, 1)), 8, 2, size=(30000, 30000)), "at most 89,478,485 pixels, got .*; make it smaller"),
    "large": (png(np.zeros((0, 1)), 8, 2, size=(10000, 10000)), "at most 89,478,485 pixels, got .*; make it smaller"),
}


@pytest.mark.parametrize("name", BAD)
def test_other_files_are_named(name: str) -> None:
    content, message = BAD[name]
    with pytest.raises(InputError, match=rf"^\[data\] .*{message}") as error:
        read_image(content, "pic.png")
    assert "pic.png" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected an image, got .*gone\.png: .*No such file"):
        data.Folder([(str(tmp_path / "gone.png"), 0)])[0]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_whatever_pillow_raises_passes_through_workers(
    tmp_path: Path, make_folder: Callable[..., Path], workers: int
) -> None:
    root = make_folder(tmp_path / "images")
    (root / "train" / "ant" / "3.png").write_bytes(BAD["large text"][0])
    images = data.load(root, 16, val_fraction=0)
    with pytest.raises(InputError, match=r"^\[data\] expected an image, got .*3\.png: Decompressed [^\n]*$"):
        list(images.loader("train", 2, workers=workers))


def test_loaders_read_16_bits(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    root = make_folder(tmp_path / "images")
    for path in root.rglob("*.png"):
        level = 8000 if path.parent.name == "ant" else 56000
        Image.fromarray(np.full((20, 20), level, np.uint16)).save(path)
    images = data.load(root, 16)
    for part in ("train", "val", "test"):
        for x, y in images.loader(part, 4):
            values = (x * torch.tensor(images.std)[:, None, None] + torch.tensor(images.mean)[:, None, None]) * 255
            want = torch.where(y == 0, 31.0, 218.0)[:, None, None, None].expand_as(values)
            torch.testing.assert_close(values, want, atol=0.01, rtol=0)


def test_hidden_and_system_files_are_no_classes_and_no_images(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    root = make_folder(tmp_path / ".hidden" / "images")  # where the whole folder lies does not matter
    plain = data.load(root, 16)
    image = next(root.rglob("*.png")).read_bytes()
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        for folder in (root / "train", root / "val" / "ant", root / "train" / "bee"):
            (folder / name / "ant").mkdir(parents=True)
            (folder / name / "ant" / "0.png").write_bytes(image)
            (folder / name / "0-checkpoint.png").write_bytes(image)
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt"):
        (root / "train" / "ant" / name).write_bytes(image)
        (root / "train" / name).write_bytes(image)
    (root / "train" / "bee" / "more").mkdir()
    (root / "train" / "bee" / "more" / "10.PNG").write_bytes(image)
    images = data.load(root, 16)
    assert images.num_classes == 2 and images.test.samples == plain.test.samples
    got = {path for path, _ in images.train.samples + images.val.samples}
    assert got == {
        *(path for path, _ in plain.train.samples + plain.val.samples),
        str(root / "train" / "bee" / "more" / "10.PNG"),
    }


def test_a_class_of_hidden_files_alone_is_named(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    root = make_folder(tmp_path / "images")
    for path in (root / "train" / "bee").iterdir():
        path.rename(path.with_name(f"._{path.name}"))
    with pytest.raises(InputError, match=r"one subfolder of images per class, got .*bee"):
        data.load(root, 16)

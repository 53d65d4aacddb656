"""Decode image files to 8-bit RGB, and list the images of a folder of classes."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from pynas.errors import InputError

# Folders of operating systems, archives and notebooks that hold no images of the user's; names with a dot are hidden too.
_SYSTEM = {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db",
           "desktop.ini"}  # fmt: skip
# First bytes of a JPEG, and the colours of those that libjpeg-turbo turns into RGB as Pillow does.
_JPEG, _JPEG_COLOURS = b"\xff\xd8\xff", ("YCbCr", "Gray")
# TIFF's tags BitsPerSample and PhotometricInterpretation, and the latter's value "white is zero".
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def decode(data: bytes, name: str) -> torch.Tensor:
    """Decode an image file's bytes to uint8 `[3, H, W]`, in memory `[H, W, 3]`; name: of the file, for messages.

    JPEGs go past Pillow, which takes longer for the same pixels; otherwise as `read_image`.

    Raises:
        InputError: as `read_image`.
    """
    if data.startswith(_JPEG):
        import simplejpeg  # all else works without

        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if colours in _JPEG_COLOURS and height * width <= (Image.MAX_IMAGE_PIXELS or float("inf")):
                return torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB")).permute(2, 0, 1)
        except ValueError:  # Pillow says what is wrong, or reads the file all the same
            pass
    return torch.from_numpy(np.array(read_image(data, name))).permute(2, 0, 1)


def read_image(data: bytes, name: str) -> Image.Image:
    """Read an image file's bytes as 8-bit RGB; name: of the file, for messages.

    16-bit grey levels are scaled from 0..65535 (12-bit ones of TIFF from 0..4095) to 0..255 and rounded; of 16-bit colours
    Pillow keeps the high byte. Palettes and CMYK become the colours that they stand for. Transparency is dropped, as in
    torchvision. Of several frames the first one counts.

    Raises:
        InputError: whatever Pillow complains of: an empty, truncated or otherwise damaged file, or one of more pixels than
            `PIL.Image.MAX_IMAGE_PIXELS`; or numbers without a known range (32-bit and signed integers, floats).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                read = to_rgb(image)
            if image.format == "PNG":  # checks the chunks that need not be read for the pixels
                with Image.open(io.BytesIO(data)) as image:
                    image.verify()
            return read
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"[data] expected an image of at most {Image.MAX_IMAGE_PIXELS:,} pixels, got {name}: {_line(error)}; "
                         "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS") from None  # fmt: skip
    except InputError as error:
        raise InputError(f"[data] expected an image of 8 or 16 bits per channel, got {name}: {error}") from None
    except UnidentifiedImageError:
        raise InputError(
            f"[data] expected an image, got {name}: no format that Pillow knows; mend or remove the file"
        ) from None
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, ...
        raise InputError(f"[data] expected an image, got {name}: {_line(error)}; mend or remove the file") from None


def class_folders(path: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Return the names of a folder's subfolders, sorted, and (path, class) of every image below them, sorted alike.

    Hidden and system files and folders (`.ipynb_checkpoints`, `._x.jpg`, `__MACOSX`, `Thumbs.db`, ...) are left out; other
    files count where torchvision knows their ending.

    Raises:
        InputError: no folder, no subfolders, or one without images.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    root = len(str(path)) + 1

    def is_image(name: str) -> bool:
        return name.lower().endswith(IMG_EXTENSIONS) and all(map(_is_visible, name[root:].split(os.sep)))

    try:
        classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and _is_visible(entry.name))
        if not classes:
            raise FileNotFoundError("it has no subfolders")
        numbers = {name: number for number, name in enumerate(classes)}
        return classes, make_dataset(str(path), numbers, is_valid_file=is_image)
    except OSError as error:
        raise InputError(
            f"[data] expected a folder with one subfolder of images per class, got {path}: {_line(error)}"
        ) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as 8-bit RGB, see `read_image`.

    Raises:
        InputError: numbers without a known range.
    """
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise InputError(f"mode {image.mode!r} ({'32-bit floats' if image.mode == 'F' else 'signed or 32-bit integers'}), "
                         "whose range is not known; convert it to 8 or 16 bits")  # fmt: skip
    if image.mode.startswith("I"):  # PNG's and PPM's "I" have 16 bits too
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Scale grey levels of 16 bits, or of as many as a TIFF file says, to 0..255."""
    tags = getattr(image, "tag_v2", {})
    most = 2 ** tags.get(_BITS, (16,))[0] - 1
    grey = np.asarray(image).astype(np.float64)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = most - grey
    return np.rint(grey * (255 / most)).astype(np.uint8)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _SYSTEM


def _line(error: BaseException) -> str:
    """Return an error's message as one line, its type where there is none."""
    return " ".join(str(error).split()) or type(error).__name__

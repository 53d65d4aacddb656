"""Loading of images: files decoded, cropped to 224 pixels and changed, in images/s, beside other ways and by number of workers.

    python -m bench.loading                                      # JPEGs of 500x375 pixels, made from a seed
    python -m bench.loading --images imagenet/train --workers 0 4 16

`Pillow` is torchvision's transforms on Pillow's images, one by one, as this package read images before; `tensors` the same on bytes
that torchvision decodes. Each case runs in this process with one thread, so that its images/s are those of a core. Beside them the
decoders and the changes of colour alone, and whole epochs of `ImageData.loader` by number of workers, which share this machine's
cores. --device cuda: colours are changed there; without OpenCV, which a GPU does not need, those of a CPU are left out.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from bench import _timer
from bench._command import command_line, device, installed, run
from pynas.data import Folder, ImageData, Views, augment
from pynas.data.decode import decode
from pynas.data.loaders import kept_generators
from pynas.data.strong import BYOL, draw

SIZE = 224
VIEWS = 8
CASES = {"validation": ("none", 1), "crop and flip": ("standard", 1), f"{VIEWS} strong views": ("strong", VIEWS)}


def write_images(folder: Path, count: int = 32) -> list[Path]:
    """Write JPEGs of 500x375 pixels and about 65 KB: smooth shapes with noise."""
    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse).astype(np.float32) + rng.normal(0, 9, (375, 500, 3))
        path = folder / f"{number}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(path)
    return paths


def before(kind: str, views: int) -> Callable[[Any], Any]:
    """Return torchvision's transforms of an augmentation, for an image of Pillow's or a tensor."""
    if kind == "none":
        steps: list[Any] = [v2.Resize(256), v2.CenterCrop(SIZE)]
    else:
        steps = [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()]
    if kind == "strong":
        steps += [v2.RandomApply([v2.ColorJitter(*BYOL.jitter)], p=BYOL.jittered), v2.RandomGrayscale(BYOL.grey),
                  v2.RandomApply([v2.GaussianBlur(23, sigma=(0.1, 2.0))], p=BYOL.blurred),
                  v2.RandomSolarize(threshold=128, p=BYOL.solarized)]  # fmt: skip
    transform = v2.Compose([*steps, v2.ToImage()])
    return transform if views == 1 else Views(transform, views)


def by_pillow(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def by_torchvision(content: bytes) -> torch.Tensor:
    return decode_jpeg(torch.from_numpy(np.frombuffer(content, np.uint8).copy()), ImageReadMode.RGB)


def over(function: Callable[[Any], Any], items: list[Any]) -> Callable[[], None]:
    """Return a function that calls another for each item, its draws seeded."""

    def all_of_them() -> None:
        with kept_generators():
            for item in items:
                function(item)

    return all_of_them


def ours(kind: str, views: int, later: bool = False) -> Callable[[bytes], Any]:
    """Return this package's way from a file's content to the views of an augmentation; later: a GPU changes the colours."""
    transform = augment.from_files(kind, (SIZE, SIZE), True, (0.5,) * 3, later)
    transform = transform if views == 1 else Views(transform, views)
    return lambda content: transform(decode(content, "x"))


def core_seconds(kind: str, views: int = 1, repeats: int = 3) -> float:
    """Seconds of a core per image, from a JPEG of `write_images` to the views of an augmentation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        contents = [path.read_bytes() for path in write_images(Path(folder))]
    call = over(ours(kind, views), contents)
    seconds = _timer.medians({"ours": call}, "cpu", repeats, warmup=1)["ours"] / len(contents)
    torch.set_num_threads(threads)
    return seconds


def measure(case: str, functions: dict[str, Callable[[], None]], images: int, options: Namespace) -> None:
    """Time the functions in turn; print images/s and keep a record."""
    seconds = {
        name: t / images for name, t in _timer.medians(functions, options.device, options.repeats, warmup=1).items()
    }
    keep(case, seconds, options)


def keep(case: str, seconds: dict[str, float], options: Namespace) -> None:
    """Print images/s, and append the record."""
    first = next(iter(seconds.values()))
    shown = "  ".join(f"{name} {1 / t:,.0f} ({t / first:.2f}x)" for name, t in seconds.items())
    print(f"{case}, images/s: {shown}", flush=True)
    if options.json:
        record = {"bench": "loading", "case": case, "seconds": seconds, "device": options.device, **_timer.machine("cpu"),
                  "cores": os.cpu_count()}  # fmt: skip
        with options.json.open("a") as file:
            file.write(json.dumps(record) + "\n")


def of_one_core(contents: list[bytes], options: Namespace) -> None:
    """Time the cases, the decoders and the colours in this process."""
    count = len(contents)
    functions = {
        "pynas": lambda c: decode(c, "x"),
        "Pillow": lambda c: by_pillow(c).load(),
        "torchvision": by_torchvision,
    }
    measure("decode", {name: over(f, contents) for name, f in functions.items()}, count, options)
    name, (kind, views) = list(CASES.items())[-1]
    measure(f"{name}, colours left to a GPU", {"pynas": over(ours(kind, views, later=True), contents)}, count, options)
    opencv = installed("cv2", "opencv-python-headless")
    for name, (kind, views) in CASES.items():
        if kind == "strong" and not opencv:
            continue
        theirs = before(kind, views)
        measure(name, {
            "pynas": over(ours(kind, views), contents),
            "Pillow": over(lambda c, theirs=theirs: theirs(by_pillow(c)), contents),
            "tensors": over(lambda c, theirs=theirs: theirs(by_torchvision(c)), contents),
        }, count, options)  # fmt: skip
    crop = v2.RandomResizedCrop(SIZE)
    with kept_generators():
        cropped = [crop(decode(content, "x")) for content in contents]
    batch, pillow = torch.stack(cropped), [v2.functional.to_pil_image(image) for image in cropped]
    colours = v2.Compose(before("strong", 1).transforms[2:])
    placed = batch.to(options.device)
    functions = {
        **({"pynas (OpenCV)": over(BYOL.of_image, cropped)} if opencv else {}),
        f"pynas (batch, {options.device})": over(lambda images: BYOL.of_batch(images, draw(len(images))), [placed]),
        "Pillow": over(colours, pillow),
        "tensors": over(colours, cropped),
    }
    if kornia := installed("kornia", "kornia"):
        functions["kornia"] = over(kornia_colours(kornia), [placed.float() / 255])
    measure("strong colours", functions, count, options)


def kornia_colours(kornia: Any) -> Any:
    """Return kornia's changes of a float batch."""
    aug = kornia.augmentation
    return torch.nn.Sequential(aug.ColorJitter(*BYOL.jitter, p=BYOL.jittered), aug.RandomGrayscale(p=BYOL.grey),
                               aug.RandomGaussianBlur((23, 23), (0.1, 2.0), p=BYOL.blurred),
                               aug.RandomSolarize(p=BYOL.solarized))  # fmt: skip


def by_workers(paths: list[Path], options: Namespace) -> None:
    """Time whole epochs of the loader by number of workers, after the workers have started."""
    several = -(-options.epoch // len(paths))
    part = Folder([(str(path), 0) for path in paths * several])
    images = ImageData("bench", part, part, part, 1, (3, SIZE, SIZE), (0.5,) * 3, (0.25,) * 3, True, "0" * 16)
    for name, (kind, views) in CASES.items():
        seconds = {}
        for workers in options.workers:
            loader = images.loader("train", 32, kind, views=views, workers=workers, device=options.device)
            next(iter(loader))
            loader.set_epoch(1)
            start = time.perf_counter()
            for batch, _ in loader:
                _ = batch
            if options.device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds[f"pynas, {workers} workers"] = (time.perf_counter() - start) / (len(loader) * 32)
        keep(f"epoch of {name}", seconds, options)


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("--images", type=Path, help="a folder of JPEGs at any depth; default: made from a seed")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--epoch", type=int, default=512, help="images of an epoch")
    parser.add_argument("--device", type=device, default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="append what was measured to this file, one JSON object a line")
    options = parser.parse_args()
    if options.images is not None and not options.images.is_dir():
        parser.error(f"expected a folder of JPEGs, got {options.images}")
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as temporary:
        if options.images is None:
            paths = write_images(Path(temporary))
        else:
            found = (path for path in sorted(options.images.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg"))
            paths = [path for _, path in zip(range(10_000), found)]
            paths = paths[:: max(1, len(paths) // 64)][:64]
        if not paths:
            parser.error(f"expected JPEGs below {options.images}, got none")
        contents = [path.read_bytes() for path in paths]
        print(
            f"{len(paths)} JPEGs, {np.mean([len(content) for content in contents]) / 1e3:.0f} KB on average", flush=True
        )
        torch.set_num_threads(1)
        of_one_core(contents, options)
        torch.set_num_threads(threads)
        by_workers(paths, options)


if __name__ == "__main__":
    run(main)

"""The steps of bench/gpu.sh: what each runs, for how long, and what stands in for it in a rehearsal without a GPU.

python -m bench.gpu FOLDER [STEP ...]        python -m bench.gpu --list
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench import _run_folders
from bench._command import command_line, run
from bench._steps import Session, Step, chosen

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "gpu"  # run folders and unpacked images; ignored by git
DATA = WORK / "cifar10.npz"
KERNELS = ("path_batch_norm", "path_distance", "ensemble_loss", "queue_nce", "saliency_boxes", "pareto")
LONG_SEARCHES = ("36x50 very correlated, 3 limits", "80x54 very correlated, 3 limits", "12x40 equal losses, 3 limits",
                 "subset sum of 48, 2 limits")  # fmt: skip
TOOLS = ("memcheck", "racecheck", "synccheck")
CASES = ("dna", "boss", "slimmable", "transformer")


def main() -> None:
    parser = command_line(__file__, __doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/gpu/out"))
    parser.add_argument("step", nargs="*", default=["check-", "bench-"], help="default: check- bench-")
    parser.add_argument("--list", action="store_true", help="print the steps and their limits, run nothing")
    options = parser.parse_args()
    rehearse = os.environ.get("REHEARSE") == "1"
    folder = options.folder.resolve()
    if not options.list and "RUNS" in os.environ:
        restore(Path(os.environ["RUNS"]))
    known = steps(folder, rehearse)
    if options.list:
        print("\n".join(f"{step.name:20} {step.seconds:4.0f} s  {' '.join(step.command)}" for step in known))
        return
    try:
        wanted = chosen(known, options.step)
    except ValueError as error:
        parser.exit(2, f"[gpu] {error}\n")
    os.chdir(ROOT)
    WORK.mkdir(parents=True, exist_ok=True)
    about = {"rehearsal": rehearse, "python": platform.python_version(), "started": time.strftime("%Y-%m-%dT%H:%M:%S")}
    session = Session(folder, float(os.environ.get("BUDGET", "550")), about, _run_folders.pack)
    listen(session)
    raise SystemExit(0 if session.run(wanted) else 1)


def restore(packed: Path) -> None:
    """Unpack the runs that an earlier call left; one that does not come back is trained anew."""
    try:
        print("restored:", ", ".join(_run_folders.restore(packed, WORK / "runs")) or "nothing")
    except Exception as error:
        print(f"not restored: {error!r}")


def listen(session: Session) -> None:
    """A call that is cut ends the step that runs, and packs what it left."""

    def cut(number: int, frame: object) -> None:
        session.cut = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, cut)


def steps(folder: Path, rehearse: bool) -> list[Step]:
    """All steps, in the order in which they matter."""
    python, device = sys.executable, "cpu" if rehearse else "cuda"
    cuda = {"PYNAS_CUDA": "1", "PYNAS_CUDA_ARCHS": os.environ.get("PYNAS_CUDA_ARCHS") or architecture()}
    built = ("facts", "build")
    build = [python, "setup.py", "-q", "build_ext", "--inplace"]
    if os.environ.get("BUILT") == "1":
        build = [python, "-c", "from pynas import _C; print(_C.__file__)"]
    found = [
        Step("facts", [python, "-m", "bench.gpu_facts", *(["--rehearse"] if rehearse else [])], 120),
        Step("build", build, 400, ("facts",), cuda),
        Step("check-tests", tests(python, rehearse), 300, built),
    ]
    for large in (False, True):
        for tool in TOOLS:
            name = f"check-{tool}{'-large' if large else ''}"
            # A rehearsal runs the kernels' CPU form once for each tool: the sanitizer itself needs a GPU.
            command = [python, "-m", "bench.check_kernels", "--device", device]
            if large:
                command += ["--large", *(["--elements", "4000000"] if rehearse else [])]
            found.append(Step(name, [*sanitizer(tool, rehearse), *command], 200 if large else 150, built))
    team = [python, "-m", "bench.two_processes", "--device", device, "--json", str(folder / "bench.jsonl")]
    found.append(Step("check-processes", [*team, *(["--steps", "2", "--batch", "8"] if rehearse else [])], 400, built))
    found += benches(folder, python, device, rehearse) + trainings(python, device, rehearse)
    return [dataclasses.replace(step, seconds=4 * step.seconds) for step in found] if rehearse else found


def architecture() -> str:
    """The first GPU's compute capability as CMake writes it, "90" where none answers."""
    try:
        asked = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        said = []
    return said[0].replace(".", "") if said else "90"


def sanitizer(tool: str, rehearse: bool) -> list[str]:
    """compute-sanitizer on this project's kernels alone: torch's own would take most of the time."""
    if rehearse:
        return []
    # A backtrace of the host would hold Python's frames, and with them the tensors of every check.
    return ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--kernel-name", "kernel_substring=pynas",
            "--show-backtrace", "device"]  # fmt: skip


def tests(python: str, rehearse: bool) -> list[str]:
    """The cuda tests; in a rehearsal all files are collected for them, and the operators' tests run on the CPU."""
    # Warnings of another torch about itself are no failures.
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-o", "filterwarnings=default", "-q"]
    workers = ["-n", "2" if rehearse else "4"] if importlib.util.find_spec("xdist") else []
    if not rehearse:
        return [*command, *workers, "-m", "cuda", "--durations", "5", "tests"]
    collect = [*command, "--collect-only", "-qq", "-m", "cuda", "tests"]
    run = [
        *command,
        *workers,
        "tests/ops",
        "tests/rating/test_graphs.py",
        "tests/rating/test_recorded_ratings.py",
        "-k",
        "not cuda_host and not fuzz and not opcheck and not compile and not export",
    ]
    return ["bash", "-c", f"{shlex.join(collect)} && {shlex.join(run)}"]


def benches(folder: Path, python: str, device: str, rehearse: bool) -> list[Step]:
    """Each kernel beside copy bandwidth, eager torch and torch.compile; then the rating engine, and the parts of a step."""
    few = ["--repeats", "1", "--no-compile"] if rehearse else []
    out, built = ["--device", device, "--json", str(folder / "bench.jsonl")], ("facts", "build")
    found = [Step(f"bench-{stem}", [python, "-m", f"bench.{stem}", *out, *few], 200, built) for stem in KERNELS]
    searched = ("36x50",) if rehearse else LONG_SEARCHES
    solvers = "pynas" if rehearse else "pynas,pynas-cuda"
    command = [python, "-m", "bench.search", "--solvers", solvers, "--json", str(folder / "bench.jsonl"), *searched]
    found.append(Step("bench-search", command, 200, built))
    for case in CASES:
        small = ["--sample", "2", "--layers", "2", "--dtype", "float32"] if rehearse else []
        command = [python, "-m", "bench.rating", "--case", case, "--device", device, *small]
        found.append(Step(f"bench-rating-{case}", command, 150, built))
    for case in ("dna", "bossnas", "prenas"):
        command = [python, "-m", "bench.training", "--case", case, *out, *few]
        found.append(Step(f"bench-training-{case}", command, 150, built))
    workers = ["--workers", "0", "1", "4", "8", "16", "--epoch", "4096", "--repeats", "3"]
    small = ["--workers", "0", "1", "--epoch", "64", "--repeats", "1"]
    found.append(Step("bench-loading", [python, "-m", "bench.loading", *out, *(small if rehearse else workers)], 200))
    small = [
        "--teacher",
        "efficientnet_b0",
        "--image-size",
        "64",
        "--batch",
        "2",
        "--rating-batch",
        "1",
        "--repeats",
        "1",
    ]
    found.append(Step("bench-scale", [python, "-m", "bench.scale", *out, *(small if rehearse else [])], 150, built))
    return found


def epochs(number: int) -> str:
    """So many epochs, or the share of them that EPOCHS names."""
    return str(max(1, round(number * float(os.environ.get("EPOCHS", "1")))))


def trainings(python: str, device: str, rehearse: bool) -> list[Step]:
    """The methods on whole CIFAR-10, each going on where an earlier call was cut; their run folders come back packed."""
    given = os.environ.get("IMAGES", "IMAGES-is-not-set")
    unpack = [python, "-m", "bench.pack_images", "unpack", given, str(DATA), *(["--first", "100"] if rehearse else [])]
    if given.endswith(".npz"):
        unpack = ["cp", given, str(DATA)]
    elif DATA.exists():
        unpack = ["echo", "unpacked in an earlier call"]
    found = [Step("images", unpack, 90)]
    after, data, runs = ("facts", "build", "images"), str(DATA.relative_to(ROOT)), (WORK / "runs").relative_to(ROOT)
    small = ["--limit-images", "60", "--epochs", "1", "--batch-size", "10"] if rehearse else []
    smaller = [*small, "--image-size", "16"] if rehearse else []
    dna = [*small, "--retrain-epochs", "1", "--seeds", "1", "--random-nets", "1"] if rehearse else []
    sizes = ["--jobs", os.environ.get("JOBS", "8"), "--epochs", epochs(20), "--retrain-epochs", epochs(30)]
    command = [python, "-m", "bench.train_dna", data, "--run", str(runs / "dna"), "--device", device, *sizes, *dna]
    found.append(Step("train-dna", command, 540, after, keep=WORK / "runs" / "dna"))
    for method, space, options in (
        ("bossnas", "nats-size", ["--val-fraction", "0.5", "--epochs", epochs(20), "--batch-size", "256"]),
        ("pinas", "nasbench201-3", ["--epochs", epochs(50), "--batch-size", "256", "--option", "search=all"]),
        ("prenas", "autoformer-mini", ["--epochs", epochs(100), "--batch-size", "256"]),
    ):
        options += small if method == "prenas" else smaller  # whose patches are made for 32x32
        command = [python, "-m", "pynas", "run", "--json", "--device", device, "--data", data, "--method", method,
                   "--space", space, "--run", str(runs / method), *options]  # fmt: skip
        if _run_folders.finished(WORK / "runs" / method):  # without its checkpoints it would begin anew
            command = ["echo", "finished in an earlier call"]
        found.append(Step(f"train-{method}", command, 540, after, keep=WORK / "runs" / method))
    return found


if __name__ == "__main__":
    run(main)

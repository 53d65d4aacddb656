"""Two machines, as network namespaces with a cable between them: four processes on two hosts end as four on one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import TRAIN, torchrun

HOSTS = ("pynas-test-a", "pynas-test-b")
ADDRESSES = ("10.203.17.1", "10.203.17.2")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[tuple[str, ...]]:
    """Two network namespaces that a veth pair joins; removed in the end."""
    if shutil.which("ip") is None:
        pytest.skip("needs iproute2")
    try:
        for name in HOSTS:
            ip("netns", "add", name)
        ip("link", "add", "pynas-a", "netns", HOSTS[0], "type", "veth", "peer", "name", "pynas-b", "netns", HOSTS[1])
        for name, link, address in zip(HOSTS, ("pynas-a", "pynas-b"), ADDRESSES):
            ip("-n", name, "address", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield HOSTS
    except (subprocess.CalledProcessError, OSError) as error:
        said = getattr(error, "stderr", b"") or b""
        pytest.skip(f"this machine allows no network namespaces: {said.decode().strip() or error}")
    finally:
        for name in HOSTS:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def start(host: str, link: str, number: int, *words: object) -> subprocess.Popen:
    """Start two processes of a job on a host; the first host is where they meet."""
    launch = torchrun("--nnodes", 2, "--nproc-per-node", 2, "--node-rank", number, "--master-addr", ADDRESSES[0],
                      "--master-port", 29_511)  # fmt: skip
    environment = {**ENVIRONMENT, "GLOO_SOCKET_IFNAME": link, "PYNAS_TIMEOUT": "60"}
    command = ["ip", "netns", "exec", host, *launch, *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_both(*words: object) -> list[subprocess.Popen]:
    return [start(host, f"pynas-{host[-1]}", number, *words) for number, host in enumerate(HOSTS)]


def on_two_hosts(*words: object) -> None:
    """Run a command line by two processes on each host."""
    jobs = start_both(*words)
    said = [job.communicate(timeout=600)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(said)


def on_one_host(*words: object) -> None:
    """Run a command line by four processes here."""
    subprocess.run([*torchrun("--nproc-per-node", 4), *map(str, words)], env=ENVIRONMENT, check=True, timeout=600)


def test_four_processes_on_two_hosts_are_four_on_one(hosts: tuple[str, ...], tmp_path: Path) -> None:
    """Training and rating in a folder that both hosts share: the same weights and scores, byte for byte."""
    folders = {"two": tmp_path / "two", "one": tmp_path / "one"}
    for where, run in (("two", on_two_hosts), ("one", on_one_host)):
        run(*TRAIN, 1, "--run", folders[where])
        run("rate", "--run", folders[where])
    for name in ("checkpoints/last.safetensors", "teacher.safetensors"):
        assert (folders["two"] / name).read_bytes() == (folders["one"] / name).read_bytes(), name
    scores = [sorted((folder / "scores").glob("block_*.npz")) for folder in folders.values()]
    assert len(scores[0]) == 4
    for one, other in zip(*scores):
        assert one.read_bytes() == other.read_bytes(), one.name


@pytest.mark.parametrize("fault", ["link", "first", "second"])
def test_a_host_that_is_lost_in_the_middle(hosts: tuple[str, ...], tmp_path: Path, fault: str) -> None:
    """The processes left say so in one line each, and the run goes on with both hosts to the bytes of an undisturbed one."""
    folder, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.safetensors"
    first, second = start_both(*TRAIN, 6, "--run", folder)
    deadline = time.monotonic() + 200
    while not last.exists():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    lost = {"link": [], "first": [first], "second": [second]}[fault]
    if fault == "link":
        ip("-n", HOSTS[1], "link", "set", "pynas-b", "down")
    for job in lost:
        for process in [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]:
            process.kill()
        job.communicate()
    for job in {first, second} - set(lost):
        said = job.communicate(timeout=300)[0]
        lines = re.findall(r"^pynas: .*", said, re.M)
        assert len(lines) == 2 and all(f"--run {folder} goes on" in line for line in lines), said
        assert re.search(
            r"^pynas: \[processes\] expected 4 processes to the end, got process \d that lost another", said, re.M
        )
        assert "train.py" not in said and re.search(r"exitcode +: 2 ", said), said  # no traceback but torchrun's own
    if fault == "link":
        ip("-n", HOSTS[1], "link", "set", "pynas-b", "up")
    on_two_hosts("train", "--run", folder)
    on_one_host(*TRAIN, 6, "--run", tmp_path / "whole")
    for name in ("checkpoints/last.safetensors", "metrics.jsonl"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name

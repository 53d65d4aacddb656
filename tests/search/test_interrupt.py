"""Ctrl-C ends a long search at once, in the main thread and in another, on one thread and on several."""

import contextlib
import importlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pynas import search
from pynas.ops.traversal import traverse

W = np.random.default_rng(0).integers(1, 1000, 1024)


def subset_sum():
    """Every value is a weight: the bounds prune nothing."""
    return search.traverse([np.array([0.0, -float(w)]) for w in W], [np.array([0, w]) for w in W], [W.sum() // 2], 2)


def several_limits():
    rng = np.random.default_rng(1)
    costs = [rng.integers(1, 1000, (12, 5)) for _ in range(60)]
    return search.traverse([-c.sum(1) + rng.random(12) for c in costs], costs, [500 * 60] * 5, 50)


def many_solutions():
    return search.traverse([np.zeros(50)] * 200, [np.arange(50)] * 200, [5000], 500_000)


def long_front():
    rng = np.random.default_rng(2)
    return search.pareto([rng.random(40) for _ in range(60)], [rng.integers(1, 10**9, (40, 2)) for _ in range(60)])


LONG = [subset_sum, several_limits, many_solutions, long_front]


@contextlib.contextmanager
def interrupted_after(seconds, times=1):
    """Send SIGINT to this process, `times` times `seconds` apart."""
    stopped = threading.Event()

    def send():
        for _ in range(times):
            if not stopped.wait(seconds):
                os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        stopped.set()
        sender.join()


@pytest.fixture(autouse=True)
def pythons_handler():
    """Python's own handler of SIGINT; a shell that runs the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


# Under load a second is soon over; an uninterrupted search takes minutes or hours.
SOON = 10


@pytest.mark.parametrize("run", LONG)
def test_ctrl_c_ends_a_search(run, threads):
    start = time.monotonic()
    with interrupted_after(0.7), pytest.raises(KeyboardInterrupt):
        run()
    assert time.monotonic() - start < SOON


def test_ctrl_c_ends_a_search_on_the_gpu(call_on, monkeypatch):
    """Through the CUDA kernels on the CPU, where this search takes many short launches."""
    monkeypatch.setattr(importlib.import_module("pynas.ops.traversal"), "_DEVICE_SUMS", 0)
    costs = torch.from_numpy(np.random.default_rng(3).integers(0, 10**6, (200, 4)))
    losses = 10**6 - costs.sum(1) // 4 + torch.from_numpy(np.random.default_rng(4).integers(0, 20_000, 200))
    start = time.monotonic()
    with call_on("cuda_host"), interrupted_after(0.7), pytest.raises(KeyboardInterrupt):
        traverse(torch.arange(0, 201, 25), losses, costs, torch.full((4,), 4 * 10**6), top_k=20, longest=5000)
    assert time.monotonic() - start < SOON


def test_ctrl_c_ends_a_search_in_another_thread(threads):
    start = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(subset_sum)
        with interrupted_after(0.7), pytest.raises(KeyboardInterrupt):
            future.result()
        with pytest.raises(KeyboardInterrupt):
            future.result(SOON)
    assert time.monotonic() - start < SOON
    # The handler is the one that was there before.
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_handler_of_the_users_decides(threads):
    class Stopped(BaseException):
        pass

    seen = []

    def handler(number, frame):
        seen.append(number)
        if len(seen) == 3:
            raise Stopped

    before = signal.signal(signal.SIGINT, handler)
    try:
        with interrupted_after(0.4, times=3), pytest.raises(Stopped):
            subset_sum()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(seen) == 3

"""A workload: the runtime, the device, the batch size and the threads that a network is served with."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pynas.errors import InputError
from pynas.runtimes.programs import RUNTIMES


@dataclass(frozen=True)
class Workload:
    """How a network is served; runtimes of the CPU alone run there, whatever the device.

    runtime: a name of `pynas.runtimes.RUNTIMES`. device: of torch. batch_size: samples at once. threads: of the CPU; None for
        torch's own number of them.

    Raises:
        InputError: an unknown runtime, one that is not installed, a device that it does not run on, or less than one sample or
            thread.
    """

    runtime: str = "torch"
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (it never changes)
    batch_size: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise InputError(f"[runtime] expected a runtime of {', '.join(RUNTIMES)}, got {self.runtime!r}")
        runtime = RUNTIMES[self.runtime]
        if missing := runtime.missing:
            raise InputError(f"[runtime] expected {', '.join(missing)} for {self.runtime}, got no such package; "
                             f"{runtime.install}")  # fmt: skip
        if self.batch_size < 1 or (self.threads is not None and self.threads < 1):
            raise InputError(
                f"[runtime] expected a batch size and threads of 1 or more, got {self.batch_size} and {self.threads}"
            )
        device = torch.device("cpu") if runtime.devices == ("cpu",) else torch.device(self.device)
        if runtime.devices and device.type not in runtime.devices:
            raise InputError(
                f"[runtime] expected --device {' or '.join(runtime.devices)} for {self.runtime}, got {device}"
            )
        object.__setattr__(self, "device", device)

    @property
    def name(self) -> str:
        """Name of files about the workload."""
        cpu = self.device.type == "cpu"
        return f"{self.runtime}-{self.device.type}-batch{self.batch_size}" + f"-threads{self.used_threads}" * cpu

    @property
    def used_threads(self) -> int:
        """Threads of the CPU."""
        return torch.get_num_threads() if self.threads is None else self.threads

    @property
    def device_name(self) -> str:
        """Name of the device, with the threads of a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{platform.machine()} CPU, {self.used_threads} thread{'s' * (self.used_threads > 1)}"

    @property
    def metadata(self) -> dict[str, object]:
        """The workload as a file tells it."""
        return {"runtime": self.runtime, "device": self.device_name, "batch_size": self.batch_size}

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Let torch have the workload's threads for a while."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.used_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

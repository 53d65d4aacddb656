"""Training by several processes (torchrun), which divide each batch or the blocks among themselves."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pynas.errors import InputError
from pynas.rating.distributed import patience
from pynas.supernets import device_of
from pynas.train.method import Method
from pynas.train.reducer import Reducer, laid_together, lay_back
from pynas.train.sync_batch_norm import synchronised

SPREADS = ("data", "blocks")


def is_first_process() -> bool:
    """Whether this process writes the results."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def block_groups(processes: int, blocks: int) -> list[range]:
    """Blocks of each process group: as many groups as divide the processes evenly, at most one per block."""
    groups = max(n for n in range(1, blocks + 1) if processes % n == 0)
    return [range(g, blocks, groups) for g in range(groups)]


class Team:
    """Process group of a training; does nothing for one process alone.

    spread: "data" gives every process a share of each batch, and averages the gradients. "blocks" first forms as many
        groups as divide the processes evenly, at most one per block, and gives every group blocks of its own (block b to
        group b modulo groups): groups exchange tensors for checkpoints only, and the processes of a group share batches.
        This needs a method whose blocks learn independently (`trained_blocks` not None, as of `methods.DNA`).

    Batch norm normalises each process's share by itself, as in torch's DistributedDataParallel; running statistics are
    averaged. With `method.sync_batch_norm` those of several GPUs normalise the whole batch.

    Gradients are averaged weight by weight while backward passes still run (`Reducer`), where the method says which pass is a
    weight's last (`pynas.train.method.backward`), else after the step; 0 where a process did not use a weight: the processes may
    use different ones (experts chosen by the input, layers dropped at random).

    Raises:
        InputError: an unknown spread, or "blocks" for a method whose blocks depend on each other.
    """

    def __init__(self, method: Method, spread: str = "data") -> None:
        if spread not in SPREADS:
            raise InputError(f"[fit] expected spread of {', '.join(SPREADS)}, got {spread!r}")
        distributed = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
        self.method: Any = method
        self.groups = 1
        self.group: Any = None  # of torch.distributed; None: all processes
        if method.trained_blocks is not None:
            method.trained_blocks = range(len(method.net.space))
        if spread == "blocks" and (method.trained_blocks is None or method.scaler is not None):
            raise InputError(f"[fit] expected a method whose blocks learn independently, without loss scaling, for "
                             f"spread='blocks', got {type(method).__name__}; use spread='data'")  # fmt: skip
        if spread == "blocks" and self.size > 1:
            self._form_groups(len(method.net.space))
        self.group_size = self.size // self.groups
        self._reducer: Reducer | None = None

    def _form_groups(self, blocks: int) -> None:
        shares = block_groups(self.size, blocks)
        self.groups = len(shares)
        share = self.size // self.groups
        groups = [dist.new_group(list(range(g * share, (g + 1) * share)), **patience()) for g in range(self.groups)]
        own = self.rank // share
        self.group = groups[own]
        self.method.trained_blocks = shares[own]

    def share(self, loader: Any) -> Any:
        """Return a loader of this process's part of each batch.

        Raises:
            InputError: a batch that the processes of a group cannot share equally.
        """
        if self.group_size == 1:
            return loader
        own = self.rank % self.group_size
        return loader.share(own, self.group_size) if hasattr(loader, "share") else _Share(loader, own, self.group_size)

    @torch.no_grad()
    def begin(self) -> None:
        """Give all processes the first process's weights.

        Raises:
            InputError: the processes have weights of other names or shapes.
        """
        if self.size == 1:
            return
        state = self.method.trained_state()
        everyone = self._gather([(name, tuple(tensor.shape)) for name, tensor in state.items()])
        for rank, theirs in enumerate(everyone):
            if theirs != everyone[0]:
                name = next((a or b for a, b in itertools.zip_longest(everyone[0], theirs) if a != b))[0]
                raise InputError(f"[fit] expected one network in all processes, got another one in process {rank}, from "
                                 f"{name!r} on; give all processes the same arguments")  # fmt: skip
        for tensor in state.values():
            _send(tensor, None)

    def last_batch(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the gradients of an optimizer's weights travel in the backward passes of the step's last batch, which comes now."""
        if self.group_size == 1:
            return
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        if self._reducer is None or list(map(id, weights)) != list(map(id, self._reducer.weights)):
            self._end()
            self._reducer = Reducer(weights, self.group, self.group_size)
        self.method.reduce = self._reducer.begin

    @torch.no_grad()
    def average_gradients(self) -> None:
        """Replace gradients by their means over the processes that share a batch, 0 where a process has none.

        A weight that none of them used keeps the gradient None: neither weight decay nor momentum moves it.
        """
        if self._reducer is not None:
            self.method.reduce = None
            self._reducer.finish()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Synchronise the method's batch norms meanwhile, if it wants that; take the hooks off its weights in the end.

        Raises:
            InputError: see `synchronised`.
        """
        with synchronised(self.method, self.group, self.group_size if self.method.sync_batch_norm else 1):
            try:
                yield
            finally:
                self._end()

    def _end(self) -> None:
        if self._reducer is not None:
            self._reducer.close()
            self._reducer = self.method.reduce = None

    def average_losses(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Mean losses over the shares of a batch; all processes get the same, and stop alike where one is not finite.

        A process counts as 0 where it has no loss of a name: the blocks of other groups, experts that it did not run.
        """
        if self.size == 1:
            return dict(losses)
        everyone = self._gather(dict(losses))
        names = dict.fromkeys(name for theirs in everyone for name in theirs)
        return {name: sum(theirs.get(name, 0.0) for theirs in everyone) / self.group_size for name in names}

    def first_says(self, value: bool, device: torch.device) -> bool:
        """Return the first process's value in all processes, since their clocks differ."""
        if self.size == 1:
            return value
        flag = torch.tensor([int(value)], device=device)
        dist.broadcast(flag, 0)
        return bool(flag.item())

    @torch.no_grad()
    def settle(self, optimizer: torch.optim.Optimizer) -> None:
        """Average the running statistics, and give every process the weights of all blocks; called before a checkpoint.

        Of buffers of integers, as the number of batches that a norm has seen, all get the first process's.
        """
        if self.group_size > 1:
            parameters = {name for name, _ in self.method.named_parameters()}
            buffers = [value for name, value in self.method.trained_state().items() if name not in parameters]
            self._average([value for value in buffers if value.is_floating_point()])
            for value in buffers:
                if not value.is_floating_point():
                    _send(value, self.group)
        if self.groups > 1:
            self._exchange_blocks(optimizer)

    def _gather(self, own: Any) -> list[Any]:
        """Return the objects of all processes."""
        everyone: list[Any] = [None] * self.size
        device = device_of(self.method)
        # Objects pass through the current GPU, which need not be the method's.
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            dist.all_gather_object(everyone, own)
        return everyone

    def _average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the group, those of a type sent as one."""
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = laid_together(alike)
            dist.all_reduce(flat, group=self.group)
            flat /= self.group_size
            lay_back(flat, alike)

    def _exchange_blocks(self, optimizer: torch.optim.Optimizer) -> None:
        method = self.method
        state = {name: value for b in method.trained_blocks for name, value in method.block_state(b).items()}
        parameters = dict(method.named_parameters())
        mine = {id(parameters[name]) for name in state if name in parameters}
        weights = {name: _on_cpu(value) for name, value in state.items()}
        numbered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        moments = {
            number: {name: _on_cpu(value) for name, value in optimizer.state[parameter].items()}
            for number, parameter in enumerate(numbered)
            if id(parameter) in mine and parameter in optimizer.state
        }
        # The first process of each group sends the group's blocks.
        for sent in self._gather((weights, moments) if self.rank % self.group_size == 0 else None):
            if sent is not None:
                weights, moments = sent
                method.load_state_dict(weights, strict=False)
                for number, state in moments.items():
                    device = numbered[number].device
                    optimizer.state[numbered[number]] = {
                        name: value.to(device) if isinstance(value, Tensor) and value.ndim else value
                        for name, value in state.items()
                    }


def _send(tensor: Tensor, group: Any) -> None:
    """Give the processes of a group the tensor of its first one."""
    plain = tensor.contiguous()  # not every backend sends channels last
    dist.broadcast(plain, group=group, group_src=0)
    tensor.copy_(plain)


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


class _Share:
    """Loader of every `size`-th image of each batch, for loaders without a `share` of their own."""

    def __init__(self, loader: Iterable[Any], own: int, size: int) -> None:
        self.loader, self.own, self.size = copy.copy(loader), own, size
        if hasattr(loader, "set_epoch"):
            self.set_epoch = self.loader.set_epoch  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for images, labels in self.loader:
            check_divides(len(labels), self.size)
            views = images if isinstance(images, (list, tuple)) else [images]
            shares = [view[self.own :: self.size] for view in views]
            yield (shares if isinstance(images, (list, tuple)) else shares[0]), labels[self.own :: self.size]


def check_divides(batch: int, size: int) -> None:
    """Raise InputError unless `size` processes can share a batch equally."""
    if batch % size:
        raise InputError(f"[fit] expected batches that {size} processes share equally, got one of {batch} images; "
                         "use another batch size")  # fmt: skip

"""Attention heads of a residual unit: which can be cut, and the cut.

An attention is recognised by the names of its layers. Whether its code runs with fewer heads, and computes the same
with them, is tried on a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from pynas.compress.attention import FewerHeads
from pynas.compress.head_cuts import COUNTS, SIZES, Sizes, cut_layers, cut_packed, unfused_eva
from pynas.compress.head_trial import misfit
from pynas.copies import copy_module
from pynas.errors import InputError

# Names of the layers that compute the queries, keys and values: one layer for all, or three.
_INPUTS = (
    ("qkv",),
    ("qkv_proj",),
    ("query_key_value",),
    ("Wqkv",),
    ("c_attn",),
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"),
)
_READERS = ("proj", "o_proj", "out_proj", "out_lin", "dense", "c_proj", "to_out", "wo", "Wo")


class _CannotCut(Exception):
    """An attention whose heads cannot be cut; the message says why."""


@dataclass(frozen=True)
class Heads:
    """Attention of a unit whose heads can be cut.

    module: name of the attention module in the unit. reader: name in the unit of the linear layer that reads the heads'
    outputs. count: number of heads (query heads). groups: groups of heads that are cut together: one per key-value head
    under grouped-query attention, else one per head. size: features of a head.
    layers: names in the unit of every module with weights that belongs to the attention.
    """

    module: str
    reader: str
    count: int
    groups: int
    size: int
    layers: tuple[str, ...]

    def columns(self) -> Tensor:
        """Return the inputs of the reader that belong to each group, `[groups, n]`."""
        return torch.arange(self.count * self.size).view(self.groups, -1)


def find_heads(unit: nn.Module) -> tuple[list[Heads], list[str]]:
    """Return the attentions that can be cut, and one reason for each that was recognised but cannot be cut.

    A copy of each attention is cut and run on random inputs.
    """
    found, reasons = [], []
    for name, module in unit.named_modules():
        if not (_packed(module) or _input_names(module)):
            continue
        try:
            found.append(_read_packed(unit, name) if _packed(module) else _read(unit, name))
        except _CannotCut as reason:
            reasons.append(f"{name or type(module).__name__}: {reason}")
    return found, reasons


def keep_heads(unit: nn.Module, heads: Heads, kept: Sequence[int]) -> None:
    """Keep only these groups of heads, in place, in increasing order. unit: copy of the unit `heads` was found in.

    Raises:
        InputError: no group, a group twice, or one that there is not.
    """
    if not kept or len(set(kept)) != len(kept) or not set(kept) <= set(range(heads.groups)):
        raise InputError(
            f"[compress] expected one or more different groups of heads from 0 to {heads.groups - 1} to keep of "
            f"{heads.module!r}, got {list(kept)}"
        )
    if len(kept) < heads.groups:
        _cut(unit, heads, kept)


def with_layers(unit: nn.Module, heads: Sequence[Heads]) -> nn.Module:
    """Return a unit whose attention calls its reader as a module: a copy of one with `nn.MultiheadAttention`, which does not."""
    packed = [each for each in heads if isinstance(unit.get_submodule(each.module), nn.MultiheadAttention)]
    if not packed:
        return unit
    unit = copy_module(unit, where="compress")
    for each in packed:
        _cut(unit, each, range(each.groups))
    return unit


def _cut(unit: nn.Module, heads: Heads, kept: Sequence[int]) -> nn.Module:
    """Cut a unit in place, and return it, or what replaces it where it is the attention itself."""
    sizes = Sizes(heads.count, heads.groups, heads.size, tuple(sorted(kept)))
    before = module = unit.get_submodule(heads.module)
    if isinstance(module, nn.MultiheadAttention | FewerHeads):
        module = cut_packed(module, sizes)
    else:
        reader = unit.get_submodule(heads.reader)
        assert isinstance(reader, nn.Linear)
        if _is_eva(module):
            module = unfused_eva(module)
        cut_layers(module, _input_names(module), reader, sizes)
    if not heads.module:
        return module
    if module is not before:
        parent, _, name = heads.module.rpartition(".")
        setattr(unit.get_submodule(parent), name, module)
    return unit


def _is_eva(module: nn.Module) -> bool:
    return type(module).__name__ == "EvaAttention"


def _packed(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention | FewerHeads)


def _input_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers of the queries, keys and values, or none if the module is no attention."""
    for names in _INPUTS:
        if all(isinstance(getattr(module, name, None), nn.Module) for name in names):
            return names
    return ()


def _read_packed(unit: nn.Module, name: str) -> Heads:
    module = unit.get_submodule(name)
    assert isinstance(module, nn.MultiheadAttention | FewerHeads)
    if type(module) not in (nn.MultiheadAttention, FewerHeads):
        raise _CannotCut(f"a {type(module).__name__} is not supported")
    if not name:
        raise _CannotCut("the unit itself is a MultiheadAttention, which a cut replaces")
    if isinstance(module, nn.MultiheadAttention):
        if not module._qkv_same_embed_dim:
            raise _CannotCut("keys or values have another width than the queries")
        if module.bias_k is not None or module.add_zero_attn:
            raise _CannotCut("add_bias_kv and add_zero_attn are not supported")
    if module.num_heads == 1:
        raise _CannotCut("has one head only")
    if type(module._parameters.get("in_proj_weight")) is not nn.Parameter:
        raise _CannotCut("in_proj_weight is no plain parameter")
    reader = f"{name}.out_proj"
    _check_layer(unit, reader)
    heads = Heads(name, reader, module.num_heads, module.num_heads, module.head_dim, (name, reader))
    _check_shared(unit, heads)
    return heads


def _read(unit: nn.Module, name: str) -> Heads:
    module = unit.get_submodule(name)
    if not name and _is_eva(module):
        raise _CannotCut("the unit itself is an EvaAttention, which a cut replaces")
    reader = _reader_name(unit, name)
    inputs = [_check_layer(unit, _join(name, layer)) for layer in _input_names(module)]
    count, groups, size = _numbers(module, inputs, _check_layer(unit, reader))
    if groups == 1:
        raise _CannotCut("has one head only" if count == 1 else "all its heads share one key-value head")
    inside = {_join(name, part) for part, child in module.named_modules() if child._parameters}
    heads = Heads(name, reader, count, groups, size, tuple(sorted(inside | {reader})))
    _check_shared(unit, heads)
    # The reader may lie beside the attention; then their parent runs.
    root = name if reader.startswith(f"{name}." if name else "") else name.rpartition(".")[0]
    start = len(root) + 1 if root else 0
    within = replace(heads, module=name[start:], reader=reader[start:])
    cut = partial(_cut, heads=within, kept=range(1, groups))
    part = unit.get_submodule(root)
    reason = misfit(part, within.reader, heads.columns()[0], inputs[0].in_features, size, cut)
    if reason:
        raise _CannotCut(reason)
    return heads


def _join(name: str, child: str) -> str:
    return ".".join(part for part in (name, child) if part)


def _reader_name(unit: nn.Module, name: str) -> str:
    """Return the name of the layer after the heads, in the attention or, as in BERT, in `output` beside it."""
    module = unit.get_submodule(name)
    for child in _READERS:
        if isinstance(getattr(module, child, None), nn.Module):
            return _join(name, child)
    beside = _join(name.rpartition(".")[0], "output.dense")
    if name and beside in dict(unit.named_modules()):
        return beside
    raise _CannotCut("no layer that reads the heads' outputs was found")


def _check_layer(unit: nn.Module, name: str) -> nn.Linear:
    """Return a linear layer with a plain weight, whose entries can be cut."""
    layer = unit.get_submodule(name)
    weight = layer._parameters.get("weight")
    if not isinstance(layer, nn.Linear) or type(weight) is not nn.Parameter or not weight.is_floating_point():
        raise _CannotCut(f"{name} is no linear layer with a plain weight, but a {type(layer).__name__}")
    if weight.shape != (layer.out_features, layer.in_features) or len(list(layer.parameters())) > 2 or layer._buffers:
        raise _CannotCut(f"{name}, a {type(layer).__name__}, has other tensors than a linear layer")
    return layer


def _check_shared(unit: nn.Module, heads: Heads) -> None:
    uses = Counter(id(value) for _, value in unit.named_parameters(remove_duplicate=False))
    for name in heads.layers:
        for key, value in unit.get_submodule(name)._parameters.items():
            if value is not None and uses[id(value)] > 1:
                raise _CannotCut(f"its {_join(name, key)} is shared with another layer")


def _numbers(module: nn.Module, inputs: list[nn.Linear], reader: nn.Linear) -> tuple[int, int, int]:
    """Return the numbers of heads and of key-value heads, and the size of a head, which all must fit the layers."""
    size, count = _attribute(module, SIZES), _attribute(module, COUNTS)
    if size is None and count is not None and reader.in_features % count == 0:
        size = reader.in_features // count
    if not size:
        raise _CannotCut("its number of heads is not known")
    width = reader.in_features
    outputs = [layer.out_features for layer in inputs]
    if len(outputs) == 1:
        outputs = [width, (outputs[0] - width) // 2, outputs[0] - width - (outputs[0] - width) // 2]
    fits = width % size == 0 and (count is None or count * size == width)
    fits = fits and outputs[0] == width and outputs[1] == outputs[2] > 0 and outputs[1] % size == 0
    if not fits or width % outputs[1]:
        raise _CannotCut(f"its layers do not fit heads of {size} features")
    return width // size, outputs[1] // size, size


def _attribute(module: nn.Module, names: tuple[str, ...]) -> int | None:
    values = (getattr(module, name, None) for name in names)
    return next((value for value in values if type(value) is int), None)

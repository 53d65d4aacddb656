"""Cuts of an attention's tensors and attributes to the heads that stay."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pynas.compress.attention import FewerHeads

# Attributes that modules read: the number of query heads, of key-value heads, the size of a head, of all heads, of all
# key-value heads.
COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "num_q_heads", "heads")
GROUPS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
SIZES = ("head_dim", "attention_head_size", "head_size", "dim_head")
WIDTHS = ("all_head_size", "attn_dim", "inner_dim", "embed_dim", "hidden_size", "dim", "split_size")
GROUP_WIDTHS = ("kv_dim",)
# Parameters with one entry per head, and the dimension of the heads.
_PER_HEAD = {"relative_position_bias_table": -1, "logit_scale": 0, "temperature": 0, "sinks": 0}
# Parameters and buffers with one entry per feature of the queries, or of the keys or the values.
_PER_QUERY = ("q_bias",)
_PER_KEY = ("k_bias", "v_bias")


@dataclass(frozen=True)
class Sizes:
    """Numbers of heads of an attention before a cut, and which groups stay.

    count: number of query heads. groups: number of groups, one per key-value head. size: features of a head.
    kept: groups that stay, in increasing order.
    """

    count: int
    groups: int
    size: int
    kept: tuple[int, ...]

    def heads(self) -> Tensor:
        """Return the query heads that stay."""
        return self._entries(self.count)

    def queries(self) -> Tensor:
        """Return the features of the queries, and so of the heads' outputs, that stay."""
        return self._entries(self.count * self.size)

    def keys(self) -> Tensor:
        """Return the features of the keys, and of the values, that stay."""
        return self._entries(self.groups * self.size)

    def fused(self) -> Tensor:
        """Return the outputs that stay of a layer that computes queries, keys and values, in this order."""
        width, key_width = self.count * self.size, self.groups * self.size
        return torch.cat([self.queries(), width + self.keys(), width + key_width + self.keys()])

    def _entries(self, total: int) -> Tensor:
        return torch.arange(total).view(self.groups, -1)[list(self.kept)].flatten()


def cut_layers(module: nn.Module, inputs: tuple[str, ...], reader: nn.Linear, sizes: Sizes) -> None:
    """Cut an attention of linear layers in place. inputs: names of one fused layer, or of three."""
    entries = [sizes.fused()] if len(inputs) == 1 else [sizes.queries(), sizes.keys(), sizes.keys()]
    gate = getattr(module, "gate", None)
    if isinstance(gate, nn.Linear) and gate.out_features == sizes.count * sizes.size:
        _cut_outputs(gate, sizes.queries())
    for name, kept in zip(inputs, entries):
        _cut_outputs(module.get_submodule(name), kept)
    _set(reader, "weight", sizes.queries(), 1)
    reader.in_features = len(sizes.queries())
    for part in module.modules():
        _cut_own_tensors(part, sizes)
    _set_numbers(module, sizes)


def cut_packed(module: nn.MultiheadAttention | FewerHeads, sizes: Sizes) -> FewerHeads:
    """Return what stays of an `nn.MultiheadAttention` or a `FewerHeads`; its output layer is cut in place."""
    weight, bias, reader = module.in_proj_weight, module.in_proj_bias, module.out_proj
    dropout, batch_first = module.dropout, module.batch_first
    with torch.device("meta"):
        fewer = FewerHeads(weight.shape[1], len(sizes.kept), sizes.size, bias is not None, dropout, batch_first)
    fewer.train(module.training)
    fewer.in_proj_weight = _kept(weight, sizes.fused(), 0)
    fewer.in_proj_bias = None if bias is None else _kept(bias, sizes.fused(), 0)
    _set(reader, "weight", sizes.queries(), 1)
    reader.in_features = len(sizes.queries())
    fewer.out_proj = reader
    return fewer


def unfused_eva(module: Any) -> nn.Module:
    """Return timm's `AttentionRope` of the layers of its `EvaAttention`, whose code does not run with fewer heads.

    A fused layer becomes three, of which the keys' has no bias, as in `EvaAttention`.
    """
    from timm.layers import AttentionRope

    width = module.proj.in_features
    with torch.device("meta"):
        unfused = AttentionRope(
            module.proj.out_features, module.num_heads, attn_head_dim=module.head_dim, qkv_fused=False, qkv_bias=False
        )
    unfused.train(module.training)
    for name in ("num_prefix_tokens", "fused_attn", "rotate_half"):
        setattr(unfused, name, getattr(module, name))
    for name in ("q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop"):
        setattr(unfused, name, getattr(module, name))
    for number, name in enumerate(("q_proj", "k_proj", "v_proj")):
        if module.qkv is None:
            setattr(unfused, name, getattr(module, name))
        else:
            layer = getattr(unfused, name)
            layer.weight = _kept(module.qkv.weight, torch.arange(width) + number * width, 0)
            layer.bias = None if name == "k_proj" else getattr(module, f"{name[0]}_bias")
    return unfused


def _cut_outputs(layer: Any, entries: Tensor) -> None:
    _set(layer, "weight", entries, 0)
    _set(layer, "bias", entries, 0)
    layer.out_features = len(entries)


def _cut_own_tensors(module: nn.Module, sizes: Sizes) -> None:
    for name, dim in _PER_HEAD.items():
        value = getattr(module, name, None)
        if isinstance(value, nn.Parameter) and value.dim() and value.shape[dim] == sizes.count:
            _set(module, name, sizes.heads(), dim)
    for names, entries in ((_PER_QUERY, sizes.queries()), (_PER_KEY, sizes.keys())):
        for name in names:
            if isinstance(getattr(module, name, None), Tensor):
                _set(module, name, entries, 0)


def _set(module: nn.Module, name: str, entries: Tensor, dim: int) -> None:
    """Keep these entries of a parameter or a buffer, if there is any."""
    value = getattr(module, name)
    if value is not None:
        setattr(module, name, _kept(value, entries, dim))


def _kept(value: Tensor, entries: Tensor, dim: int) -> Any:
    kept = value.detach().index_select(dim, entries.to(value.device))
    return nn.Parameter(kept, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else kept


def _set_numbers(module: Any, sizes: Sizes) -> None:
    """Write the new numbers over the old ones, also in an own copy of the configuration if the code reads those."""
    old = (sizes.count, sizes.groups, sizes.count * sizes.size, sizes.groups * sizes.size)
    new = (len(sizes.heads()), len(sizes.kept), len(sizes.queries()), len(sizes.keys()))
    names = (COUNTS, GROUPS, WIDTHS, GROUP_WIDTHS)
    for part in module.modules():
        own = vars(part)
        for kind, before, after in zip(names, old, new):
            own.update({name: after for name in kind if type(own.get(name)) is int and own[name] == before})
    config = vars(module).get("config")
    counts = {name: (before, after) for kind, before, after in zip(names, old, new) for name in kind}
    counts = {name: pair for name, pair in counts.items() if name in COUNTS + GROUPS and hasattr(config, name)}
    if any(name in counts and name not in vars(module) for name in _names_read(type(module))):
        own_config = copy.copy(config)
        module.config = own_config
        for name, (before, after) in counts.items():
            if getattr(config, name) == before:
                setattr(own_config, name, after)


def _names_read(kind: type) -> Iterator[str]:
    """Return the names that the methods of a class read, but those of its constructor."""
    for base in kind.__mro__:
        if base not in nn.Module.__mro__:
            for name, method in vars(base).items():
                code = getattr(inspect.unwrap(method), "__code__", None) if callable(method) else None
                if code is not None and name != "__init__":
                    yield from code.co_names

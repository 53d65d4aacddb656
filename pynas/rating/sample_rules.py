"""Place of the samples in the outputs of an operator, from their place in its inputs.

A rule returns the place, or None where the operator lets samples meet, or where it is not known that they do not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pynas.rating.places import Call, Rows, aligned, equal_rows, place_of

# The place of the outputs of a call that has inputs with places.
Rule = Callable[[Call], Rows | None]


def _pointwise(call: Call) -> Rows | None:
    return aligned(call.tensors(), call.out.ndim)


def _copy(call: Call) -> Rows | None:
    """Writing over a tensor: its old values do not count, except those of other samples' places in it."""
    target, source = call.first, call.tensors()[1:]
    return aligned([target, *source] if place_of(target) else source, target.ndim)


def _dims(call: Call) -> list[int] | None:
    """Axes that a call works along; None for all."""
    dims = call.args.get("dim", call.args.get("dims", call.args.get("axis")))
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return None
    ndim = call.first.ndim
    return [dim % ndim for dim in (dims if isinstance(dims, (list, tuple)) else [dims])]


def _along(call: Call) -> Rows | None:
    """Reductions, softmax, sorting and all that works along given axes."""
    place, dims = place_of(call.first), _dims(call)
    if place is None or dims is None or place.axis in dims:
        return None
    lost = sum(dim < place.axis for dim in dims) if call.out.ndim < call.first.ndim else 0
    return replace(place, axis=place.axis - lost)


def _elements(call: Call) -> Rows | None:
    """gather and scatter: tensors of equal numbers of dimensions, along one axis."""
    place, dims = aligned(call.tensors(), call.out.ndim), _dims(call)
    return None if place is None or dims is None or place.axis in dims else place


def _view(call: Call) -> Rows | None:
    place, before, after = place_of(call.first), call.first.shape, call.out.shape
    outside = math.prod(before[: place.axis])  # type: ignore
    for axis, size in enumerate(after):
        if size > 1 and math.prod(after[:axis]) == outside:
            return replace(place, axis=axis, fold=size // place.count) if size % place.count == 0 else None  # type: ignore
    return None


def _permute(call: Call) -> Rows | None:
    place, ndim = place_of(call.first), call.first.ndim
    order = list(range(ndim))
    if call.name == "aten::permute":
        order = [dim % ndim for dim in call.args["dims"]]
    elif ndim > 1:
        one, two = (call.args[name] % ndim for name in ("dim0", "dim1")) if "dim0" in call.args else (0, 1)
        order[one], order[two] = two, one
    return replace(place, axis=order.index(place.axis))  # type: ignore


def _expand(call: Call) -> Rows | None:
    place = place_of(call.first)
    return replace(place, axis=place.axis + call.out.ndim - call.first.ndim)  # type: ignore


def _repeat(call: Call) -> Rows | None:
    place = _expand(call)
    return place if call.args["repeats"][place.axis] == 1 else None  # type: ignore


def _squeeze(call: Call) -> Rows | None:
    place, x = place_of(call.first), call.first
    dims = range(x.ndim) if _dims(call) is None else _dims(call)
    lost = [dim for dim in dims if x.shape[dim] == 1]  # type: ignore[union-attr]
    return None if place.axis in lost else replace(place, axis=place.axis - sum(dim < place.axis for dim in lost))  # type: ignore


def _new_axis(call: Call) -> Rows | None:
    """unsqueeze and stack."""
    tensors = call.tensors()
    place = aligned(tensors, tensors[0].ndim)
    return place and replace(place, axis=place.axis + (call.args["dim"] % call.out.ndim <= place.axis))  # type: ignore


def _slice(call: Call) -> Rows | None:
    place, (dim,) = place_of(call.first), _dims(call)  # type: ignore
    whole = call.args.get("step", 1) == 1 and call.out.shape[dim] == call.first.shape[dim]
    return place if dim != place.axis or whole else None  # type: ignore[union-attr]


def _cat(call: Call) -> Rows | None:
    tensors = [x for x in call.tensors() if x.shape != (0,)]
    place = aligned(tensors, call.out.ndim)
    return None if place is None or place.axis == call.args["dim"] % call.out.ndim else place


def _index_select(call: Call) -> Rows | None:
    return None if place_of(call.args["index"]) else _slice(call)


def _index(call: Call) -> Rows | None:
    """x[..., i, j]: fixed indices after the samples' axis, or a table looked up by one index per entry."""
    x, indices = call.first, call.args["indices"]
    given = [dim for dim, index in enumerate(indices) if index is not None]
    if not any(place_of(indices[dim]) for dim in given):
        place, adjacent = place_of(x), given == list(range(given[0], given[-1] + 1))
        return place if adjacent and place.axis < given[0] else None  # type: ignore
    return place_of(indices[0]) if given == [0] and place_of(x) is None else None


def _embedding(call: Call) -> Rows | None:
    return None if place_of(call.args["weight"]) else place_of(call.args["indices"])


def _product(a: Tensor, b: Tensor) -> Rows | None:
    """Matrix product, with an equal number of batch axes."""
    place_a, place_b, last = place_of(a), place_of(b), max(a.ndim, b.ndim) - 1
    if place_a and place_b:
        return place_a if place_a == place_b and place_a.axis < last - 1 else None  # type: ignore[operator]
    place, other = (place_a, b) if place_a else (place_b, a)
    if place.axis == (last if place_a else last - 1):  # type: ignore[union-attr]
        return None
    if place.axis < last - 1 and not equal_rows(other, place.axis, place.count):  # type: ignore
        return None
    return place


def _matmul(call: Call) -> Rows | None:
    *added, a, b = call.tensors()
    place = _product(a, b) if place_of(a) or place_of(b) else None
    if place is None or not added:
        return place
    axis = place.axis - call.out.ndim + added[0].ndim  # type: ignore[operator]
    if place_of(added[0]):
        return place if place_of(added[0]) == replace(place, axis=axis) else None
    return place if axis < 0 or added[0].shape[axis] == 1 or equal_rows(added[0], axis, place.count) else None


def _vector(call: Call) -> Rows | None:
    matrix, vector = call.tensors()
    place = place_of(matrix)
    return place if place and place.axis == 0 and not place_of(vector) else None


def _convolution(call: Call) -> Rows | None:
    x, *weights = call.tensors()
    place = place_of(x)
    ok = place and place.axis == 0 and x.ndim == weights[0].ndim and not any(map(place_of, weights))
    return place if ok else None


def _spatial(call: Call) -> Rows | None:
    """Pools, resizing and padding, which work on the last axes."""
    place, x = place_of(call.first), call.first
    numbers = re.findall(r"(\d)d", call.name)
    last = int(numbers[0]) if numbers else len(call.args.get("pad", (0,) * 6)) // 2
    alone = not any(map(place_of, call.tensors()[1:])) and place is not None
    return place if alone and place.axis < x.ndim - last else None  # type: ignore


def _last_axes(call: Call) -> Rows | None:
    """Layer norm over the normalised shape; its mean and deviation keep the axes before."""
    place, others = place_of(call.first), call.tensors()[1:]
    before = call.first.ndim - len(call.args["normalized_shape"])
    return place if place and place.axis < before and not any(map(place_of, others)) else None  # type: ignore


def _batched(call: Call) -> Rows | None:
    """Operators whose first axis is always the batch."""
    place, ndim = place_of(call.first), _NDIM.get(call.name, call.first.ndim)
    ok = place and place.axis == 0 and call.first.ndim == ndim and not any(map(place_of, call.tensors()[1:]))
    return place if ok else None


def _batch_norm(call: Call) -> Rows | None:
    """Of stored statistics; with those of the batch where the samples are channels, as instance norm lays them."""
    x, *others = call.tensors()
    place = place_of(x)
    if (
        place is None
        or any(map(place_of, others))
        or place.axis > 1
        or (normalises_the_batch(call) and place.axis == 0)
    ):  # type: ignore
        return None
    return place if place.axis == 0 or all(equal_rows(other, 0, place.count) for other in others) else None


def normalises_the_batch(call: Call) -> bool:
    """Whether a batch norm takes the statistics of its input, not the stored ones."""
    return bool(call.args.get("training", "with_update" in call.name and "no_update" not in call.name))


def _attention(call: Call) -> Rows | None:
    query, key, value = (call.args[name] for name in ("query", "key", "value"))
    mask = call.args.get("attn_mask", call.args.get("attn_bias"))
    place = place_of(query)
    if place is None or place.axis >= query.ndim - 2:  # type: ignore[operator]
        return None
    return aligned([query, key, value, *([] if mask is None else [mask])], query.ndim)


def _fused_attention(call: Call) -> Rows | None:
    """torch's fused transformer layers, whose first axis is the batch, also that of a mask."""
    names = [name for name in ("src", "query", "key", "value") if name in call.args]
    x, mask = call.args[names[0]], call.args.get("mask")
    place, same = place_of(x), all(call.args[name] is x for name in names)
    weights = [other for other in call.tensors() if other is not x and other is not mask]
    if not same or place is None or place.axis != 0 or any(map(place_of, weights)):
        return None
    if mask is not None and place_of(mask) is None:
        return place if equal_rows(mask, 0, place.count) else None
    return place if mask is None or place_of(mask) == place else None


def _path_norm(call: Call) -> Rows | None:
    """The engine's own batch norm: its paths are the stacked ones, so that samples meet only within a path."""
    x, residual = call.args["x"], call.args["residual"]
    place = aligned([x] if residual is None else [x, residual], x.ndim)
    return place if place_of(x) and place and place.axis == 0 else None


# Rules that hold for in-place forms too, which keep the shape.
_IN_PLACE = (_pointwise, _along, _elements)
# Dimensions of a batch, for operators that take a sample without the batch axis too.
_NDIM = {"aten::im2col": 4, "aten::col2im": 3}


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    return {name if "::" in name else f"aten::{name}": rule for name in names.split()}


BATCH_NORMS = _named(_batch_norm, "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
                     "cudnn_batch_norm miopen_batch_norm _batch_norm_with_update _batch_norm_no_update "
                     "_batch_norm_impl_index batch_norm")  # fmt: skip
RULES: dict[str, Rule] = {
    **_named(_pointwise, "_to_copy clone detach alias contiguous lift_fresh masked_fill native_dropout _prelu_kernel "
             "fake_quantize_per_tensor_affine_cachemask _conj to dropout hardswish gelu mish relu6 threshold"),
    **_named(_copy, "copy_ fill_ zero_ masked_fill_"),
    **_named(_along, "sum mean amax amin max min var std var_mean std_mean prod any all argmax argmin logsumexp norm "
             "linalg_vector_norm median nanmean nansum _softmax _log_softmax softmax log_softmax cumsum cumprod cummax cummin "
             "sort topk kthvalue flip roll glu _fft_r2c _fft_c2r _fft_c2c unbind split split_with_sizes unsafe_split "
             "unsafe_split_with_sizes chunk select count_nonzero"),
    **_named(_elements, "gather scatter scatter_add scatter_reduce"),
    **_named(_view, "view _unsafe_view _reshape_alias"),
    **_named(_permute, "permute transpose t"),
    **_named(_expand, "expand"), **_named(_repeat, "repeat"), **_named(_squeeze, "squeeze"),
    **_named(_new_axis, "unsqueeze stack"), **_named(_slice, "slice unfold"), **_named(_cat, "cat"),
    **_named(_index_select, "index_select"), **_named(_index, "index"), **_named(_embedding, "embedding"),
    **_named(_matmul, "mm bmm addmm baddbmm"), **_named(_vector, "mv"),
    **_named(_convolution, "convolution _convolution mkldnn_convolution"),
    **_named(_spatial, "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d "
             "avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d "
             "_adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d upsample_nearest1d upsample_nearest2d "
             "upsample_nearest3d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d upsample_linear1d "
             "upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d "
             "replication_pad1d replication_pad2d constant_pad_nd pixel_shuffle pixel_unshuffle"),
    **_named(_last_axes, "native_layer_norm _fused_rms_norm"),
    **_named(_batched, "native_group_norm channel_shuffle native_channel_shuffle im2col col2im"),
    **BATCH_NORMS,
    **_named(_attention, "scaled_dot_product_attention _scaled_dot_product_flash_attention "
             "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention "
             "_scaled_dot_product_cudnn_attention"),
    **_named(_fused_attention, "_transformer_encoder_layer_fwd _native_multi_head_attention"),
    **_named(_path_norm, "pynas::path_batch_norm pynas::path_batch_norm_"),
}  # fmt: skip


def rule_of(func: Any) -> Rule | None:
    """Rule of an operator; in-place ones have that of their plain form."""
    if torch.Tag.pointwise in func.tags:
        return _pointwise
    name = func._schema.name
    plain = RULES.get(name.removesuffix("_"))
    return RULES.get(name) or (plain if plain in _IN_PLACE else None)


def place_after(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> Rows | None:
    """Place of the samples in the outputs of an operator; None where it has no rule, or they may have met."""
    rule, call = rule_of(func), Call(func, args, kwargs, output)
    if rule is None or any(place.axis < 0 for x in call.tensors() if (place := place_of(x))):
        return None
    return rule(call)

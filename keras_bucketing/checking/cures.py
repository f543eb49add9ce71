"""What to write instead of a layer or an operation through which padding enters."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_bucketing.checking.trace import Call, Leak
from keras_bucketing.layers.keep_mask import KeepMask

_MERGES = ("Add", "Subtract", "Multiply", "Maximum", "Minimum", "Average", "Concatenate")
_SIGNS = {"Add": "`+`", "Subtract": "`-`", "Multiply": "`*`"}
_REDUCTIONS = ("Mean", "Sum", "Max", "Min", "Amax", "Amin", "Prod", "Std", "Var", "Argmax", "Argmin", "Any", "All")
_SUMMARIES = ("GlobalMaxPooling1D", "GlobalAveragePooling1D", "Flatten", "Reshape", "Permute", "RepeatVector")
_TAKES_ALL_TIMESTEPS = (*_REDUCTIONS, *_SUMMARIES)
_GATHERS_TIME = (
    "GlobalAveragePooling1D takes the mean of the real timesteps. For another summary write a layer whose `call` has "
    "an argument `mask` and leaves masked timesteps out, for a maximum "
    "ops.max(ops.where(mask[..., None], x, -1e9), axis=1)."
)
_RESIDUAL = (
    "keras.layers.Add()([x, attention(n, n)]) with n = keras.layers.LayerNormalization()(x). MultiHeadAttention takes "
    "the mask off the tensors that it is called with, so these must not be x itself, and Add hands none on if one of "
    "its inputs has none."
)
_MOVES_TIMESTEPS = ("Flip", "Roll", "Sort", "Cumsum", "Cumprod")
_NORMALIZES = (
    "keras.layers.LayerNormalization() over the features alone, which takes its statistics from each timestep for "
    "itself."
)


def describe(operation: Any) -> str:
    """A layer or operation in a sentence: `'lstm' (LSTM)`."""
    kind = type(operation).__name__
    if isinstance(operation, keras.layers.Layer):
        return f"'{operation.name}' ({kind})"
    return f"'{operation.name}' ({_SIGNS.get(kind, 'keras.ops.' + _snake(kind))} on tensors)"


def explain(leak: Leak, keys: list[str]) -> tuple[str | None, str, str]:
    """Explains a leak.

    Args:
        leak: The leak.
        keys: The keys of a dict x of the dataset.

    Returns:
        The name of the layer to report, the sentence that says where, and the one that says what to write instead.
    """
    reader, loser = leak.reader, leak.loser
    reads = f"{describe(reader.operation)} then reads padding." if reader else "What comes then reads padding."
    if leak.kind == "ignored" and reader is not None:
        return (
            str(reader.operation.name),
            f"{describe(reader.operation)} has the mask but reads padding anyway.",
            cure_of_reader(reader),
        )
    if leak.kind == "none" and reader is not None:
        cures = [_start_with_a_mask(leak.calls, keys)]
        if _ignores_masks(reader):
            cures.append(cure_of_reader(reader))
        return (
            str(reader.operation.name),
            f"No mask tells what is padding: {describe(reader.operation)} is the first to read it.",
            " Then ".join(cures),
        )
    if loser is None:
        return None, "Not found: no layer was called before it.", _in_own_code()
    name = str(loser.operation.name)
    if leak.kind == "between":
        cure = _RESIDUAL if "Attention" in type(loser.operation).__name__ else _in_own_code()
        return name, f"Behind {describe(loser.operation)}, in code outside layers. {reads}", cure
    if leak.kind == "wrong":
        return name, f"The mask of {describe(loser.operation)} takes padding for data. {reads}", _right_mask(leak)
    cures = [cure_of_loss(loser, _calls_attention(leak.calls))]
    if reader is not None and reader is not loser and _ignores_masks(reader):
        cures.append(cure_of_reader(reader))
    return name, f"The mask is lost in {describe(loser.operation)}. {reads}", " Then ".join(cures)


def cure_of_loss(call: Call, has_attention: bool = False) -> str:
    """What to write so that the mask is kept, in place of a call that loses it."""
    operation, kind = call.operation, type(call.operation).__name__
    if not isinstance(operation, keras.layers.Layer):
        if kind in _MERGES and len(call.inputs) > 1:
            return _RESIDUAL if has_attention else f"keras.layers.{kind}()([a, b]), which hands masks on."
        if not _keeps_time(call):
            return (
                "a layer of your own whose `compute_mask` does to the mask what the operation does to the time axis, "
                "with supports_masking = True."
            )
        return f"KeepMask(keras.layers.Lambda({_as_lambda(operation)})), which hands the mask on."
    if kind == "TimeDistributed":
        return _plain(operation)
    if not _keeps_time(call):
        return cure_of_reader(call)
    if kind in _MERGES:
        return (
            _RESIDUAL if has_attention else f"a mask on each of the inputs of {kind}: it hands none on if one has none."
        )
    if _is_keras(operation):
        return f"KeepMask(keras.layers.{kind}(...)), which hands the mask on."
    return (
        f"KeepMask({kind}(...)), which hands the mask on; or `self.supports_masking = True` in the layer's __init__ "
        "where it treats each timestep alone."
    )


def cure_of_reader(call: Call) -> str:
    """What to write so that padding is left out, in place of a call that reads it."""
    if isinstance(call.operation, KeepMask):  # which does not make a layer use the mask
        call = replace(call, operation=call.operation.layer)
    operation, kind = call.operation, type(call.operation).__name__
    if kind == "TimeDistributed":
        return _plain(operation)
    if hasattr(operation, "return_sequences"):
        return _masked_recurrent(call)
    if "Conv" in kind and hasattr(operation, "padding"):
        return _masked_convolution(operation)
    if kind in _MOVES_TIMESTEPS:
        return (
            f"a layer that moves real timesteps alone: ops.{_snake(kind)} mixes padding in among them. For the other "
            "direction, KeepMask(keras.layers.GRU(..., go_backwards=True)) or keras.layers.Bidirectional."
        )
    if kind in _TAKES_ALL_TIMESTEPS:
        return _GATHERS_TIME
    if "Pooling" in kind:
        return (
            f"no {kind}: where a window reaches beyond the end of a row it reads padding. KeepMask with a convolution "
            'of strides=1 and padding="same" looks at as many timesteps.'
        )
    if kind.endswith("Normalization"):
        return _NORMALIZES
    if "softmax" in kind.lower():
        return "keras.layers.Softmax(axis=1)(scores, mask=mask), which gives no weight to padding."
    return (
        f"in {kind}, an argument `mask` of `call`, and masked timesteps left out of whatever mixes timesteps. If "
        "it only "
        f'reads its neighbors, as a convolution with padding="same" does, KeepMask({kind}(...)) sets padding to zero '
        "before it. For a mean over time there is GlobalAveragePooling1D."
    )


def _masked_recurrent(call: Call) -> str:
    operation, kind = call.operation, type(call.operation).__name__
    if len(call.inputs) > 1:
        return (
            f"KeepMask(keras.layers.{kind}(...))(x, initial_state=...): beside an initial state Keras does not "
            "hand the "
            "mask of its input to a recurrent layer. Or `mask=` by hand."
        )
    if getattr(operation, "go_backwards", False):
        return (
            f"KeepMask(keras.layers.{kind}(..., go_backwards=True)), which turns its outputs around (they come "
            "with the "
            "padding first); or keras.layers.Bidirectional."
        )
    return f"KeepMask(keras.layers.{kind}(...)), which gives it the mask and hands it on."


def _masked_convolution(operation: Any) -> str:
    kind, strides = type(operation).__name__, set(np.ravel(getattr(operation, "strides", 1)).tolist())
    if operation.padding in ("same", "causal") and strides == {1} and "Transpose" not in kind:
        return f"KeepMask(keras.layers.{kind}(...)), which sets padded timesteps to zero before it."
    return (
        f'KeepMask(keras.layers.{kind}(..., strides=1, padding="same")): with strides or padding="{operation.padding}" '
        "the last outputs of a row mix real timesteps with padding, and their number is not that of the mask."
    )


def _start_with_a_mask(calls: list[Call], keys: list[str]) -> str:
    masks = [key for key in keys if "mask" in key]
    if masks:
        return f'the mask of the batch: layer(x, mask=inputs["{masks[0]}"]), or attention_mask= for attention.'
    lengths = [key for key in keys if key.endswith("lengths")]
    if lengths:
        return (
            f'SequenceMasking()(x, lengths=inputs["{lengths[0]}"]) before it, so that the layers behind it know what '
            "is padding."
        )
    if any(type(call.operation).__name__ == "Embedding" for call in calls):
        return (
            "keras.layers.Embedding(..., mask_zero=True), if 0 is no token but padding; or SequenceMasking behind it."
        )
    return "SequenceMasking() as the first layer, so that the layers behind it know what is padding."


def _right_mask(leak: Leak) -> str:
    loser = leak.loser
    assert loser is not None
    given = {id(tensor) for tensor in loser.inputs}
    changed = [
        call.operation
        for call in leak.calls
        if call is not loser and not _is_input(call.operation) and any(id(tensor) in given for tensor in call.outputs)
    ]
    kind = type(loser.operation).__name__
    if changed:
        return (
            f"{kind} first, before {describe(changed[0])}, which makes something else of the padded value; or "
            "SequenceMasking with lengths (include_lengths=True), wherever it stands."
        )
    value = getattr(loser.operation, "mask_value", None)
    held = f" (it looks for {value})" if value is not None else ""
    return f"the value that the padding holds as its `mask_value`{held}; or SequenceMasking with lengths."


def _is_input(operation: Any) -> bool:
    return type(operation).__name__ == "InputLayer" or isinstance(operation, keras.Model)


def _in_own_code() -> str:
    return (
        "keras.layers.Add()([a, b]) for `a + b`, keras.layers.Concatenate for ops.concatenate, KeepMask(keras.layers."
        "Lambda(...)) for other operations on single timesteps, all made in __init__; or the mask handed on by hand, "
        "layer(x, mask=mask). A mean over time is GlobalAveragePooling1D()(x, mask=mask)."
    )


def _calls_attention(calls: list[Call]) -> bool:
    return any("Attention" in type(call.operation).__name__ for call in calls)


def _plain(operation: Any) -> str:
    inner = getattr(operation, "layer", None)
    name = type(inner).__name__ if inner is not None else "Dense"
    return (
        f"keras.layers.{name} without TimeDistributed, if it treats each timestep alone, as Dense does. In a graph "
        "TimeDistributed keeps the number of timesteps of its first batch. KeepMask does not cure that."
    )


def _ignores_masks(call: Call) -> bool:
    """Whether a call reads padding even with a mask in its input."""
    kind = type(call.operation).__name__
    named = ("GlobalMaxPooling1D", "Flatten", "GroupNormalization", "UnitNormalization", "Lambda", *_REDUCTIONS)
    return kind in named or ("Conv" in kind) or ("Pooling" in kind and kind != "GlobalAveragePooling1D")


def _keeps_time(call: Call) -> bool:
    """Whether the first output has the same number of timesteps as the mask of the input."""
    mask = next((mask for mask in call.input_masks if mask is not None), None)
    value = call.output_values[0] if call.output_values else None
    return mask is None or value is None or (value.ndim >= 2 and value.shape[1] == mask.shape[1])


def _is_keras(operation: Any) -> bool:
    return type(operation).__module__.split(".")[0] == "keras"


def _as_lambda(operation: Any) -> str:
    kind = type(operation).__name__
    sign = {
        "Add": "x + ...",
        "Subtract": "x - ...",
        "Multiply": "x * ...",
        "Divide": "x / ...",
        "TrueDivide": "x / ...",
    }
    if kind == "GetItem":
        return "lambda x: x[..., ...]"
    return f"lambda x: {sign[kind]}" if kind in sign else f"lambda x: keras.ops.{_snake(kind)}(x, ...)"


def _snake(kind: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()

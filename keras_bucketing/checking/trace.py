"""Where padding enters: the first layer whose output depends on it, and the one before it that lost the mask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_bucketing.checking.runs import Runner, real_sizes, row_difference, to_array
from keras_bucketing.checking.sample import Array, Batch
from keras_bucketing.layers.keep_mask import KeepMask

Tensor = Any  # A tensor of the active Keras backend.


class _MaskReader(keras.layers.Layer):
    """Reads the mask that a tensor carries, as every layer gets it."""

    def __init__(self) -> None:
        super().__init__(autocast=False)
        self.supports_masking = True
        self.mask: Any = None

    def call(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        self.mask = mask
        return inputs


@dataclass
class Call:
    """One call of a layer, or of an operation of a functional model.

    Attributes:
        operation: The layer or operation.
        inputs: The tensors that it got. All tensors are kept, so that none has the identity of another.
        input_masks: The mask of each as an array, or None.
        outputs: The tensors that it returned.
        output_masks: The mask of each as an array, or None.
        input_values: Values of the inputs, as far as they have any.
        output_values: Values of the outputs.
        enclosing: The layers that were being called around it, outermost first.
        timed: For each input, whether it has an axis of time. Known once two runs are compared.
    """

    operation: Any
    inputs: list[Tensor]
    input_masks: list[Array | None]
    enclosing: list[Any]
    outputs: list[Tensor] = field(default_factory=list)
    output_masks: list[Array | None] = field(default_factory=list)
    input_values: list[Array | None] = field(default_factory=list)
    output_values: list[Array | None] = field(default_factory=list)
    timed: list[bool] = field(default_factory=list)


@contextmanager
def recorded_calls() -> Iterator[list[Call]]:
    """Records the calls of layers and operations in this thread, in the order in which they end.

    `Layer.__call__` and `Operation.__call__` stand for all of them, whatever kind of model it is, and nothing is left
    behind in a layer. What Keras' own layers call inside of themselves counts as a part of them.
    """
    calls: list[Call] = []
    enclosing: list[Any] = []
    reader = _MaskReader()
    thread = threading.get_ident()
    is_hidden = False

    def mask_of(tensor: Tensor) -> Array | None:
        reader.mask = None
        reader(tensor)
        return None if reader.mask is None else to_array(reader.mask)

    def recording(original: Callable[..., Any], of_layers: bool) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal is_hidden
            is_layer = isinstance(self, keras.layers.Layer)
            if is_hidden or is_layer != of_layers or threading.get_ident() != thread:
                return original(self, *args, **kwargs)
            is_hidden = True
            explicit = kwargs.get("mask")
            tensors = _tensors([args, {key: value for key, value in kwargs.items() if key != "mask"}])
            masks = [mask_of(tensor) for tensor in tensors]
            if explicit is not None and masks and masks[0] is None:
                masks[0] = to_array(keras.tree.flatten(explicit)[0])
            record = Call(self, tensors, masks, list(enclosing))
            enclosing.append(self)
            is_hidden = _is_opaque(self)
            try:
                outputs = original(self, *args, **kwargs)
            finally:
                is_hidden = False
                enclosing.pop()
            is_hidden = True
            try:
                record.outputs = _tensors(outputs)
                record.output_masks = [mask_of(tensor) for tensor in record.outputs]
                record.input_values = [to_array(tensor) for tensor in tensors]
                record.output_values = [to_array(tensor) for tensor in record.outputs]
            finally:
                is_hidden = False
            calls.append(record)
            return outputs

        return call

    layer_call, operation_call = keras.layers.Layer.__call__, keras.Operation.__call__
    keras.layers.Layer.__call__ = recording(layer_call, of_layers=True)
    keras.Operation.__call__ = recording(operation_call, of_layers=False)
    try:
        yield calls
    finally:
        keras.layers.Layer.__call__, keras.Operation.__call__ = layer_call, operation_call


def _tensors(structure: Any) -> list[Tensor]:
    return [leaf for leaf in keras.tree.flatten(structure) if keras.ops.is_tensor(leaf)]


def _is_opaque(operation: Any) -> bool:
    """Whether what it calls is a part of it: it is one of Keras' own layers, or one that works like them."""
    if isinstance(operation, keras.Model):
        return False
    return isinstance(operation, KeepMask) or type(operation).__module__.split(".")[0] in ("keras", "keras_bucketing")


# The first fault.


class Leak(NamedTuple):
    """Where padding enters.

    Attributes:
        reader: The call whose output first depends on padding, or None.
        loser: The call after which the mask is gone, or None.
        kind: "lost": by `loser`, in its output; "between": behind `loser`, by what is no layer; "none": there never was
            a mask; "wrong": the mask of `loser` takes padding for data; "ignored": `reader` reads padding with the
            right mask in its input.
        calls: All calls, in order.
    """

    reader: Call | None
    loser: Call | None
    kind: str
    calls: list[Call]


def find_leak(
    runner: Runner, first: Batch, second: Batch, rows: list[tuple[int, int]], tolerance: float, pads_left: bool
) -> Leak | None:
    """Runs two batches of the same rows without a graph and compares all layers; None if nothing differs.

    Args:
        runner: The model.
        first: The batch to explain, in which every row is padded.
        second: The same rows with less padding, or one of them alone.
        rows: Pairs of positions to compare.
        tolerance: As for the outputs.
        pads_left: Whether padding is at the beginning.
    """
    with recorded_calls() as calls:
        runner.eagerly(first)
    with recorded_calls() as others:
        runner.eagerly(second)
    if [id(call.operation) for call in calls] != [id(call.operation) for call in others]:
        return None

    for call, other in zip(calls, others, strict=True):
        call.timed = [_has_time(*pair) for pair in zip(call.input_values, other.input_values, strict=False)]
    comparison = _Comparison(first, second, rows, tolerance, pads_left)
    origins: dict[int, int] = {}  # of tensors, by identity: the call that put it out first
    depends: dict[int, bool] = {}
    for index, (call, other) in enumerate(zip(calls, others, strict=True)):
        reads = comparison.reads_differ(call, other, depends)
        pairs = zip(call.output_values, other.output_values, strict=False)
        outputs = [comparison.differs(one, two) for one, two in pairs]
        for tensor, is_changed in zip(call.outputs, outputs, strict=True):
            origins.setdefault(id(tensor), index)
            depends.setdefault(id(tensor), is_changed)
        inside = [inner for inner in calls[:index] if call.operation in inner.enclosing]
        if reads and not inside:  # what it got differs already, though no layer before it put that out
            return Leak(None, calls[index - 1] if index else None, "between", calls)
        if any(outputs) and inside:  # and none of the layers inside of it did
            return Leak(None, inside[-1], "between", calls)
        if any(outputs):
            return _explain(calls, index, origins, first)
    return None


class _Comparison(NamedTuple):
    """Compares the values of two runs at one place, on real timesteps."""

    first: Batch
    second: Batch
    rows: list[tuple[int, int]]
    tolerance: float
    pads_left: bool

    def reads_differ(self, call: Call, other: Call, depends: dict[int, bool]) -> bool:
        """Whether the inputs of a call differ between the runs; for tensors that are outputs this is known already."""
        values = zip(call.inputs, call.input_values, other.input_values, strict=False)
        return any(
            depends[id(tensor)] if id(tensor) in depends else self.differs(one, two) for tensor, one, two in values
        )

    def differs(self, one: Array | None, two: Array | None) -> bool:
        if one is None or two is None or one.ndim == 0 or one.ndim != two.ndim:
            return False
        size = len(self.first.lengths[0])
        if len(one) != size or len(two) != size:
            return False
        padded, others = self.first.padded_lengths, self.second.padded_lengths
        for row, other in self.rows:
            lengths = [int(of_axis[row]) for of_axis in self.first.lengths]
            sizes = real_sizes(one.shape[1:], two.shape[1:], padded, others, lengths)
            if sizes and row_difference(one[row], two[other], sizes, self.pads_left)[1] > self.tolerance:
                return True
        return False


def _explain(calls: list[Call], index: int, origins: dict[int, int], batch: Batch) -> Leak:
    reader = calls[index]
    timed = [place for place, is_timed in enumerate(reader.timed) if is_timed]
    unmasked = [place for place in timed if reader.input_masks[place] is None]
    if unmasked:
        loser, kind = _trace(calls, reader.inputs[unmasked[0]], origins, index)
        return Leak(reader, loser, kind, calls)
    if timed:
        for call in calls[: index + 1]:
            if any(_is_wrong(mask, batch) for mask in call.output_masks):
                return Leak(reader, call, "wrong", calls)
    return Leak(reader, None, "ignored", calls)


def _has_time(one: Array | None, two: Array | None) -> bool:
    """Whether the second axis grows with the padding; masks have it as well, and do not count."""
    if one is None or two is None or one.dtype == bool or not 2 <= one.ndim == two.ndim:
        return False
    return bool(one.shape[1] != two.shape[1])


def _trace(calls: list[Call], tensor: Tensor, origins: dict[int, int], until: int) -> tuple[Call | None, str]:
    """Goes back from a tensor without a mask to the call that got one and returned none."""
    index = origins.get(id(tensor))
    if index is None:
        before = [call for call in calls[:until] if any(mask is not None for mask in call.output_masks)]
        is_input = any(tensor is given for call in calls for given in call.inputs if not call.enclosing)
        return (before[-1], "between") if before and not is_input else (None, "none")
    call = calls[index]
    if any(mask is not None for mask in call.input_masks):
        return call, "lost"
    for given, is_timed in zip(call.inputs, call.timed, strict=False):
        if is_timed:
            found, kind = _trace(calls, given, origins, index)
            if found is not None:
                return found, kind
    return None, "none"


def _is_wrong(mask: Array | None, batch: Batch) -> bool:
    """Whether a mask marks more timesteps as real than there are."""
    if mask is None or mask.ndim != 2:
        return False
    for padded, lengths in zip(batch.padded_lengths, batch.lengths, strict=True):
        if mask.shape == (len(lengths), padded):
            return bool((mask.astype(bool).sum(axis=1) > np.maximum(lengths, 1)).any())
    return False


def masked_rows(calls: list[Call]) -> list[int]:
    """The rows that a mask leaves without any timestep."""
    masks = [mask for call in calls for mask in call.output_masks if mask is not None and mask.ndim == 2]
    return sorted({int(row) for mask in masks for row in np.flatnonzero(~mask.astype(bool).any(axis=1))})


def find_random_layer(runner: Runner, batch: Batch, tolerance: float) -> str | None:
    """The name of the first layer with different outputs for the same input."""
    with recorded_calls() as calls:
        runner.eagerly(batch)
    with recorded_calls() as others:
        runner.eagerly(batch)
    for call, other in zip(calls, others, strict=False):
        for one, two in zip(call.output_values, other.output_values, strict=False):
            if one is not None and two is not None and one.shape == two.shape and one.dtype.kind == "f":
                apart = np.abs(one.astype(np.float64) - two) / (1 + np.abs(two))
                if np.nanmax(apart, initial=0.0) > tolerance:
                    return str(call.operation.name)
    return None

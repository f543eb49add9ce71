"""KeepMask: gives the mask to any layer that keeps the time axis, and passes it on."""

from __future__ import annotations

import inspect
from typing import Any

import keras
from keras import ops

from keras_bucketing.checks import show_typed
from keras_bucketing.layers.sequence_masking import zero_padding

Tensor = Any  # A tensor of the active Keras backend, or a symbolic keras.KerasTensor.
Shape = tuple[int | None, ...]

_TRIED_LENGTHS = (64, 65)  # timesteps; two, since a stride keeps some lengths as they are


@keras.saving.register_keras_serializable(package="keras_bucketing")
class KeepMask(keras.layers.Wrapper):
    """Gives the mask of its input to a layer, and passes it on to the layers behind it.

    Many layers lose masks: convolutions, `Lambda`, `EinsumDense`, `Reshape`, custom layers, and from Keras 3.16 on
    `LSTM`, `GRU`, `Bidirectional` and `TimeDistributed`. The layers behind them then read padding. Wrap any of them in
    `KeepMask`, if it keeps the time axis:

    - The layer gets the mask if its `call` has an argument `mask`.
    - The output carries the mask of the input.
    - Masked timesteps of the input are set to zero before the layer reads them, even if they are NaN. A convolution
      with `padding="same"` reads beyond the end of a sequence, and then finds zeros as at the end of an array.
      (Otherwise two in a row leak: the first writes into the padding, the second reads it.)
    - A recurrent layer with `go_backwards=True` and `return_sequences=True` returns its timesteps in reverse order, the
      padding first; they are reversed again, so each timestep is where its input was.
    - A recurrent layer with `return_sequences=False` gets the mask, which ends there.
    - With `initial_state`, Keras does not give the mask of the input to a recurrent layer; `KeepMask` does.

    It does not make a layer use the mask: `GlobalMaxPooling1D`, `GroupNormalization` and a softmax over time read
    padded timesteps with or without it. `check_padding` tells whether padding reaches the answer of a model.

    Args:
        layer: A `keras.layers.Layer`. Its `supports_masking` becomes True.
        **kwargs: `name`, `dtype` and so on, as for every Keras layer.

    Call arguments:
        inputs: Tensor `(batch, time, ...)`.
        initial_state: Optional list of tensors, for a recurrent layer.
        mask: Optional boolean tensor `(batch, time)`, True = real. Keras passes the one that the input carries.
        training: Optional bool, passed on.

    Returns:
        The output of the layer, which carries the mask; with `return_state=True` the first output, with
        `Bidirectional(merge_mode=None)` both.

    Raises:
        TypeError: If `layer` is not a Keras layer.
        ValueError: If the layer changes the number of timesteps, as strides, pooling and `padding="valid"` do, so that
            the mask would not fit: when it is built, or else when it is called.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([
        ...     keras_bucketing.SequenceMasking(),
        ...     KeepMask(keras.layers.Conv1D(4, 3, padding="same")),
        ...     KeepMask(keras.layers.Conv1D(4, 3, padding="same")),
        ...     KeepMask(keras.layers.LSTM(8, return_sequences=True)),
        ...     keras.layers.GlobalAveragePooling1D(),
        ... ])
        >>> sequence = np.ones((1, 5, 2), "float32")
        >>> padded = np.pad(sequence, [(0, 0), (0, 3), (0, 0)])
        >>> np.testing.assert_allclose(model(padded), model(sequence), atol=1e-6)
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(
                f"`layer` must be a Keras layer. Received {show_typed(layer)}. Wrap a function in "
                "keras.layers.Lambda, for example KeepMask(keras.layers.Lambda(lambda x: x * 2))."
            )
        # Inputs are not cast here: the layer casts them itself.
        super().__init__(layer, **{"autocast": False, "dtype": layer.dtype_policy, **kwargs})
        self.supports_masking = True
        support_masking(layer)
        self._caller_reverses = False  # Bidirectional turns the outputs of its backward layer around by itself

    def build(self, inputs_shape: Shape, initial_state_shape: Any = None) -> None:
        """Builds the layer, and refuses it if it changes the time axis."""
        if type(self.layer).build is not keras.layers.Layer.build:
            super().build(inputs_shape)
        elif not self.layer.built:  # a layer that makes its weights, or those of its parts, when it is called
            self.layer(keras.KerasTensor(inputs_shape, dtype=self.compute_dtype))
        if not self._ends_the_time_axis:
            self._check_time_axis(inputs_shape)

    def call(
        self,
        inputs: Tensor,
        initial_state: Any = None,
        mask: Tensor | None = None,
        inputs_mask: Tensor | None = None,
        training: bool | None = None,
    ) -> Any:
        """Returns the output of the layer; Keras passes the mask as `inputs_mask` beside an `initial_state`."""
        mask = inputs_mask if mask is None else mask
        options = {"mask": mask, "training": training}
        accepted = inspect.signature(self.layer.call).parameters
        options = {name: value for name, value in options.items() if value is not None and name in accepted}
        if initial_state is not None:
            options["initial_state"] = initial_state
        if mask is not None:
            inputs = zero_padding(inputs, ops.cast(mask, "bool"))
        outputs = self.layer(inputs, **options)
        if self._ends_the_time_axis:
            return outputs
        first = keras.tree.flatten(outputs)[0]
        if len(first.shape) < 2 or (
            None not in (first.shape[1], inputs.shape[1]) and first.shape[1] != inputs.shape[1]
        ):
            raise ValueError(self._changed_time_axis(inputs.shape, first.shape))
        if not self._reverses_time:
            return outputs
        if isinstance(outputs, (tuple, list)):
            return (ops.flip(outputs[0], axis=1), *outputs[1:])
        return ops.flip(outputs, axis=1)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None = None) -> Any:
        """Returns the mask of the input if the time axis is kept, else None."""
        if self._ends_the_time_axis:
            return None
        both_directions = getattr(self.layer, "merge_mode", "concat") is None
        return (previous_mask, previous_mask) if both_directions else previous_mask

    def compute_output_shape(self, inputs_shape: Shape, initial_state_shape: Any = None) -> Any:
        """Returns the output shape of the layer."""
        try:
            return self.layer.compute_output_shape(inputs_shape)
        except NotImplementedError:  # layers that define `call` alone
            spec = self.layer.compute_output_spec(keras.KerasTensor(inputs_shape, dtype=self.compute_dtype))
            return keras.tree.map_structure(lambda tensor: tuple(tensor.shape), spec)

    @property
    def _ends_the_time_axis(self) -> bool:
        return getattr(self.layer, "return_sequences", True) is False

    @property
    def _reverses_time(self) -> bool:
        return bool(getattr(self.layer, "go_backwards", False)) and not self._caller_reverses

    def _check_time_axis(self, shape: Shape) -> None:
        lengths = _TRIED_LENGTHS if shape[1] is None else (shape[1],)
        for length in lengths:
            tried = (shape[0], length, *shape[2:])
            try:
                spec = self.layer.compute_output_spec(keras.KerasTensor(tried, dtype=self.compute_dtype))
            except Exception:  # a layer that cannot be tried: its first output tells
                return
            first = tuple(keras.tree.flatten(spec)[0].shape)
            if len(first) < 2 or first[1] not in (None, length):
                raise ValueError(self._changed_time_axis(tried, first))

    def _changed_time_axis(self, inputs_shape: Any, outputs_shape: Any) -> str:
        return (
            f"KeepMask needs a layer that keeps the time axis. Expected (batch, {inputs_shape[1]}, ...) from "
            f"'{self.layer.name}' ({type(self.layer).__name__}) for inputs of shape {tuple(inputs_shape)}, received "
            f'{tuple(outputs_shape)}. A convolution does with strides=1 and padding="same" (or "causal"); a layer that '
            "shortens the time axis needs a `compute_mask` that shortens the mask in the same way."
        )

    # What `Bidirectional` and others ask of a recurrent layer. Where the layer has none of it, KeepMask has none.

    @property
    def go_backwards(self) -> bool:
        """The value of the wrapped layer."""
        return bool(self.layer.go_backwards)

    @property
    def return_sequences(self) -> bool:
        """The value of the wrapped layer."""
        return bool(self.layer.return_sequences)

    @property
    def return_state(self) -> bool:
        """The value of the wrapped layer."""
        return bool(self.layer.return_state)

    @property
    def stateful(self) -> bool:
        """The value of the wrapped layer."""
        return bool(self.layer.stateful)

    @property
    def states(self) -> Any:
        """The value of the wrapped layer."""
        return self.layer.states

    @property
    def zero_output_for_mask(self) -> bool:
        """The value of the wrapped layer."""
        return bool(self.layer.zero_output_for_mask)

    @zero_output_for_mask.setter
    def zero_output_for_mask(self, value: bool) -> None:
        self.layer.zero_output_for_mask = value

    def reset_state(self) -> None:
        """Sets the states of a stateful recurrent layer to zero."""
        self.layer.reset_state()

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs."""
        config = super().get_config()
        return {**config, "go_backwards": True} if self._caller_reverses else config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> KeepMask:
        """Makes the layer; `Bidirectional` adds "go_backwards" to the config of its backward layer."""
        config = dict(config)
        serialized = dict(config.pop("layer"))
        go_backwards = config.pop("go_backwards", None)
        if go_backwards is not None:
            serialized["config"] = {**serialized["config"], "go_backwards": go_backwards}
        layer = keras.saving.deserialize_keras_object(serialized, custom_objects=custom_objects)
        instance = cls(layer, **config)
        instance._caller_reverses = bool(go_backwards)
        return instance


def support_masking(layer: keras.layers.Layer) -> None:
    """Makes a layer, and the layers inside it, pass masks on, as all recurrent ones did before Keras 3.16.

    From 3.16 on (keras/src/layers/rnn/rnn.py, keras#23235) they use a mask and do not pass it on, with a warning at
    every call.
    """
    layer.supports_masking = True
    inner = [getattr(layer, name, None) for name in ("layer", "forward_layer", "backward_layer")]
    inner += getattr(layer, "layers", None) or []
    for part in inner:
        if isinstance(part, keras.layers.Layer) and hasattr(part, "return_sequences"):
            support_masking(part)

"""The checks on MaskedLSTMClassifier's arguments and inputs that no other module needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import keras

from keras_bucketing.checks import check_integer, show, show_typed


def check_units(units: int | Sequence[int]) -> tuple[int, ...]:
    """Returns one int per LSTM layer."""
    if isinstance(units, str) or not isinstance(units, Sequence):
        return (check_integer("units", units),)
    if not units:
        raise ValueError("`units` is empty. Expected an int, or one int per LSTM layer. Pass, for example, (128, 64).")
    return tuple(check_integer(f"units[{depth}]", count) for depth, count in enumerate(units))


def check_rate(name: str, rate: float) -> float:
    """Returns a dropout rate as a float."""
    if isinstance(rate, bool) or not isinstance(rate, Real):
        raise TypeError(f"`{name}` must be a number. Expected 0 <= rate < 1, received {show_typed(rate)}.")
    if not 0 <= rate < 1:
        raise ValueError(f"`{name}` must be a fraction of the values. Expected 0 <= rate < 1, received {show(rate)}.")
    return float(rate)


def check_embedding(
    vocabulary_size: int | None, embedding_dim: int | None, mask_value: float
) -> tuple[int | None, int | None]:
    """Refuses half of an embedding, and a padding value that no token id can have."""
    if vocabulary_size is None and embedding_dim is None:
        return None, None
    if vocabulary_size is None or embedding_dim is None:
        raise ValueError(
            f"`vocabulary_size` and `embedding_dim` go together. Received vocabulary_size={show(vocabulary_size)} and "
            f"embedding_dim={show(embedding_dim)}. Give both for token ids, for example vocabulary_size=20_000, "
            "embedding_dim=128, and neither for vectors."
        )
    if mask_value != mask_value // 1:
        raise ValueError(
            f"`mask_value` must be a whole number where the model takes token ids. Received {show(mask_value)} next to "
            f"vocabulary_size={vocabulary_size}. Pass the id that the padding holds, for example 0."
        )
    return check_integer("vocabulary_size", vocabulary_size), check_integer("embedding_dim", embedding_dim)


def check_activation(activation: Any, num_classes: int) -> Callable[..., Any]:
    """Returns the activation as a function, refusing unknown ones and a softmax over a single class."""
    try:
        function: Callable[..., Any] = keras.activations.get(activation)
    except (TypeError, ValueError) as error:
        if isinstance(activation, dict):  # out of a saved model: Keras says best what it does not load
            raise
        raise ValueError(
            "`classifier_activation` is unknown. Expected None, or an activation such as 'softmax', received "
            f"{show(activation)}."
        ) from error
    if num_classes == 1 and function is keras.activations.softmax:
        raise ValueError(
            "A softmax over one class is always 1. Received num_classes=1 and classifier_activation='softmax' (the "
            "default). Pass classifier_activation='sigmoid' for a binary model, or num_classes=2."
        )
    return function


def check_inputs_shape(shape: Sequence[int | None], takes_token_ids: bool, num_features: int | None = None) -> None:
    """Refuses vectors where the model takes token ids, and the reverse; and another number of features."""
    if takes_token_ids and len(shape) != 2:
        raise ValueError(
            f"Expected token ids (batch, time), received shape {tuple(shape)}. For vectors, make the model without "
            "vocabulary_size and embedding_dim."
        )
    if not takes_token_ids and (len(shape) != 3 or shape[2] is None):
        raise ValueError(
            f"Expected vectors (batch, time, features), received shape {tuple(shape)}. For token ids, make the model "
            "with vocabulary_size and embedding_dim; for one number per timestep, pass x[..., None]."
        )
    if num_features is not None and shape[2] != num_features:
        raise ValueError(
            f"Expected vectors of {num_features} features, as this model was built for, received shape {tuple(shape)}."
        )

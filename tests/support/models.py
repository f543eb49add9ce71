"""Models that many tests train: traced once, which takes longer than training, and begun anew for every test."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def token_model() -> keras.Model:
    """Token ids below 20 -> the probability of class 1, as if it had just been made."""
    return _begin_anew(*_compiled(_token_layers))


def vector_model() -> keras.Model:
    """Timesteps of 3 features -> the probability of class 1, as if it had just been made."""
    return _begin_anew(*_compiled(_vector_layers))


@contextlib.contextmanager
def eager_models() -> Iterator[None]:
    """Models train and predict without being traced, for programs that make many and train each for a few steps."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Even though the `tf.config.experimental_run_functions_eagerly`")
        tf.config.run_functions_eagerly(True)
        try:
            yield
        finally:
            tf.config.run_functions_eagerly(False)


def _token_layers() -> list[layers.Layer]:
    return [keras.Input((None,)), layers.Embedding(20, 4, mask_zero=True), layers.LSTM(4), layers.Dense(1, "sigmoid")]


def _vector_layers() -> list[layers.Layer]:
    return [keras.Input((None, 3)), layers.Masking(), layers.LSTM(4), layers.Dense(1, "sigmoid")]


@functools.cache
def _compiled(make_layers: Callable[[], list[layers.Layer]]) -> tuple[keras.Model, list[np.ndarray]]:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(make_layers())
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"], jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model, [variable.value.numpy() for variable in _variables(model)]


def _begin_anew(model: keras.Model, first_values: list[np.ndarray]) -> keras.Model:
    for variable, value in zip(_variables(model), first_values, strict=True):
        variable.assign(value)
    model.reset_metrics()
    model.stop_training = False
    return model


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]

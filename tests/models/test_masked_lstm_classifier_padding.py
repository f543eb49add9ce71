"""MaskedLSTMClassifier: padding never changes an output or a gradient."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.support.classifier_configs import CLASSES, CONFIGS, FEATURES, VOCABULARY, make_model, make_stack


def outputs_and_gradients(model, takes_lengths, ids):
    """A function of (inputs, cotangent) that is traced once, whatever the shapes."""
    sequences = tf.TensorSpec([None, None], tf.int32) if ids else tf.TensorSpec([None, None, FEATURES])
    inputs = {"sequences": sequences, "lengths": tf.TensorSpec([None], tf.int32)} if takes_lengths else sequences

    @tf.function(input_signature=[inputs, tf.TensorSpec([None, CLASSES])])
    def run(inputs, cotangent):
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=False)
            loss = tf.reduce_sum(outputs * cotangent)
        gradients = tape.gradient(loss, model.trainable_variables)
        return outputs, [tf.convert_to_tensor(gradient) for gradient in gradients]

    return run


@functools.cache
def model_and_stack(name):
    config = CONFIGS[name]
    model, stack = make_model(**config), make_stack(**config)
    return model, stack, outputs_and_gradients(stack, takes_lengths=False, ids=config.get("ids", False))


@functools.cache
def compiled(name, takes_lengths):
    model = model_and_stack(name)[0]
    return outputs_and_gradients(model, takes_lengths, CONFIGS[name].get("ids", False))


@st.composite
def rows(draw, ids, ends_with_data):
    """A few sequences, of few different values, so that genuine timesteps of mask_value are common."""
    elements = st.integers(0, VOCABULARY - 1) if ids else st.sampled_from([0.0, 1.0, -0.5])
    shape = () if ids else (FEATURES,)
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    sequences = [draw(npst.arrays("int32" if ids else "float32", (n, *shape), elements=elements)) for n in lengths]
    if ends_with_data:
        for sequence in sequences:
            sequence[-1] = 1
    return sequences


def pad(sequences, extra, padding):
    time = max(map(len, sequences)) + extra
    batch = np.full((len(sequences), time, *sequences[0].shape[1:]), padding, sequences[0].dtype)
    for row, sequence in zip(batch, sequences, strict=True):
        row[: len(sequence)] = sequence
    return batch


def check_against_each_sequence_alone(name, sequences, inputs, seed):
    model, stack, run_alone = model_and_stack(name)
    run = compiled(name, takes_lengths=isinstance(inputs, dict))
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=weight.shape).astype("float32") for weight in model.get_weights()]
    model.set_weights(weights)
    stack.set_weights(weights)
    cotangents = rng.normal(size=(len(sequences), CLASSES)).astype("float32")
    outputs, gradients = run(inputs, cotangents)
    alone = [
        run_alone(sequence[None], cotangent[None]) for sequence, cotangent in zip(sequences, cotangents, strict=True)
    ]
    np.testing.assert_allclose(outputs, np.concatenate([output for output, _ in alone]), atol=1e-4, rtol=1e-4)
    for gradient, *expected in zip(gradients, *(gradients for _, gradients in alone), strict=True):
        np.testing.assert_allclose(gradient, np.sum(expected, axis=0), atol=1e-4, rtol=1e-4)


# To trace the gradient of a stack takes seconds: in the default layer the simplest one stands for all.
QUICK = ["mean"]


def configs(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.fit) for name in names]


@pytest.mark.parametrize("name", configs(CONFIGS))
def test_with_lengths_each_row_is_as_the_unpadded_sequence_alone(name):
    ids = CONFIGS[name].get("ids", False)
    paddings = [0, 1, -7, 10**6] if ids else [0, 1, 1e30, np.nan, np.inf]

    @settings(max_examples=12, deadline=None)
    @given(
        sequences=rows(ids=ids, ends_with_data=False),
        extra=st.integers(0, 3),
        padding=st.sampled_from(paddings),
        seed=st.integers(0, 99),
    )
    def check(sequences, extra, padding, seed):
        lengths = np.array([len(sequence) for sequence in sequences], "int32")
        inputs = {"sequences": pad(sequences, extra, padding), "lengths": lengths}
        check_against_each_sequence_alone(name, sequences, inputs, seed)

    check()


@pytest.mark.fit
@pytest.mark.parametrize("name", ["last-bidirectional", "mean", "max-bidirectional-ids"])
def test_without_lengths_too_genuine_zero_timesteps_inside_included(name):
    @settings(max_examples=12, deadline=None)
    @given(
        sequences=rows(ids=CONFIGS[name].get("ids", False), ends_with_data=True),
        extra=st.integers(0, 3),
        seed=st.integers(0, 99),
    )
    def check(sequences, extra, seed):
        check_against_each_sequence_alone(name, sequences, pad(sequences, extra, 0), seed)

    check()


def test_weights_move_from_a_hand_written_stack():  # the other way is part of every check above
    for name in ("last-bidirectional", "attention-ids"):
        _, stack, _ = model_and_stack(name)
        model = make_model(**CONFIGS[name])
        model.set_weights(stack.get_weights())
        x = np.array([[3, 0, 1]]) if "ids" in name else np.ones((1, 3, FEATURES), "float32")
        np.testing.assert_allclose(model(x), stack(x), atol=1e-6)

"""SequenceMasking as a Keras layer: precision, errors, serialization, Keras' own tests."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

# run_layer_test and run_class_serialization_test are Keras' own conformance tests for layers. They have no public
# name; a layer that passes them behaves as Keras' own do. Nothing else is taken from keras.src.
from keras.src.testing import TestCase as KerasTestCase

from keras_bucketing import KeepMask, SequenceMasking

pytestmark = pytest.mark.filterwarnings("error:Layer .* was passed an input with a mask:UserWarning")

X = np.array([[[1.0], [0.0], [2.0], [0.0]], [[1.0], [2.0], [3.0], [4.0]]], "float32")
LENGTHS = np.array([3, 2], "int32")


class ReturnsItsMask(keras.layers.Layer):
    """What the next layer of the same precision sees: the mask that the outputs carry."""

    def __init__(self, dtype):
        super().__init__(dtype=dtype)
        self.supports_masking = True

    def call(self, sequences, mask=None):
        return mask


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_small_genuine_values_are_compared_before_they_are_rounded(policy):
    x = np.array([[[1.0], [0.0], [1e-9], [0.0]]], "float32")
    outputs = SequenceMasking(dtype=policy)(x)
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    assert np.array(ReturnsItsMask(policy)(outputs)).tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("mask_value", [-999.1, 0.1, 1e6])
def test_a_mask_value_is_found_whatever_it_was_rounded_to(dtype, mask_value):
    x = keras.ops.cast(np.array([[1.0, mask_value, 2.0, mask_value]], "float64"), dtype)
    assert np.array(SequenceMasking(mask_value).compute_mask(x)).tolist() == [[True, True, True, False]]


def test_long_float_lengths_are_exact_in_half_precision():
    x = np.zeros((1, 2052, 1), "float32")
    outputs = SequenceMasking(dtype="mixed_float16")(x, lengths=np.array([2049.0], "float32"))
    assert np.array(ReturnsItsMask("mixed_float16")(outputs)).sum() == 2049


@pytest.mark.parametrize(("given", "expected"), [("int32", "int32"), ("int64", "int64"), ("float64", "float32")])
def test_integers_keep_their_dtype_and_floats_take_the_layers(given, expected):
    x = np.ones((1, 2), given)
    assert keras.backend.standardize_dtype(SequenceMasking()(x).dtype) == expected
    assert SequenceMasking()(keras.Input((None,), dtype=given)).dtype == expected


# Errors.


@pytest.mark.parametrize("mask_value", ["0", None, True, [0.0]])
def test_a_mask_value_that_is_no_number_is_refused(mask_value):
    with pytest.raises(TypeError, match=r"`mask_value` must be a number\. Expected .*, received .*Pass the value"):
        SequenceMasking(mask_value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(np.ones(3, "float32")), "must come in a batch. Expected shape (batch, time)"),
        (lambda m: m({"x": X, "lengths": LENGTHS}), "Received ['lengths', 'x']"),
        (lambda m: m({"sequences": X}, lengths=LENGTHS), "Give the lengths once"),
        (lambda m: m(X, lengths=[1, 2, 3]), "Expected shape (2,) for sequences of shape (2, 4, 1), received (3,)"),
        (lambda m: m(X, lengths=[1]), "received (1,)"),
        (lambda m: m(X, lengths=np.ones((2, 4), "int32")), "received (2, 4)"),
        (lambda m: m(X, lengths=np.array(2)), "received ()"),
    ],
)
def test_what_cannot_be_masked_is_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(SequenceMasking())


@pytest.mark.parametrize("take", ["__call__", "compute_mask", "sequence_lengths"])
@pytest.mark.parametrize(
    ("inputs", "received"),
    [
        ([X, LENGTHS], "a list of 2"),
        ((X, LENGTHS), "a tuple of 2"),
        ({"sequences": (X, X), "lengths": LENGTHS}, "a tuple of 2"),
        ({"sequences": [X]}, "a list of 1"),
        ([keras.Input((None, 3)), keras.Input(())], "a list of 2"),
    ],
)
def test_several_tensors_say_how_lengths_are_passed(inputs, received, take):
    with pytest.raises(TypeError, match=f"Sequences must be one tensor.*received {received}.*lengths=n"):
        getattr(SequenceMasking(), take)(inputs)


def test_a_tuple_next_to_lengths_is_refused():
    with pytest.raises(TypeError, match=r"Sequences must be one tensor.*received a tuple of 2"):
        SequenceMasking()((X, X), lengths=LENGTHS)


def test_shapes_are_checked_like_tensors():
    with pytest.raises(TypeError, match="Sequences must be one tensor"):
        SequenceMasking().compute_output_shape([(None, None, 3), (None,)])
    for shape in [(None, 5, 2), [None, 5, 2]]:
        assert SequenceMasking().compute_output_shape(shape) == (None, 5, 2)


@pytest.mark.parametrize("inputs", [[[1.0, 0.0]], [1, 2], None, "text"])
def test_python_values_say_to_pass_an_array(inputs):
    with pytest.raises(TypeError, match=r"Sequences must be one tensor.*np\.array"):
        SequenceMasking().compute_mask(inputs)


def test_lengths_in_a_dict_that_are_a_list_say_to_pass_an_array():
    with pytest.raises(TypeError, match=r"`lengths` must be a tensor.*received a list of 2\. Pass np\.array"):
        SequenceMasking().compute_mask({"sequences": X, "lengths": [3, 2]})


def test_it_is_built_from_the_start_as_masking_is():
    assert SequenceMasking().built == keras.layers.Masking().built is True
    model = keras.Sequential([SequenceMasking(), KeepMask(keras.layers.GRU(2))])
    assert not model.built  # the other layers are not
    assert model(X).shape == (2, 2)


class ScaledMasking(SequenceMasking):
    """A subclass with a weight, which it can make only once it knows the shape."""

    def build(self, input_shape):
        shape = input_shape["sequences"] if isinstance(input_shape, dict) else input_shape
        self.scale = self.add_weight((shape[-1],), initializer=keras.initializers.Constant(3.0), name="scale")

    def call(self, inputs):
        return super().call(inputs) * self.scale


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_a_subclass_that_overrides_build_is_built_when_it_is_called(lengths):
    layer = ScaledMasking()
    assert not layer.built
    outputs = layer(X, lengths=lengths)
    assert layer.built
    assert [weight.shape for weight in layer.weights] == [(1,)]
    np.testing.assert_array_equal(outputs, 3 * np.array(SequenceMasking()(X, lengths=lengths)))


@pytest.mark.parametrize(("mask_value", "dtype"), [(0.5, "int32"), (np.nan, "int32"), (np.inf, "int32"), (-1, "uint8")])
def test_a_mask_value_that_the_integers_cannot_hold_is_refused(mask_value, dtype):
    with pytest.raises(ValueError, match=f"Expected one of dtype {dtype}, received {mask_value}"):
        SequenceMasking(mask_value)(np.ones((1, 2), dtype))


# Serialization, and Keras' own tests.


@pytest.mark.parametrize("mask_value", [0.0, -1, 2.5])
def test_the_config_holds_the_mask_value(mask_value):
    layer = SequenceMasking(mask_value, name="here", dtype="mixed_float16")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (copy.mask_value, copy.name, copy.dtype_policy.name) == (mask_value, "here", "mixed_float16")
    assert type(copy.mask_value) is type(mask_value)


# run_layer_test trains a model of this layer alone, on a generator: Keras warns that it has no weights and that fit's
# default shuffle=True does nothing.
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights:UserWarning")
@pytest.mark.filterwarnings("ignore:.shuffle=True. was passed:UserWarning")
class TestAsKerasTestsItsLayers(KerasTestCase):
    @pytest.mark.fit
    def test_vectors(self):
        self.run_layer_test(
            SequenceMasking,
            init_kwargs={"mask_value": 1.0},
            input_shape=(2, 3, 4),
            expected_output_shape=(2, 3, 4),
            expected_num_trainable_weights=0,
            expected_num_non_trainable_weights=0,
            expected_num_seed_generators=0,
            expected_num_losses=0,
            supports_masking=True,
            expected_mask_shape=(2, 3),
        )

    def test_token_ids(self):
        self.run_layer_test(
            SequenceMasking,
            init_kwargs={"mask_value": 0},
            input_shape=(2, 3),
            input_dtype="int32",
            expected_output_shape=(2, 3),
            expected_output_dtype="int32",
            supports_masking=True,
            expected_mask_shape=(2, 3),
            run_training_check=False,  # integers have no gradient
        )

    def test_serialization(self):
        self.run_class_serialization_test(SequenceMasking(mask_value=3.0, name="masking"))


@pytest.mark.parametrize(("mask_value", "dtype"), [(256, "uint8"), (2**32, "int32"), (-129, "int8"), (2, "bool")])
def test_a_mask_value_beyond_the_integers_is_refused(mask_value, dtype):
    with pytest.raises(ValueError, match=rf"Expected one of dtype {dtype}, received {mask_value}"):
        SequenceMasking(mask_value).compute_mask(np.zeros((1, 3), dtype))


def test_a_ragged_tensor_says_how_to_pad_it():
    with pytest.raises(TypeError, match=r"Received a RaggedTensor\. Pass its to_tensor\(\) .* row_lengths\(\)"):
        SequenceMasking()(tf.ragged.constant([[1.0, 2.0], [3.0]]))


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2)])
def test_batches_of_nothing_come_out_as_they_are(shape):
    assert SequenceMasking()(np.zeros(shape, "float32")).shape == shape


def test_the_output_shape_of_a_dict_is_that_of_the_sequences():
    shapes = {"sequences": (None, 5, 2), "lengths": (None,)}
    assert SequenceMasking().compute_output_shape(shapes) == (None, 5, 2)

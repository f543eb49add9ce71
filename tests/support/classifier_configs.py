"""The classifiers that the tests are run on, each next to the same network written with Keras layers alone."""

import keras
from keras import layers

from keras_bucketing import MaskedLSTMClassifier

VOCABULARY, FEATURES, CLASSES = 5, 2, 3

# Every pooling in one direction and in two, at one and at two layers; vectors and token ids.
CONFIGS = {
    "last": {"units": 3},
    "last-deep": {"units": (3, 2), "dropout": 0.5},
    "last-bidirectional": {"units": (2, 3), "bidirectional": True},
    "mean": {"units": 3, "pooling": "mean", "recurrent_dropout": 0.5},
    "mean-bidirectional-ids": {"units": 3, "pooling": "mean", "bidirectional": True, "ids": True},
    "max-deep": {"units": (3, 2), "pooling": "max"},
    "max-bidirectional-ids": {"units": 2, "pooling": "max", "bidirectional": True, "ids": True},
    "attention-ids": {"units": 3, "pooling": "attention", "ids": True},
    "attention-bidirectional-deep": {"units": (2, 2), "pooling": "attention", "bidirectional": True},
}


def make_model(units, ids=False, mask_value=0, **kwargs):
    tokens = {"vocabulary_size": VOCABULARY, "embedding_dim": 2} if ids else {}
    model = MaskedLSTMClassifier(CLASSES, units, classifier_activation=None, mask_value=mask_value, **tokens, **kwargs)
    model.build((None, None) if ids else (None, None, FEATURES))
    return model


def make_stack(units, ids=False, pooling="last", bidirectional=False, mask_value=0, **dropout):
    """The same network from Keras layers alone, for unpadded sequences: it knows no masks."""
    inputs = x = keras.Input((None,), dtype="int32") if ids else keras.Input((None, FEATURES))
    if ids:
        x = layers.Embedding(VOCABULARY, 2)(x)
    units = (units,) if isinstance(units, int) else units
    for depth, width in enumerate(units):
        sequences = depth < len(units) - 1 or pooling != "last"
        lstm = layers.LSTM(width, return_sequences=sequences)
        x = (layers.Bidirectional(lstm) if bidirectional else lstm)(x)
    if pooling == "mean":
        x = layers.GlobalAveragePooling1D()(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling1D()(x)
    elif pooling == "attention":
        hidden = layers.Dense(x.shape[-1], activation="tanh")(x)
        weights = layers.Softmax(axis=1)(layers.Dense(1, use_bias=False)(hidden))
        x = layers.Flatten()(layers.Dot(axes=1)([weights, x]))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))

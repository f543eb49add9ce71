"""A Transformer encoder that padding cannot reach: which package is a function from?

    python examples/transformer.py            # about two minutes on two cores
    python examples/transformer.py --quick    # a few seconds, to see that it runs

The texts are the functions of the Python packages on this machine. Attention costs rows times the square of the padded
length, so batches of similar length save more than with a recurrent layer, and a budget of timesteps keeps the batches
of the longest texts small.

Keras hands the mask of the embedding through all of the model, if the model lets it: residuals are `Add()`, as `+`
forgets masks; attention gets a tensor of its own, as it takes the mask off what it is called with; the summary is
`GlobalAveragePooling1D`, which leaves padding out. `check_padding` runs the model to see that this is so.
"""

import argparse

import keras
import numpy as np
from functions_corpus import PACKAGES, load_functions

from keras_bucketing import BucketedSequence, PaddingStatsCallback, check_padding

MAXLEN = 256  # timesteps; what is longer is cut
MAX_TIMESTEPS_PER_BATCH = 4096


@keras.saving.register_keras_serializable(package="examples")
class AddPositions(keras.layers.Layer):
    """Adds sines and cosines of its position to each timestep (Vaswani et al., 2017), for sequences of any length."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        """Takes `(batch, time, width)`, with an even width."""
        width = inputs.shape[-1]
        positions = keras.ops.arange(keras.ops.shape(inputs)[1], dtype="float32")[:, np.newaxis]
        angles = positions * (10_000.0 ** (-np.arange(0, width, 2) / width)).astype("float32")
        encoded = keras.ops.concatenate([keras.ops.sin(angles), keras.ops.cos(angles)], axis=-1)
        return inputs + keras.ops.cast(encoded, inputs.dtype)


def encoder_block(x, num_heads: int, dropout: float):
    """Attention and two dense layers, each on a normalization of its own and added to what came in (pre-norm)."""
    width = x.shape[-1]
    n = keras.layers.LayerNormalization()(x)
    attended = keras.layers.MultiHeadAttention(num_heads, width // num_heads, dropout=dropout)(n, n)
    x = keras.layers.Add()([x, attended])
    n = keras.layers.LayerNormalization()(x)
    hidden = keras.layers.Dense(width)(keras.layers.Dense(4 * width, activation="gelu")(n))
    return keras.layers.Add()([x, keras.layers.Dropout(dropout)(hidden)])


def make_model(
    vocabulary_size: int, width: int = 64, num_blocks: int = 2, num_heads: int = 4, dropout: float = 0.1
) -> keras.Model:
    """From token ids `(batch, time)`, where 0 is padding, to the probability of each package."""
    token_ids = keras.Input((None,), dtype="int32")
    x = AddPositions()(keras.layers.Embedding(vocabulary_size, width, mask_zero=True)(token_ids))
    for _ in range(num_blocks):
        x = encoder_block(x, num_heads, dropout)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.LayerNormalization()(x))
    model = keras.Model(token_ids, keras.layers.Dense(len(PACKAGES), activation="softmax")(x))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Trains and evaluates; returns the loss of the test texts in buckets, and padded to the longest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few functions, one epoch")
    quick = parser.parse_args(arguments).quick
    keras.utils.set_random_seed(0)
    train, test = load_functions(60 if quick else 700)
    lookup = keras.layers.StringLookup(max_tokens=8000, mask_token="")  # id 0 is padding, and nothing else
    lookup.adapt(np.concatenate(train.tokens))
    x, test_x = ([lookup(tokens).numpy() for tokens in part.tokens] for part in (train, test))
    options = {"maxlen": MAXLEN, "max_timesteps_per_batch": MAX_TIMESTEPS_PER_BATCH}
    dataset = BucketedSequence(x, train.labels, seed=0, **options)
    validation = BucketedSequence(test_x, test.labels, shuffle=False, **options)

    model = make_model(lookup.vocabulary_size(), *((16, 1) if quick else (64, 2)))
    check = check_padding(model, dataset)
    print(check)
    if not check:
        raise SystemExit(1)
    callbacks = [PaddingStatsCallback(dataset, validation)]
    model.fit(
        dataset, epochs=1 if quick else 6, validation_data=validation, shuffle=False, callbacks=callbacks, verbose=2
    )
    padded = keras.utils.pad_sequences(test_x, maxlen=MAXLEN, padding="post", truncating="post")
    bucketed_loss, accuracy = model.evaluate(validation, verbose=0)
    padded_loss, _ = model.evaluate(padded, test.labels, batch_size=16, verbose=0)
    majority = np.mean(test.labels == np.bincount(train.labels).argmax())
    print(f"test accuracy {accuracy:.3f}; always answering the most frequent package: {majority:.3f}")
    print(f"loss: {bucketed_loss:.5f} in buckets, {padded_loss:.5f} padded to the longest")
    print(f"padding efficiency {dataset.padding_stats().padding_efficiency:.3f}")
    return bucketed_loss, padded_loss


if __name__ == "__main__":
    main()

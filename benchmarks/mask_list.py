"""Which layers and operations of the installed Keras hand masks on, which forget them, and which read padding.

Each is put into a small model behind masked timesteps, whose padding is not zero, and `check_padding` says whether
padding reaches what comes out: directly, and behind a layer that adds up the timesteps which the mask calls real.

    python -m benchmarks.mask_list --output docs/figures/masks    # writes 3.15.json, or nightly.json
    python -m benchmarks.update_docs                              # writes docs/how-it-works/mask-list.md of all records

Run it once with each version of Keras that the page shows.
"""

from __future__ import annotations

import argparse
import inspect
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from benchmarks import harness
from benchmarks.tables import Record
from keras_bucketing import BucketedSequence, KeepMask, SequenceMasking, check_padding

KEEPS, FORGETS, READS, SUMMARIZES = "hands on", "forgets", "reads padding", "leaves padding out"
FAILS = "fails"  # with an error, when it gets a mask
REFUSED = "refused"  # by KeepMask, since the number of timesteps changes

Call = Callable[[Any], Any]  # from a masked tensor `(batch, time, features)` to what comes out
LENGTHS = (2, 6, 4)
FEATURES = 4


class SumOverTime(layers.Layer):
    """Adds up the timesteps that the mask calls real, or all of them where there is no mask; 1 is added to each."""

    def __init__(self) -> None:
        super().__init__()
        self.supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Takes `(batch, time, ...)`."""
        shifted = ops.nan_to_num(ops.cast(inputs, "float32")) + 1.0
        if mask is not None:
            shifted = ops.where(ops.reshape(mask, (*ops.shape(mask), *[1] * (len(inputs.shape) - 2))), shifted, 0.0)
        return ops.sum(shifted, axis=1)

    def compute_output_shape(self, inputs_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Returns `(batch, ...)`."""
        # Keras would find it by a trace, which stops at `x * 2`: 3.15 takes that for a sparse tensor.
        return (inputs_shape[0], *inputs_shape[2:])


class FillPadding(layers.Layer):
    """Puts values between 0 and 1 into real timesteps, and smaller and larger ones than these into padding."""

    def __init__(self) -> None:
        super().__init__()
        self.supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Takes `(batch, time, ...)`, with a mask wherever there are values."""
        if mask is None:
            return inputs
        padding = ops.cast(ops.arange(inputs.shape[-1]) % 2, "float32") * 0.98 + 0.01
        mask = ops.reshape(mask, (*ops.shape(mask), *[1] * (len(inputs.shape) - 2)))
        return ops.where(mask, 0.1 + 0.8 * ops.sigmoid(inputs), padding)


@keras.saving.register_keras_serializable(package="keras_bucketing_benchmarks")
class OwnLayer(layers.Layer):
    """A layer of somebody's own that says nothing of masks."""

    def call(self, inputs: Any) -> Any:
        """Takes anything."""
        return inputs * 2


# Layers: how each is made. Those that are not named are made without arguments.

_ARGUMENTS: dict[str, Callable[[], layers.Layer]] = {
    "Activation": lambda: layers.Activation("relu"),
    "AdaptiveAveragePooling1D": lambda: layers.AdaptiveAveragePooling1D(2),
    "AdaptiveMaxPooling1D": lambda: layers.AdaptiveMaxPooling1D(2),
    "AlphaDropout": lambda: layers.AlphaDropout(0.5),
    "AveragePooling1D": lambda: layers.AveragePooling1D(2),
    "Bidirectional": lambda: layers.Bidirectional(layers.GRU(3, return_sequences=True)),
    "Conv1D": lambda: layers.Conv1D(4, 3, padding="same"),
    "Conv1DTranspose": lambda: layers.Conv1DTranspose(4, 3, padding="same"),
    "Conv2D": lambda: layers.Conv2D(4, 3, padding="same"),
    "ConvLSTM1D": lambda: layers.ConvLSTM1D(2, 3, padding="same", return_sequences=True),
    "Cropping1D": lambda: layers.Cropping1D(1),
    "Dense": lambda: layers.Dense(4),
    "DepthwiseConv1D": lambda: layers.DepthwiseConv1D(3, padding="same"),
    "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(3, padding="same"),
    "Discretization": lambda: layers.Discretization([0.0, 1.0]),
    "Dropout": lambda: layers.Dropout(0.5),
    "EinsumDense": lambda: layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d"),
    "GRU": lambda: layers.GRU(3, return_sequences=True),
    "GaussianDropout": lambda: layers.GaussianDropout(0.5),
    "GaussianNoise": lambda: layers.GaussianNoise(0.5),
    "GroupNormalization": lambda: layers.GroupNormalization(2),
    "LSTM": lambda: layers.LSTM(3, return_sequences=True),
    "Lambda": lambda: layers.Lambda(lambda x: x * 2),
    "MaxPooling1D": lambda: layers.MaxPooling1D(2),
    "Normalization": lambda: layers.Normalization(mean=1.0, variance=2.0),
    "PReLU": lambda: layers.PReLU(shared_axes=[1]),
    "Permute": lambda: layers.Permute((2, 1)),
    "RNN": lambda: layers.RNN(layers.GRUCell(3), return_sequences=True),
    "Rescaling": lambda: layers.Rescaling(0.5, 1.0),
    "Reshape": lambda: layers.Reshape((-1, 2, 2)),
    "SeparableConv1D": lambda: layers.SeparableConv1D(4, 3, padding="same"),
    "SeparableConv2D": lambda: layers.SeparableConv2D(4, 3, padding="same"),
    "SimpleRNN": lambda: layers.SimpleRNN(3, return_sequences=True),
    "SpatialDropout1D": lambda: layers.SpatialDropout1D(0.5),
    "SpectralNormalization": lambda: layers.SpectralNormalization(layers.Dense(4)),
    "TernaryDense": lambda: layers.TernaryDense(4),
    "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(4)),
}
# Layers that are called with more than one tensor.
_CALLS: dict[str, Callable[[layers.Layer, Any], Any]] = {
    name: lambda layer, x: layer([x, layers.Identity()(x)])
    for name in ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
}
_CALLS |= {name: lambda layer, x: layer([x, x]) for name in ("AdditiveAttention", "Attention", "Dot")}
_CALLS |= {
    name: lambda layer, x: layer(layers.Identity()(x), layers.Identity()(x))
    for name in ("MultiHeadAttention", "GroupQueryAttention")
}
_ARGUMENTS |= {
    "Dot": lambda: layers.Dot((1, 1)),
    "GroupQueryAttention": lambda: layers.GroupQueryAttention(2, 2, 1),
    "MultiHeadAttention": lambda: layers.MultiHeadAttention(1, 4),
}
_SHAPES = {  # of a timestep, where it is not a vector
    **dict.fromkeys(("Conv2D", "DepthwiseConv2D", "SeparableConv2D"), (4, 1)),
    "ConvLSTM1D": (4, 1),
}
# Where a layer has more than one way that matters.
VARIANTS: dict[str, Callable[[], layers.Layer]] = {
    'Conv1D(padding="valid")': lambda: layers.Conv1D(4, 2),
    'Conv1D(padding="causal")': lambda: layers.Conv1D(4, 3, padding="causal"),
    'Conv1D(strides=2, padding="same")': lambda: layers.Conv1D(4, 3, strides=2, padding="same"),
    "GRU(go_backwards=True, return_sequences=True)": lambda: layers.GRU(3, go_backwards=True, return_sequences=True),
    "GRU(return_sequences=False)": lambda: layers.GRU(3),
    "Bidirectional(GRU(return_sequences=False))": lambda: layers.Bidirectional(layers.GRU(3)),
    "Softmax(axis=1)": lambda: layers.Softmax(axis=1),
    "UnitNormalization(axis=1)": lambda: layers.UnitNormalization(axis=1),
    "a layer of your own": OwnLayer,
}

_RENAMED = {"GroupedQueryAttention"}  # in 3.16; the name of before is there too
NOT_FOR_SEQUENCES = {
    "preprocessing": [
        *("CategoryEncoding", "HashedCrossing", "Hashing", "IntegerLookup", "StringLookup", "TextVectorization"),
        *("MelSpectrogram", "STFTSpectrogram", "Pipeline", "Resizing", "CenterCrop", "MaxNumBoundingBoxes"),
    ],
    "augmentation of images": [
        *("AugMix", "AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization", "CutMix", "Equalization"),
        *("MixUp", "Mosaic", "RandAugment", "Solarization"),
    ],
    "parts of other layers": ["GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells", "InputLayer", "Layer"],
    "layers around others": ["Wrapper", "FlaxLayer", "JaxLayer", "TFSMLayer", "TorchModuleWrapper"],
    "vectors": ["RepeatVector"],
    "where masks come from": ["Embedding", "ReversibleEmbedding", "Masking"],
}


def layer_names() -> list[str]:
    """The public layers of the installed Keras that are probed, each once."""
    left_out = {name for names in NOT_FOR_SEQUENCES.values() for name in names}
    found: dict[type, str] = {}  # by class, since many have two names
    for name in dir(layers):
        kind = getattr(layers, name)
        of_images = name.startswith("Random") or "3D" in name or ("2D" in name and name not in _ARGUMENTS)
        if inspect.isclass(kind) and issubclass(kind, layers.Layer) and not of_images and name not in left_out:
            is_own_name = name == kind.__name__ and name not in _RENAMED
            found[kind] = name if is_own_name else found.get(kind, name)
    return sorted(found.values())


# Ways to put layers together that people write.


def _attention() -> layers.Layer:
    return layers.MultiHeadAttention(1, FEATURES)


def _unmasked(x: Any) -> Any:
    return layers.Lambda(lambda value: value * 1)(x)


def _pre_norm(x: Any) -> Any:
    n = layers.LayerNormalization()(x)
    return layers.Add()([x, _attention()(n, n)])


def _with_state(x: Any, wrap: Call = lambda layer: layer) -> Any:
    state = layers.Dense(3)(layers.GlobalAveragePooling1D()(x))
    return wrap(layers.GRU(3))(x, initial_state=state)


COMBINATIONS: dict[str, Call] = {
    "x + attention(x, x)": lambda x: x + _attention()(x, x),
    "Add()([x, attention(x, x)])": lambda x: layers.Add()([x, _attention()(x, x)]),
    "Add()([x, attention(n, n)]), n = LayerNormalization()(x)": _pre_norm,
    "Add()([x, y]), no mask on y": lambda x: layers.Add()([x, _unmasked(x)]),
    "Concatenate()([x, y]), no mask on y": lambda x: layers.Concatenate()([x, _unmasked(x)]),
    "Concatenate(axis=1)([x, x])": lambda x: layers.Concatenate(axis=1)([x, layers.Identity()(x)]),
    "GRU(3)(x, initial_state=state)": _with_state,
    "KeepMask(GRU(3))(x, initial_state=state)": lambda x: _with_state(x, KeepMask),
    "x + y": lambda x: x + x,
    "x * 2": lambda x: x * 2,
    "-x": lambda x: -x,
    "x[..., :2]": lambda x: x[..., :2],
    "x[:, 1:]": lambda x: x[:, 1:],
    "x[:, 0]": lambda x: x[:, 0],
    "x[:, -1]": lambda x: x[:, -1],
}

# Operations: those of keras.ops that take one or two tensors, and these.

_WEIGHTS, _ONES = np.ones((FEATURES, 2), "float32"), np.ones(FEATURES, "float32")
_OPERATIONS: dict[str, Call] = {
    "all(axis=1)": lambda x: ops.all(x > 0.05, axis=1),
    "any(axis=1)": lambda x: ops.any(x > 0.95, axis=1),
    "average_pool": lambda x: ops.average_pool(x, 2, 1, "same"),
    "broadcast_to": lambda x: ops.broadcast_to(x, ops.shape(x)),
    "cast": lambda x: ops.cast(x, "float16"),
    "clip": lambda x: ops.clip(x, -1, 1),
    "concatenate": lambda x: ops.concatenate([x, x]),
    "conv": lambda x: ops.conv(x, np.ones((3, FEATURES, 2), "float32"), padding="same"),
    "einsum": lambda x: ops.einsum("abc,cd->abd", x, _WEIGHTS),
    "expand_dims": lambda x: ops.expand_dims(x, -1),
    "full_like": lambda x: ops.full_like(x, 1.0),
    "isin": lambda x: ops.isin(x, np.array([1.0])),
    "layer_normalization": lambda x: ops.layer_normalization(x, _ONES, _ONES),
    "matmul": lambda x: ops.matmul(x, _WEIGHTS),
    "max_pool": lambda x: ops.max_pool(x, 2, 1, "same"),
    "moments(axes=[1])": lambda x: ops.moments(x, axes=[1])[0],
    "one_hot": lambda x: ops.one_hot(ops.argmax(x, axis=-1), FEATURES),
    "pad": lambda x: ops.pad(x, [[0, 0], [0, 0], [0, 1]]),
    "power": lambda x: ops.power(x, 2),
    "repeat": lambda x: ops.repeat(x, 2, axis=-1),
    "reshape": lambda x: ops.reshape(x, (-1, ops.shape(x)[1], 2, 2)),
    "roll(axis=1)": lambda x: ops.roll(x, 1, axis=1),
    "split": lambda x: ops.split(x, 2, axis=-1)[0],
    "squeeze": lambda x: ops.squeeze(ops.expand_dims(x, -1), -1),
    "stack": lambda x: ops.stack([x, x], axis=-1),
    "take": lambda x: ops.take(x, [0, 1], axis=-1),
    "threshold": lambda x: ops.threshold(x, 0.0, 1.0),
    "tile": lambda x: ops.tile(x, (1, 1, 2)),
    "top_k": lambda x: ops.top_k(x, 2)[0],
    "transpose": lambda x: ops.transpose(x, (0, 2, 1)),
    "where": lambda x: ops.where(x > 0, x, 0.0),
}
_OF_NO_ROWS = {"append", "diagflat", "flipud", "inner", "outer", "ravel"}  # they mix the rows of a batch
# Those whose axis is that of the features unless it is given are probed over time as well.
_OVER_TIME = ("log_softmax", "logsumexp", "normalize", "softmax", "sort", "sparsemax")


def operation_calls() -> Iterator[tuple[str, Call]]:
    """The operations of the installed Keras that take one or two tensors, by name; over time where that is a choice."""
    overridden = {name.partition("(")[0] for name in _OPERATIONS}
    yield from _OPERATIONS.items()
    for name in sorted(set(dir(ops)) - overridden - _OF_NO_ROWS):
        function = getattr(ops, name)
        if name.startswith("_") or not callable(function):
            continue
        parameters = inspect.signature(function).parameters
        needed = [parameter.name for parameter in parameters.values() if parameter.default is parameter.empty]
        is_reduction = "axis" in parameters and parameters["axis"].default is None
        if needed in (["x1", "x2"], ["x", "y"], ["a", "b"]):
            yield name, lambda x, function=function: function(x, x)
        elif needed in (["x"], ["a"]):
            if not is_reduction:
                yield name, function
            if is_reduction or name in _OVER_TIME:
                yield f"{name}(axis=1)", lambda x, function=function: function(x, axis=1)


# What is found out about one of them.


def probe(make: Call, shape: Sequence[int] = (FEATURES,), in_graph: bool = True) -> str:
    """What becomes of masked timesteps behind `make`.

    Args:
        make: From a masked tensor `(batch, time, *shape)` to what comes out.
        shape: Of one timestep.
        in_graph: Whether to run in a graph, as `predict` does; a few layers go wrong there alone.

    Raises:
        Exception: If `make` does not take such a tensor, or gives back something else than a tensor of its rows.
    """
    with warnings.catch_warnings():  # Keras warns of masks that end, in some versions and of some layers
        warnings.simplefilter("ignore")
        return _probe(make, shape, in_graph)


def _probe(make: Call, shape: Sequence[int], in_graph: bool) -> str:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(length, *shape)).astype("float32") for length in LENGTHS]
    dataset = BucketedSequence(rows, batch_size=len(rows), seed=0)

    def passes(*behind: layers.Layer) -> bool:
        inputs = keras.Input((None, *shape))
        outputs = make(FillPadding()(SequenceMasking()(inputs)))
        for layer in behind:
            outputs = layer(outputs)
        model = keras.Model(inputs, outputs)
        model.compile(run_eagerly=not in_graph)
        return check_padding(model, dataset, num_rows=len(rows), extra_timesteps=3).passed

    shape_behind = make(keras.KerasTensor((None, None, *shape))).shape
    if not shape_behind or shape_behind[0] is not None:
        raise ValueError("It puts out no rows.")
    if None not in shape_behind[1:]:
        return SUMMARIZES if passes() else READS
    if not passes():
        return READS
    return KEEPS if shape_behind[1] is None and passes(SumOverTime()) else FORGETS


def probe_layer(name: str) -> dict[str, str]:
    """What a layer does, as it is and inside of `KeepMask`; layers of several tensors as they are alone."""
    make = VARIANTS.get(name) or _ARGUMENTS.get(name) or getattr(layers, name)
    shape = _SHAPES.get(name, (FEATURES,))
    make()  # arguments that it does not take are a fault of this file
    if name in _CALLS:
        return {"alone": verdict(lambda x: _CALLS[name](make(), x), shape)}
    return {"alone": verdict(lambda x: make()(x), shape), "kept": verdict(lambda x: KeepMask(make())(x), shape)}


def verdict(make: Call, shape: Sequence[int] = (FEATURES,)) -> str:
    """What `probe` finds, or that Keras stops with an error, or `KeepMask` refuses."""
    try:
        return probe(make, shape)
    except Exception as error:
        return REFUSED if "needs a layer that keeps the time axis" in str(error) else FAILS


def probe_operation(call: Call) -> str | None:
    """What an operation does; None where it does not take a tensor `(batch, time, features)`, or not without more."""
    try:
        found = probe(call, in_graph=False)
        # A mask is an attribute of a tensor, and a graph may have another tensor where none is needed without one.
        return probe(call) if found == KEEPS else found
    except Exception:
        return None


# The page.

_CELLS = {
    KEEPS: "hands it on",
    FORGETS: "**forgets it**",
    READS: "**reads padding**",
    SUMMARIZES: "leaves padding out",
    FAILS: "**fails**",
    REFUSED: "refused",
    None: "-",
}


def read_records(folder: Path) -> dict[str, Record]:
    """The records by the name of the version, oldest first."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    return dict(sorted(found.items(), key=lambda item: _version(item[1])))


def page_tables(records: dict[str, Record]) -> dict[str, str]:
    """The tables of the page in Markdown, by name; layers and operations of one line do the same."""
    versions = list(records)
    alone = {
        name: [record["layers"].get(name, {}).get("alone") for record in records.values()]
        for name in _names(records, "layers")
    }
    kept = {name: _newest(records, name) for name in alone}
    lines: dict[tuple[Any, ...], list[str]] = {}
    for name, verdicts in alone.items():
        lines.setdefault((*verdicts, kept[name]), []).append(name)
    layer_lines = sorted(lines.items(), key=lambda line: (_CELLS[line[0][-2]].startswith("*"), -len(line[1])))
    operations: dict[str, list[str]] = {}
    for name in _names(records, "operations"):
        found = {record["operations"].get(name): version for version, record in records.items()}
        found.pop(None, None)
        said = ", ".join(f"{_CELLS[one]}{f' ({version})' if len(found) > 1 else ''}" for one, version in found.items())
        operations.setdefault(said, []).append(name)
    combinations = [
        [f"`{name}`", *(_CELLS[record["combinations"].get(name)] for record in records.values())]
        for name in _names(records, "combinations")
    ]
    used = ", ".join(record["environment"]["keras"] for record in records.values())
    dates = sorted({record["environment"]["date"] for record in records.values()})
    note = f"\n\n*Probed {' and '.join(dates)} with Keras {used} on TensorFlow.*"
    return {
        "mask_layers": _markdown(
            ["layers", *versions, "inside of `KeepMask`"],
            [[_joined(names), *(_CELLS[one] for one in verdicts)] for verdicts, names in layer_lines],
        )
        + note,
        "mask_combinations": _markdown(["combination", *versions], combinations) + note,
        "mask_operations": _markdown(
            ["operations", "what they do with the mask"],
            [[_joined(names), said] for said, names in sorted(operations.items(), key=lambda line: -len(line[1]))],
        )
        + note,
    }


def _version(record: Record) -> tuple[int, ...]:
    return tuple(int(part) for part in record["environment"]["keras"].split(".")[:2])


def _names(records: dict[str, Record], part: str) -> list[str]:
    return list(dict.fromkeys(name for record in reversed(records.values()) for name in record[part]))


def _newest(records: dict[str, Record], name: str) -> str | None:
    found = [record["layers"][name].get("kept") for record in records.values() if name in record["layers"]]
    return found[-1]


def _joined(names: Sequence[str]) -> str:
    return ", ".join(name if " of " in name else f"`{name}`" for name in sorted(names))


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def version_name() -> str:
    """The installed Keras as the page calls it: 3.15, or nightly."""
    version = keras.version()
    return "nightly" if "dev" in version else ".".join(version.split(".")[:2])


def main() -> None:
    """Probes everything, and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("output"), help="the folder of the record")
    parser.add_argument("--only", nargs="*", help="names of layers, for a look; nothing is written")
    arguments = parser.parse_args()
    if arguments.only is not None:
        for name in arguments.only:
            print(name, verdict(COMBINATIONS[name]) if name in COMBINATIONS else probe_layer(name), flush=True)
        return
    record: Record = {
        "environment": {**harness.environment(), "keras": keras.version(), "backend": keras.config.backend()},
        "layers": {name: probe_layer(name) for name in [*layer_names(), *VARIANTS]},
        "combinations": {name: verdict(make) for name, make in COMBINATIONS.items()},
        "operations": {name: found for name, call in operation_calls() if (found := probe_operation(call))},
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"{version_name()}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")


if __name__ == "__main__":
    main()

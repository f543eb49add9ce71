"""Errors for calls that name an option as another library does, and for inherited constructors."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import NoReturn, ParamSpec, TypeVar

from keras_bucketing.checks import shorten, show

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
AnyClass = TypeVar("AnyClass", bound=type)

_STREAM = "BucketedStream"
_MAX_NAMED = 3  # of several wrong options; the others are counted


def _remainder(value: object) -> str:
    return 'Pass remainder="drop".' if value else 'Pass remainder="spill" or "keep", or leave it out.'


def _multiple_of(value: object) -> str:
    step = value if isinstance(value, int) and 0 < value < 2**31 else 8
    return (
        f"Pass pad_to_bucket_boundary=True, bucket_boundaries=list(range({step + 1}, longest + {step + 1}, {step})): "
        f"a batch is padded to one less than its bucket's boundary, a multiple of {step}."
    )


def _truncation(value: object) -> str:
    return 'Pass maxlen=..., the most timesteps, and truncating="post" or "pre".' if value else "Leave it out."


# What to pass instead of names of tf.data, PyTorch, Hugging Face, Keras, fairseq, ESPnet and scikit-learn.
_Hint = str | Callable[[object], str]
_OTHER_NAMES: tuple[tuple[str, _Hint], ...] = (
    ("drop_remainder drop_last drop_final dataloader_drop_last", _remainder),
    (
        (
            "batch batchsize batch_sz bs per_device_train_batch_size per_device_batch_size train_batch_size "
            "global_batch_size max_sentences rows n_rows"
        ),
        "Pass batch_size=..., the rows of a batch.",
    ),
    ("batch_sizes bucket_batch_size bucket_sizes", "Pass bucket_batch_sizes=[...]."),
    (
        (
            "max_tokens max_tokens_per_batch tokens_per_batch max_batch_tokens batch_tokens token_budget max_frames "
            "batch_bins max_duration max_timesteps"
        ),
        "Pass max_timesteps_per_batch=..., rows x padded length.",
    ),
    ("padded_shapes padded_shape output_shapes", "Shapes are those of the data: leave it out."),
    (
        "padding_values pad_value pad_values pad_token_id pad_id padding_idx pad_token fill_value value",
        "Pass padding_value=..., and label_padding_value=... for labels of timesteps.",
    ),
    ("label_pad_token_id label_pad_id ignore_index label_padding", "Pass label_padding_value=..."),
    ("pad_to_multiple_of length_multiple pad_multiple multiple_of", _multiple_of),
    (
        (
            "max_length max_seq_len max_seq_length max_sequence_length model_max_length output_sequence_length "
            "truncate_to max_time cutoff"
        ),
        "Pass maxlen=..., the most timesteps of a row.",
    ),
    ("truncate truncation truncation_side", _truncation),
    ("min_length min_seq_len min_sequence_length", "Pass minlen=..., the fewest timesteps of a batch."),
    (
        "padding padding_side pad_to_max_length pad",
        (
            "Batches are padded at their end, to their longest row: leave it out. If `x` is padded already, use "
            "BucketedSequence.from_padded."
        ),
    ),
    (
        "boundaries buckets bucket_width bucket_boundary buckets_boundaries n_buckets bucket_count",
        "Pass num_buckets=..., or bucket_boundaries=[...].",
    ),
    ("group_by_length length_column_name bucket_by_length", "Rows are always in buckets: leave it out."),
    ("element_length_func element_length_fn length_fn key sort_key", "Lengths are those of `x`: leave it out."),
    (
        "lengths length sequence_length sequence_lengths seq_lens",
        (
            "Lengths are those of `x`: leave it out. If `x` is padded, use BucketedSequence.from_padded(x, "
            "lengths=...); if it is flat, BucketedSequence.from_row_splits(x, np.cumsum([0, *lengths]))."
        ),
    ),
    (
        "mask_value mask attention_mask timestep_labels sequences",
        "It is one of BucketedSequence.from_padded, for sequences that are padded already.",
    ),
    (
        "collate_fn collate collator data_collator map_func map_fn preprocess transform",
        "Batches are padded here: leave it out. To change them use dataset.map(function); to change rows, change `x`.",
    ),
    (
        "sampler batch_sampler sampler_class replacement",
        "Batches are drawn here: leave it out. For rows by weights pass sampling_weights=[...], one number per row.",
    ),
    (
        (
            "sampling_weight sample_probs sampling_probs sampling_probabilities probabilities mux_weights stop_weights "
            "balance_classes oversample oversampling class_balanced"
        ),
        "Pass sampling_weights=[...], one number per row, e.g. 1 / np.bincount(y)[y] for even classes.",
    ),
    (
        "num_samples samples_per_epoch epoch_size rows_in_epoch limit_train_batches max_samples",
        "Pass rows_per_epoch=..., how many rows an epoch draws.",
    ),
    (
        (
            "num_workers workers use_multiprocessing max_queue_size num_parallel_calls num_parallel_reads prefetch "
            "prefetch_factor pin_memory persistent_workers deterministic cycle_length"
        ),
        "Batches are made ahead in the TensorFlow graph, in parallel: leave it out.",
    ),
    (
        "buffer_size shuffle_buffer_size shuffle_buffer shuffle_size reshuffle_each_iteration",
        "Each epoch shuffles all rows: pass shuffle=True or False.",
    ),
    ("repeat count epochs n_epochs num_epochs", "Each epoch of fit(epochs=...) is a pass: leave it out."),
    ("validation_split test_size train_size", "Pass two datasets to fit(): train, validation = dataset.split(0.2)."),
    ("class_weight steps_per_epoch callbacks verbose validation_data", "Pass it to fit()."),
    ("label labels target targets outputs", "Pass y=..."),
    ("sample_weights weights weight", "Pass sample_weight=..."),
    ("data inputs features dataset source values", "It is the first argument, `x`."),
    ("random_state random_seed rng generator", "Pass seed=..., an int."),
    ("world_size num_replicas num_hosts process_count", "Pass num_shards=..., or num_shards=None, which finds it."),
    ("rank host_index process_index index", "Pass shard_index=..."),
    ("dtype output_types", "Batches have the dtype of the data: convert the data."),
    ("output_signature", "It is one of BucketedSequence.from_loader."),
    ("cache batched", "It is one of BucketedSequence.from_dataset."),
    ("return_lengths", "Pass include_lengths=True."),
)
_LABELS_OF_ELEMENTS = "Labels and weights belong to the elements: let `source` yield (x, y) or (x, y, sample_weight)."
# Where a stream has another answer, also to options of BucketedSequence that it does not have.
_NAMES_FOR_STREAMS: tuple[tuple[str, _Hint], ...] = (
    (
        "num_shards shard_index world_size num_replicas num_hosts process_count rank host_index process_index index",
        (
            "Each host reads a stream of its own, e.g. of source.shard(num_hosts, host): leave it out. All hosts make "
            "equally many steps if they have equally many rows and every batch has batch_size rows; otherwise pass the "
            "same steps_per_epoch to fit() on all of them."
        ),
    ),
    (
        "y label labels target targets outputs sample_weight sample_weights weights weight",
        _LABELS_OF_ELEMENTS,
    ),
    ("x data inputs features dataset values", "It is the first argument, `source`."),
    (
        (
            "sampling_weights sampling_weight sample_probs sampling_probs sampling_probabilities probabilities "
            "mux_weights stop_weights balance_classes oversample oversampling class_balanced sampler batch_sampler "
            "sampler_class replacement"
        ),
        "Rows come as `source` yields them: draw them there, e.g. with tf.data.Dataset.sample_from_datasets.",
    ),
    (
        (
            "rows_per_epoch max_rows num_samples samples_per_epoch epoch_size rows_in_epoch limit_train_batches "
            "max_samples"
        ),
        "Pass source.take(number), or steps_per_epoch to fit().",
    ),
    ("largest_first", "The longest row of a stream is not known beforehand: leave it out."),
    ("copy", "The rows of a buffer are always copied: leave it out."),
    ("cache", "Pass source.cache(), or read it once: BucketedSequence.from_dataset(source, cache=...)."),
    ("output_signature", "Elements tell their own shapes: leave it out."),
    ("shuffle_buffer_size shuffle_buffer shuffle_size", "Pass buffer_size=..., how many rows are mixed."),
    ("reshuffle_each_iteration", "Each epoch shuffles the rows of a buffer: pass shuffle=True or False."),
    ("validation_split test_size train_size", "Pass two streams to fit(), e.g. of source.skip(n) and source.take(n)."),
    (
        "lengths length sequence_length sequence_lengths seq_lens mask attention_mask sequences",
        (
            "Lengths are those of the rows: leave it out. Padded batches bring their lengths, or a mask, as entries of "
            "a dict x."
        ),
    ),
    (
        "padding_side pad_to_max_length pad",
        'Batches are padded at their end: leave it out. If those of `source` are padded at the other, padding="pre".',
    ),
    (
        "collate_fn collate collator data_collator map_func map_fn preprocess transform",
        (
            "Batches are padded here: leave it out. To change them use stream.map(function); to change rows, change "
            "those of `source`."
        ),
    ),
    (
        (
            "num_workers workers use_multiprocessing max_queue_size num_parallel_calls num_parallel_reads prefetch "
            "prefetch_factor pin_memory persistent_workers deterministic cycle_length"
        ),
        "Batches are made ahead: leave it out. Where rows take long, let the source read ahead: source.prefetch(1000).",
    ),
)


def _without_underscores(name: str) -> str:
    return name.lower().replace("_", "")


def _by_name(table: tuple[tuple[str, _Hint], ...]) -> dict[str, _Hint]:
    return {_without_underscores(name): hint for names, hint in table for name in names.split()}


_HINTS = _by_name(_OTHER_NAMES)
_HINTS_FOR_STREAMS = {**_HINTS, **_by_name(_NAMES_FOR_STREAMS)}


def explain_calls(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Makes a call with an unknown option, or with too many arguments, say what to write instead."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        try:
            signature.bind(*arguments, **options)
        except TypeError as error:
            _refuse(function.__qualname__.removesuffix(".__init__"), signature, arguments, options, error)
        return function(*arguments, **options)

    return call


def check_option_names(cls: type, options: Mapping[str, object]) -> None:
    """Refuses options that the constructor of a dataset does not have, before their values are checked."""
    constructor = cls.__init__  # type: ignore[misc]
    signature, arguments = inspect.signature(constructor), (None, None)
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        _refuse(constructor.__qualname__.removesuffix(".__init__"), signature, arguments, options, error)


def _refuse(
    name: str,
    signature: inspect.Signature,
    arguments: tuple[object, ...],
    options: Mapping[str, object],
    error: TypeError,
) -> NoReturn:
    parameters = signature.parameters.values()
    by_position = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    known = [each.name for each in parameters if each.name not in ("self", "cls")]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    unknown = [] if takes_any else [option for option in options if option not in known]
    if unknown:
        hints = {option: _hint(name, option, options[option], known) for option in unknown[:_MAX_NAMED]}
        told = [
            f"`{shorten(option)}` is not an option of {name}.{hint and f' {hint}'}" for option, hint in hints.items()
        ]
        if len(unknown) > _MAX_NAMED:
            told.append(f"{len(unknown) - _MAX_NAMED} more are unknown.")
        if "" in hints.values():
            told.append(f"Expected some of {shorten(', '.join(known))}.")
        raise TypeError(" ".join(told)) from None
    if len(arguments) > len(by_position):
        surplus = arguments[len(by_position)]
        allowed = [each for each in by_position if each not in ("self", "cls")]
        hint = (
            f" For the size of a batch pass batch_size={surplus}." if is_size(surplus) and "batch_size" in known else ""
        )
        raise TypeError(
            f"{name} takes {_listed(allowed)} as positional arguments, and everything else by name. Received "
            f"{show(surplus)} behind them.{hint}{_labels_hint(name)}"
        ) from None
    raise TypeError(f"{name}: {shorten(str(error))}.") from None


def _hint(name: str, option: str, value: object, known: list[str]) -> str:
    """What to pass instead; nothing if that is unknown."""
    hints = _HINTS_FOR_STREAMS if name == _STREAM else _HINTS
    hint = hints.get(_without_underscores(option)) if "batch_size" in known else _labels_hint(name).strip() or None
    if hint is None:
        close = difflib.get_close_matches(option, known, n=1)
        return f"Did you mean `{close[0]}`?" if close else ""
    return hint if isinstance(hint, str) else hint(value)


def is_size(value: object) -> bool:
    """Whether this can be meant as the size of a batch."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _listed(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}" if len(quoted) > 1 else quoted[0]


def _labels_hint(name: str) -> str:
    if name == _STREAM:
        return f" {_LABELS_OF_ELEMENTS}"
    return (
        " Labels and weights belong to the elements, e.g. zip(x, y)."
        if name.endswith(("from_dataset", "save_sequences"))
        else ""
    )


# Class methods and static methods that come from tf.data.Dataset, where they make a plain dataset.

_CONSTRUCTORS = {
    "from_generator": "Pass the generator function to BucketedSequence.from_dataset(generator).",
    "from_tensor_slices": "Pass the sequences to BucketedSequence(x, y), or padded arrays to "
    "BucketedSequence.from_padded(x, y).",
    "from_tensors": "Pass the sequences to BucketedSequence(x, y).",
    "from_sparse_tensor_slices": "Pass the sequences to BucketedSequence(tf.RaggedTensor.from_sparse(x), y).",
    "zip": "Pass several sequences per row to BucketedSequence((a, b), y), or pipelines of single rows to "
    "BucketedSequence.from_dataset(tf.data.Dataset.zip((x, y))).",
    "list_files": "Load files with BucketedSequence.from_loader(load, lengths, output_signature=...).",
    "load": "Use BucketedSequence(*load_sequences(path)) for what save_sequences wrote, or "
    "BucketedSequence.from_dataset(tf.data.Dataset.load(path)).",
    "choose_from_datasets": "Concatenate the sequences, BucketedSequence(x_a + x_b, ...).",
    "sample_from_datasets": "Concatenate the sequences, BucketedSequence(x_a + x_b, sampling_weights=...).",
}

# Anything that makes a dataset of rows makes the source of a stream.
_STREAM_CONSTRUCTORS = {
    "from_generator": "Pass the generator function: BucketedStream(generator).",
    "from_tensor_slices": "Pass a list of rows, BucketedStream(list(zip(x, y))), or a tf.RaggedTensor.",
    "from_tensors": "Pass a list of rows: BucketedStream([(x, y)]).",
    "from_sparse_tensor_slices": "Pass the rows as BucketedStream(tf.RaggedTensor.from_sparse(x)).",
}
_STREAM_CONSTRUCTOR = "Pass a plain dataset of rows as the source: BucketedStream(tf.data.Dataset.{name}(...))."


def refuse_inherited_constructors(cls: AnyClass) -> AnyClass:
    """Makes the constructors of the base classes raise, with the call to use instead."""
    of_bases = [
        name
        for base in cls.__mro__[1:]
        for name, method in vars(base).items()
        if isinstance(method, (staticmethod, classmethod)) and not name.startswith("_")
    ]
    for name in {*of_bases, *_CONSTRUCTORS} - vars(cls).keys():
        setattr(cls, name, staticmethod(_refuse_constructor(cls.__name__, name, is_inherited=name in of_bases)))
    return cls


def _refuse_constructor(class_name: str, name: str, is_inherited: bool) -> Callable[..., NoReturn]:
    if class_name == _STREAM:
        advice = _STREAM_CONSTRUCTORS.get(name, _STREAM_CONSTRUCTOR.format(name=name))
    else:
        advice = _CONSTRUCTORS.get(name, "It has no sequences: pass these to BucketedSequence(x, y).")

    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise TypeError(
            f"{class_name}.{name} would make a plain tf.data.Dataset, neither bucketed nor padded. {advice}"
            + (f" If a plain one is wanted, call tf.data.Dataset.{name}." if is_inherited else "")
        )

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = f"Refused: it would make a plain `tf.data.Dataset`. {advice}"
    return refuse

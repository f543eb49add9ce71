"""Streams into a folder or into memory, and folders back: the code behind `save_sequences` and `from_dataset`."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_bucketing.call_errors import explain_calls
from keras_bucketing.checks import INT64_MAX, UnclearError, check_choice, check_flag, check_integer, show, show_typed
from keras_bucketing.data.arrays import stored_floatx
from keras_bucketing.data.row_splits import Lengths
from keras_bucketing.data.rows import LeafLengths, RowLengths, StoredSequences
from keras_bucketing.data.tree import leaves, name_of
from keras_bucketing.streams.cached_source import check_first_element, remember_source
from keras_bucketing.streams.columns import MemoryStore
from keras_bucketing.streams.elements import NAMES
from keras_bucketing.streams.folder import Source, is_finished, map_folder, with_argument_name
from keras_bucketing.streams.folder_files import FolderFiles
from keras_bucketing.streams.folder_writer import FolderWriter
from keras_bucketing.streams.reading import Contents, read_stream
from keras_bucketing.streams.sources import Stream, bound_rows, open_stream
from keras_bucketing.unpadding.batches import BatchOptions
from keras_bucketing.unpadding.entries import check_keys
from keras_bucketing.unpadding.spans import check_mask_value

# What a cache tells besides the options that it was read with.
_LABEL_PADDING, _MASKS = "label_padding", "masks"


@explain_calls
def save_sequences(
    path: str | os.PathLike[str],
    sequences: Any,
    *,
    overwrite: bool = False,
    max_rows: int | None = None,
    batched: bool | None = None,
    mask_value: Any = 0,
    padding: str | None = None,
    timestep_labels: bool | None = None,
    sequence_keys: object = None,
) -> None:
    """Writes sequences, with labels and weights if there are any, into a folder; in one pass and bounded memory.

    The folder holds plain `.npy` files, which NumPy alone can read: `values_0.npy`, the timesteps of all sequences,
    concatenated, `row_splits_0.npy` as in `tf.RaggedTensor`, and so on for each leaf, with `description.json`. It is
    written as `<path>.unfinished` and renamed at the end, so an interrupted folder is never taken for a complete one;
    the next call writes it again. A progress bar appears on standard error after three seconds.

    Args:
        path: The folder. Parent folders are made.
        sequences: A list, a generator, a generator function or any other iterable, a `tf.data.Dataset` or a
            `keras.utils.PyDataset`, as in `BucketedSequence.from_dataset`: of sequences, of dicts or of tuples as for
            `fit`, `(x, y)` or `(x, y, sample_weight)`, whose parts may be dicts or tuples.
        overwrite: Bool, whether to replace an existing folder of saved sequences, once the new one is complete. Other
            folders and files are never removed. Defaults to False.
        max_rows: As in `BucketedSequence.from_dataset`.
        batched: As in `BucketedSequence.from_dataset`.
        mask_value: As in `BucketedSequence.from_dataset`.
        padding: As in `BucketedSequence.from_dataset`.
        timestep_labels: As in `BucketedSequence.from_dataset`.
        sequence_keys: Str or int, or a list of them: which entries of a dict or tuple `x` are padded sequences, as
            `sequences` in `BucketedSequence.from_dataset`.

    Raises:
        TypeError: If something is of the wrong kind, e.g. text instead of numbers.
        ValueError: If the rows do not fit together, or never end and `max_rows` is None.
        OSError: If the folder exists, cannot be written or the disk is full; nothing is left behind then.

    Example:
        >>> folder = tempfile.mkdtemp() + "/recordings"
        >>> keras_bucketing.save_sequences(folder, ([0.5] * length for length in (3, 1, 2)))
        >>> keras_bucketing.load_sequences(folder)[2].tolist()
        [0.5, 0.5]
        >>> np.load(folder + "/row_splits_0.npy").tolist()
        [0, 3, 4, 6]
    """
    with _sequences_are_keys():
        options = check_batch_options(batched, mask_value, padding, timestep_labels, sequences=sequence_keys)
        folder, overwrite = _folder(path, "path"), check_flag("overwrite", overwrite)
        stream = _open(sequences, options, "sequences", max_rows)
        _write(folder, "path", stream, options, None, overwrite, "sequences")


@contextlib.contextmanager
def _sequences_are_keys() -> Iterator[None]:
    """Makes errors name the argument `sequence_keys`, since `sequences` is the source in `save_sequences`."""
    try:
        yield
    except (ValueError, TypeError) as error:
        text = re.sub(
            r"\bsequences=|`sequences`(?= (must name|names no|must be a key|is empty))", _keys_argument, str(error)
        )
        if text == str(error):
            raise
        raise type(error)(
            *([text] if not isinstance(error, UnclearError) else [text, error.argument, error.question])
        ) from error


def _keys_argument(match: re.Match[str]) -> str:
    return "sequence_keys=" if match[0].endswith("=") else "`sequence_keys`"


def load_sequences(path: str | os.PathLike[str]) -> Any:
    """Maps a folder of `save_sequences`: values are read when they are used, and several processes share the memory.

    Do not write to the files while they are in use: if one becomes shorter under a process that has mapped it, the
    operating system ends that process. `save_sequences(..., overwrite=True)` is safe, as it makes new files.

    Args:
        path: The folder.

    Returns:
        A `StoredSequences` for a folder of sequences, with read-only arrays `sequences[i]`, `len` and `lengths`. For
        one of dicts or tuples, a dict or tuple of these and of arrays with one value per row. Each is a leaf of `x`,
        `y` or `sample_weight`: `BucketedSequence(*load_sequences(path))` for a folder of `(x, y)`.

    Raises:
        FileNotFoundError: If there is no such folder, or its writing was not finished.
        ValueError: If a file is damaged, cut off, not one of numbers, or from another version.

    Example:
        >>> folder = tempfile.mkdtemp() + "/labeled"
        >>> keras_bucketing.save_sequences(folder, [([1, 2, 3], 0), ([4], 1)])
        >>> x, y = keras_bucketing.load_sequences(folder)
        >>> x.lengths.tolist(), x[0].tolist(), y.tolist()
        ([3, 1], [1, 2, 3], [0, 1])
        >>> dataset = keras_bucketing.BucketedSequence(x, y)
    """
    x, y, weights = map_folder(_folder(path, "path"), "path").element
    if weights is not None:
        return x, y, weights
    if y is not None:
        return x, y
    return (x,) if isinstance(x, tuple) else x


def load_lengths(path: Path) -> Lengths:
    """The timesteps of each row's longest sequence in a saved folder."""
    x, _, _ = map_folder(_folder(path, "path"), "path").element
    sequences = [(name_of("x", keys), leaf) for keys, leaf in leaves(x) if isinstance(leaf, StoredSequences)]
    if not sequences:
        raise ValueError("no sequences in this folder.")
    return RowLengths(tuple(LeafLengths(name, leaf.lengths) for name, leaf in sequences)).longest


def read_dataset(
    dataset: Any, cache: str | os.PathLike[str] | None, options: BatchOptions, max_rows: int | None = None
) -> Contents:
    """Reads a stream once, or its cache.

    Args:
        dataset: A source for `open_stream`.
        cache: The folder of the cache, or None.
        options: What the caller said about its elements.
        max_rows: The maximum number of rows to read; None for all.

    Returns:
        The structures of `x`, `y` and `sample_weight`, with leaves for `collect_inputs`, and what else was found.
    """
    folder = None if cache is None else _folder(cache, "cache")
    stream = _open(dataset, options, "dataset", max_rows)
    if folder is None:
        return read_stream(stream, options, lambda _: MemoryStore(), "dataset")
    source = {**stream.describe(), **_as_json(options), "floatx": stored_floatx().name, "max_rows": max_rows}
    with with_argument_name("cache", folder, "read"):
        has_read = not is_finished(folder)
    if has_read:
        try:
            _write(folder, "cache", stream, options, source, False, "dataset")
        except FileExistsError:
            if not is_finished(folder):  # by another process, for which this one has waited
                raise
            has_read = False
    contents = map_folder(folder, "cache")
    _check_same_source(contents.source, source)
    if has_read:
        remember_source(dataset, contents.version)
    elif stream.spec is None:
        check_first_element(dataset, stream, contents)
    found: dict[str, Any] = dict(contents.source or {})
    label_padding = found.get(_LABEL_PADDING)
    if isinstance(label_padding, list):
        label_padding = np.array(label_padding)
    return Contents(contents.element, label_padding, tuple(found.get(_MASKS, ())))


def refuse_data_beside_elements(options: Mapping[str, object]) -> None:
    """Refuses `x`, `y` and `sample_weight` beside a source whose elements hold them."""
    given = [name for name in NAMES if name in options]
    if not given:
        return
    if given == ["x"]:
        raise TypeError(
            "`x` comes from `dataset`, so it cannot be given as well. Pass what is to be read as `dataset`, or "
            "sequences in memory to BucketedSequence(x, y)."
        )
    names = " and ".join(f"`{name}`" for name in given)
    element = "(x, y, sample_weight)" if "sample_weight" in given else "(x, y)"
    raise TypeError(
        f"{names} cannot be given with `dataset`, whose elements hold labels and weights. Let it yield {element}: "
        f"tf.data.Dataset.zip({element.replace('(x', '(dataset')}), or a generator of such tuples, e.g. zip(x, y)."
    )


def _open(source: Any, options: BatchOptions, name: str, max_rows: object) -> Stream:
    if max_rows is None:
        return open_stream(source, options, name)
    most = check_integer("max_rows", max_rows, maximum=INT64_MAX)
    return bound_rows(open_stream(source, options, name, may_be_endless=True), most)


def check_batch_options(
    batched: object,
    mask_value: object,
    padding: object,
    timestep_labels: object,
    labels_align: bool = True,
    label_mask_value: Any = 0,
    sequences: object = None,
) -> BatchOptions:
    """Checks the options about the elements of a stream."""
    return BatchOptions(
        batched=None if batched is None else check_flag("batched", batched),
        timestep_labels=None if timestep_labels is None else check_flag("timestep_labels", timestep_labels),
        padding=None if padding is None else check_choice("padding", padding, ("post", "pre")),
        mask_value=check_mask_value(mask_value),
        labels_align=labels_align,
        label_mask_value=label_mask_value,
        sequences=None if sequences is None else check_keys(sequences),
    )


def _write(
    folder: Path,
    argument: str,
    stream: Stream,
    options: BatchOptions,
    source: Source | None,
    overwrite: bool,
    name: str,
    files: FolderFiles | None = None,
) -> None:
    with FolderWriter(folder, argument, overwrite, files) as writer:
        contents = read_stream(stream, options, writer.new_store, name)
        if source is not None and contents.label_padding is not None:
            padding_of_labels = contents.label_padding
            is_array = isinstance(padding_of_labels, np.ndarray)
            source = {**source, _LABEL_PADDING: padding_of_labels.tolist() if is_array else padding_of_labels}
        if source is not None and contents.masks:
            source = {**source, _MASKS: list(contents.masks)}
        writer.finish(contents.element, source)


def _as_json(options: BatchOptions) -> dict[str, object]:
    """The options by their names; those that 0.2.0 lacked only if they are given."""
    values = {**vars(options)}
    if isinstance(options.mask_value, np.ndarray):
        values["mask_value"] = str(options.mask_value.tolist())  # as text, in which NaN equals NaN
    if isinstance(options.label_mask_value, np.ndarray):
        values["label_mask_value"] = str(options.label_mask_value.tolist())
    if options.sequences is None:
        del values["sequences"]
    else:
        values["sequences"] = list(options.sequences)
    return values


# At least two letters: "C:/data" is a path of Windows. One slash: pathlib makes "gs:/bucket" of "gs://bucket".
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def _folder(path: object, argument: str) -> Path:
    """The real folder of a path, with all links resolved.

    Raises:
        TypeError: If it is not a path.
        ValueError: If it is a URL, or no file system has such a path.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path) or isinstance(os.fspath(path), bytes):
        raise TypeError(
            f"`{argument}` must be the path of a folder. Expected a str or a Path, received {show_typed(path)}."
        )
    text = os.fspath(path)
    if _URL.match(text):
        raise ValueError(
            f"`{argument}` must be the path of a local folder, whose files can be mapped into memory. Received the URL "
            f"{show(text)}. Pass a path, and copy the folder from or to there, e.g. with gsutil or tf.io.gfile."
        )
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        is_possible = False
    else:
        is_possible = "\0" not in text
    if not is_possible:
        raise ValueError(
            f"`{argument}` must be the path of a folder. Received {show(text)}, which holds a character that no path "
            "has. Pass another path."
        )
    folder = Path(os.path.realpath(text))
    if folder == folder.parent:
        raise ValueError(
            f"`{argument}` must be the path of a folder of its own. Received {show(text)}, the root of a file system. "
            "Pass the path of a folder in it."
        )
    return folder


# What a caller passes is another name than what is kept; these are the names in the folders of version 0.2.0.
_PUBLIC_NAMES = {"labels_align": "align_labels", "label_mask_value": "label_padding_value"}


def _check_same_source(cached: Source | None, source: Source) -> None:
    """Refuses a cache of another source, as far as can be seen without reading."""
    if not isinstance(cached, dict):
        raise ValueError(
            "`cache` must be a folder that from_dataset wrote. Received one of save_sequences. Use "
            "BucketedSequence(*load_sequences(path)), or pass another folder."
        )
    for key, expected in source.items():
        received = cached.get(key)
        if received != expected and not (received != received and expected != expected):
            raise ValueError(
                "`cache` belongs to another dataset, or was read in another way. Expected "
                f"{_PUBLIC_NAMES.get(key, key)} {show(expected)}, received {show(received)} in the folder. Remove the "
                "folder, or pass another one."
            )

"""Labels and weights of padded sequences: which hold one value per timestep, and how their padding is removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_bucketing.checks import UnclearError, ask_all, check_number, show
from keras_bucketing.data import tree
from keras_bucketing.data.arrays import as_regular_array
from keras_bucketing.data.rows import rows_from_padded
from keras_bucketing.data.tree import Path, Structure
from keras_bucketing.unpadding.arrays import PaddedSequences, UnpaddedInputs, unpad_arrays
from keras_bucketing.unpadding.batches import Batch, BatchOptions, Spans
from keras_bucketing.unpadding.entries import leaf_name
from keras_bucketing.unpadding.sides import SideOfLengths, SideOfRuns
from keras_bucketing.unpadding.spans import (
    MaskValue,
    OneTimestep,
    Side,
    Span,
    blocks_of,
    equals,
    padding_of,
    real_timesteps,
    runs_at_both_ends,
    span_of_lengths,
)
from keras_bucketing.unpadding.unnoticed import RowSample

_MIN_SLICED_ROWS = 2  # a single label that equals its padding is a coincidence


class LabelPadding:
    """What labels are padded with, and whether their own padding begins before that of their sequences.

    Labels that were sliced after padding, as `padded[:, 1:]` beside `padded[:, :-1]`, end one timestep earlier: the
    last label of every padded row is padding, which would weigh as much as a real one.

    Args:
        is_weighted: Whether there is a sample weight of each timestep, which says what counts.
    """

    def __init__(self, is_weighted: bool = False):
        self._is_weighted = is_weighted
        self._paddings: dict[Path, OneTimestep] = {}
        self._sliced: dict[Path, _SlicedLabels] = {}

    def add(self, path: Path, labels: np.ndarray, span: Span, x: np.ndarray | None) -> None:
        """Takes labels `(num_rows, time, ...)`, what of them is real, and the padded sequences that they belong to."""
        padding = self._paddings.setdefault(path, OneTimestep())
        padding.add_parts(padding_of(labels, span))
        if not self._is_weighted and path[0] == "y" and padding.is_constant and padding.value is not None:
            self._sliced.setdefault(path, _SlicedLabels()).add(labels, span, padding.value, x)

    def check(self) -> None:
        """Refuses labels whose own padding begins before that of their sequences.

        Raises:
            ValueError: If the last label of every padded row is what labels are padded with.
        """
        for path, sliced in self._sliced.items():
            value = self._paddings[path].value
            if not self._paddings[path].is_constant or not sliced.is_certain or value is None:
                continue
            name = leaf_name(path)
            raise ValueError(
                f"`{name}` holds its padding, {show(value.tolist())}, at the last timestep of all {sliced.num_rows} "
                "padded rows, where it would weigh as much as a real label. This happens if labels are sliced after "
                f"padding: x = padded[:, :-1], {name} = padded[:, 1:]. Slice sequences before they are padded, pass a "
                "sample_weight per timestep that is 0 where the label is padding, or lengths that end with the labels."
            )

    def value(self) -> Any:
        """What the labels `y` are padded with: a number, or an array of the shape of a label; None where there is none.

        Raises:
            ValueError: If they are padded with several.
        """
        found: dict[Path, Any] = {}
        for path, padding in self._paddings.items():
            if path[0] != "y" or padding.value is None or not padding.is_constant or not padding.value.size:
                continue
            values = padding.value.reshape(-1)
            found[path] = values[0].item() if equals(values, values[:1]).all() else padding.value
        distinct = {str(np.asarray(value, float).tolist()): path for path, value in found.items()}
        if len(distinct) > 1:
            one, other = list(distinct.values())[:2]
            raise UnclearError(
                f"`label_padding_value` must be given, since labels are padded with several values. Received "
                f"{_shown(found[one])} in `{leaf_name(one)}` and {_shown(found[other])} in `{leaf_name(other)}`. Pass "
                "the one for the batches.",
                "label_padding_value",
                "label_padding_value=..., what batches of labels are padded with",
            )
        return next(iter(found.values()), None)


def _shown(value: Any) -> str:
    return show(value.tolist() if isinstance(value, np.ndarray) else value)


class _SlicedLabels:
    """The labels next to the padding, in all rows that are padded."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._all_are_padding = True
        self._is_elsewhere = False
        self._is_shifted = True

    def add(self, labels: np.ndarray, span: Span, padding: np.ndarray, x: np.ndarray | None) -> None:
        rows = np.flatnonzero((span.lengths > 0) & (span.lengths < span.time))
        last = np.where(span.start[rows] > 0, span.start[rows], span.stop[rows] - 1)
        is_padding = _are_all(labels[rows, last], padding)
        self.num_rows += len(rows)
        self._all_are_padding &= bool(is_padding.all())
        if not self._is_elsewhere:
            found = sum(np.count_nonzero(_are_all(part, padding)) for part in real_timesteps(labels, span))
            self._is_elsewhere = bool(found > np.count_nonzero(is_padding))
        self._is_shifted = self._is_shifted and x is not None and x.shape == labels.shape and _is_shifted(labels, x)

    @property
    def is_certain(self) -> bool:
        """Whether nothing but the slicing explains what all rows show."""
        if not self.num_rows or not self._all_are_padding:
            return False
        return self._is_shifted or (self.num_rows >= _MIN_SLICED_ROWS and not self._is_elsewhere)


def _are_all(timesteps: np.ndarray, value: np.ndarray) -> NDArray[np.bool_]:
    """Which timesteps `(num_timesteps, *features)` equal a value."""
    equal = equals(timesteps, value)
    return np.asarray(equal.all(axis=tuple(range(1, equal.ndim))))


def _is_shifted(labels: np.ndarray, x: np.ndarray) -> bool:
    """Whether each label is the next timestep of `x`."""
    before, after = labels[:, :-1], x[:, 1:]
    return all(bool(equals(before[block], after[block]).all()) for block in blocks_of(before))


def unpad_labels(
    y: Structure,
    sample_weight: Structure,
    unpadded: UnpaddedInputs,
    timestep_labels: bool | None,
    side: Any,
    options: Mapping[str, Any],
    align_labels: bool,
) -> tuple[Structure, Structure, Any]:
    """Labels and weights of `from_padded` without their padding, and what labels were padded with."""
    is_weighted = any(
        isinstance(leaf, tf.RaggedTensor) or len(np.shape(_first_of(leaf))) > 0
        for _, leaf in tree.leaves(sample_weight)
    )
    padding = LabelPadding(is_weighted or options.get("timestep_weights", True) is False)
    own_padding = None if align_labels else (check_label_padding(options.get("label_padding_value", 0)), side)
    own_spans: dict[Path, Span] = {}
    found = [
        labels_from_padded(
            labels,
            unpadded.padded,
            timestep_labels,
            name,
            padding=padding,
            own_lengths=unpadded.label_lengths,
            own_padding=own_padding,
            own_spans=own_spans,
        )
        for name, labels in (("y", y), ("sample_weight", sample_weight))
    ]
    padding.check()
    value = None if "label_padding_value" in options else padding.value()
    return found[0], found[1], value


def unpad_all(
    data: tuple[Structure, Structure, Structure],
    lengths: object,
    mask_value: object,
    padding: str | None,
    sequences: object,
    timestep_labels: bool | None,
    options: Mapping[str, Any],
    align_labels: bool,
) -> tuple[UnpaddedInputs, Structure, Structure, Any]:
    """What `from_padded` makes of `x`, `y` and `sample_weight`, and what labels were padded with.

    Raises:
        UnclearError: If arguments are needed that were not given, with all of them.
    """
    x, y, sample_weight = data

    def unpad(assumed: Mapping[str, Any]) -> tuple[UnpaddedInputs, Structure, Structure, Any]:
        side, of_timesteps = assumed.get("padding", padding), assumed.get("timestep_labels", timestep_labels)
        own = None if align_labels else y
        unpadded = unpad_arrays(x, lengths, mask_value, side, sequences, options.get("maxlen"), own)
        return unpadded, *unpad_labels(y, sample_weight, unpadded, of_timesteps, side, options, align_labels)

    try:
        return unpad({})
    except UnclearError as error:
        raise ask_all(error, {"padding": "post", "timestep_labels": True}, unpad) from None


def check_label_padding(value: Any) -> Any:
    """Returns what labels are padded with: a number, or an array of the shape of a label."""
    return value if isinstance(value, np.ndarray) and value.ndim else check_number("label_padding_value", value)


def _first_of(leaf: Any) -> Any:
    """The first row of a leaf, a number where it has one value per row."""
    try:
        return leaf[0]
    except (TypeError, IndexError, KeyError):
        return 0


def labels_from_padded(
    labels: Structure,
    padded: list[PaddedSequences],
    timestep_labels: bool | None,
    root: str,
    *,
    padding: LabelPadding | None = None,
    own_lengths: Mapping[Path, np.ndarray] | None = None,
    own_padding: tuple[MaskValue, Side | None] | None = None,
    own_spans: dict[Path, Span] | None = None,
) -> Structure:
    """Makes those leaves ragged that hold one label per timestep: `(num_rows, time, ...)`, padded like the sequences.

    Args:
        labels: A leaf, or a dict or tuple of leaves.
        padded: The sequences of `x`.
        timestep_labels: Whether leaves of that shape hold one label per timestep. None: if they hold one constant
            behind the ends of the sequences, as padding is.
        root: Their name in an error message.
        padding: Collects the values that pad the labels.
        own_lengths: Lengths of labels that have their own, by path.
        own_padding: What the padding of such labels holds, and its end; None where labels are as long as sequences.
        own_spans: What is real of such labels, by path: those of `y` are put in, and weights take them out.

    Raises:
        ValueError: If a leaf has that shape but no padding, so that its second axis may be classes or outputs; or if it
            may belong to either of two entries of `x`.
    """
    noted = LabelPadding() if padding is None else padding
    lengths, of_labels = own_lengths or {}, {} if own_spans is None else own_spans

    def convert(path: Path, leaf: Any) -> Any:
        at, array = (root, *path), _regular(leaf)
        if array is not None and own_padding is not None and root != "y":
            span = span_of_weights(at, array, of_labels)
            if span is not None:
                return rows_from_padded(array, span.start, span.lengths)
        if array is None or (timestep_labels is False and at not in lengths):
            return leaf
        shape = array.shape[:2]
        labeled = [sequences for sequences in padded if sequences.array.shape[:2] == shape and not sequences.is_mask]
        if own_padding is not None and root == "y":
            span = of_labels[at] = OwnLengths(at, *own_padding).span(array, lengths.get(at), 0)
            return rows_from_padded(array, span.start, span.lengths)
        if not labeled:
            return leaf
        name = leaf_name(at)
        distinct = _distinct(labeled)
        fitting = [sequences for sequences in distinct if sequences.span.leaves_a_constant(array)]
        if timestep_labels is None and all((sequences.lengths == sequences.time).all() for sequences in fitting):
            raise _unclear(array, distinct, name)
        if not fitting:
            raise labels_beyond(name, distinct[0].name, "")
        sequences = _only_one(array, fitting, name)
        noted.add(at, array, sequences.span, sequences.array)
        return rows_from_padded(array, sequences.span.start, sequences.lengths)

    tree.check_structure(labels, root)
    return tree.map_leaves(convert, labels)


def span_of_weights(path: Path, weights: np.ndarray, of_labels: Mapping[Path, Span]) -> Span | None:
    """What is real of the weights of labels that have lengths of their own; None where they are no such weights."""
    at = ("y", *path[1:])
    found = of_labels.get(at) or (next(iter(of_labels.values())) if len(of_labels) == 1 and len(path) == 1 else None)
    if found is None or weights.shape[:2] != (len(found.start), found.time):
        return None
    return found


def _regular(leaf: Any) -> np.ndarray | None:
    """An array of two axes or more, also of nested lists; None for anything else."""
    if isinstance(leaf, (list, tuple)) and leaf and isinstance(leaf[0], (list, tuple, np.ndarray)):
        try:
            array = np.asarray(leaf)
        except ValueError:  # of uneven shape
            return None
        return array if array.ndim >= 2 and array.dtype.kind in "biuf" else None
    if isinstance(leaf, tf.RaggedTensor) or len(tuple(getattr(leaf, "shape", ()))) < 2:
        return None
    return as_regular_array(leaf, "labels", "Give every row the same shape.")


class OwnLengths:
    """Where labels of their own length stop: by their lengths, or by what their padding holds.

    Args:
        path: Where the labels are.
        mask_value: What their padding holds.
        padding: The end that is padded, or None.
    """

    def __init__(self, path: Path, mask_value: MaskValue, padding: Side | None):
        self._name, self._mask_value = leaf_name(path), mask_value
        self._of_runs = SideOfRuns(self._name, mask_value, padding)
        self._of_lengths = SideOfLengths(padding, mask_value)
        self._sample = RowSample()

    def span(self, labels: np.ndarray, lengths: np.ndarray | None, first_row: int) -> Span:
        """What is real of some rows `(num_rows, time, ...)`.

        Raises:
            ValueError: If it is not certain which end is padded, or a length is out of range.
        """
        time = labels.shape[1]
        if lengths is None:
            runs = runs_at_both_ends(labels, self._mask_value)
            self._of_runs.add(runs, time, first_row)
            side = self._of_runs.decide()
            self._sample.add(labels, time - runs[side])
            return span_of_lengths(time - runs[side], time, side)
        lengths = np.asarray(lengths).astype(np.int64)
        wrong = (lengths < 0) | (lengths > time)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(
                f"The lengths of `{self._name}` must not exceed the padded length. Expected at most {time}, received "
                f"{lengths[at]} in row {first_row + at}. Correct them, or rename the entry if it is not a length."
            )
        self._of_lengths.add(self._name, labels, lengths)
        return span_of_lengths(lengths, time, self._of_lengths.decide(self._name, labels, lengths))

    def message(self) -> str | None:
        """A warning of padding that was not noticed."""
        message = self._sample.message(self._name, self._mask_value)
        return None if message is None else message.replace("mask_value", "label_padding_value")


def _distinct(padded: list[PaddedSequences]) -> list[PaddedSequences]:
    """One for each padding, where entries of `x` are padded alike."""
    distinct: list[PaddedSequences] = []
    for sequences in padded:
        if not any(sequences.span.is_like(known.span) for known in distinct):
            distinct.append(sequences)
    return distinct


def _only_one(array: np.ndarray, fitting: list[PaddedSequences], name: str) -> PaddedSequences:
    """The only padding that fits; of several, the one that is followed to the last timestep."""
    if len(fitting) == 1:
        return fitting[0]
    exact = [sequences for sequences in fitting if _ends_with_data(array, sequences)]
    if len(exact) == 1:
        return exact[0]
    raise ValueError(
        f"`{name}` may hold one label per timestep of `{fitting[0].name}` or of `{fitting[1].name}`, which have the "
        f"same shape but other lengths. Received shape {array.shape}. Pass it without its padding, as a "
        "tf.RaggedTensor or a list of arrays, or timestep_labels=False if it holds one value per row."
    )


def _ends_with_data(array: np.ndarray, sequences: PaddedSequences) -> bool:
    """Whether the labels next to the padding are, in every row, other than the padding; so are all where none is."""
    padding = next((part for part in padding_of(array, sequences.span) if len(part)), None)
    rows = np.flatnonzero((sequences.lengths > 0) & (sequences.lengths < sequences.time))
    if padding is None:
        return True
    if not len(rows):
        return False
    last = sequences.span.stop[rows] - 1 if sequences.side == "post" else sequences.span.start[rows]
    return not _are_all(array[rows, last], padding[0]).any()


def labels_beyond(name: str, owner: str, where: str) -> ValueError:
    """The error where labels hold something behind the end of their sequences."""
    return ValueError(
        f"`{name}` holds labels where `{owner}` is padded{where}. Received more than one value there. If timesteps of "
        "x that look like padding are real, say what padding holds, mask_value=..., or add an entry 'lengths' to x; "
        "if these are values of a row, pass timestep_labels=False."
    )


def _unclear(array: np.ndarray, padded: list[PaddedSequences], name: str) -> UnclearError:
    time = array.shape[1]
    is_padded = any((sequences.lengths < time).any() for sequences in padded)
    return UnclearError(
        f"`{name}` may hold one label per timestep, or {time} values per row, as one-hot labels do: received shape "
        f"{array.shape} for sequences padded to {time}, {'without one' if is_padded else 'with no'} constant in the "
        "padding. Pass timestep_labels=True or timestep_labels=False.",
        "timestep_labels",
        f"timestep_labels=True if `{name}` holds one label per timestep, timestep_labels=False if it holds {time} "
        "values per row",
    )


# Labels and weights of timesteps in padded batches: which sequences they belong to, and where they end.


class PaddedLabels:
    """Finds the leaf of `x` whose lengths the padded labels have.

    Args:
        padded: Paths of the padded leaves of `y` and `sample_weight`.
        candidates: Paths of the leaves of `x` that they may belong to.
        options: What the caller said.
        lengths: The paths of the lengths of labels that have their own.
        is_weighted: Whether there is a sample weight of each timestep.
    """

    def __init__(
        self,
        padded: list[Path],
        candidates: list[Path],
        options: BatchOptions,
        lengths: Mapping[Path, Path],
        is_weighted: bool,
    ):
        self._padded, self._candidates = padded, candidates
        self._owners: dict[Path, list[Path]] = {}  # those that fit all batches so far; the first one is used
        self._own = {path: OwnLengths(path, options.label_mask_value, options.padding) for path in padded}
        self._own_lengths = lengths
        self._own_spans: dict[Path, Span] = {}  # of the labels of a batch
        self._options = options
        self.padding = LabelPadding(is_weighted)

    def align(self, batches: list[tuple[Batch, Spans]]) -> None:
        """Chooses the leaf of `x` for each of the labels, by what the first batches look like.

        Args:
            batches: The leaves, and what is real in the padded ones of `x`.

        Raises:
            ValueError: If there is none, or none is certain.
        """
        for path in self._padded:
            if path in self._own_lengths or not self._options.labels_align:
                continue
            fitting = self._fitting(path, batches)
            if fitting and _all_equal(fitting, batches):
                self._owners[path] = fitting
            else:
                raise self._unclear(path, bool(fitting), np.shape(batches[0][0][path]))

    def _unclear(self, path: Path, are_several: bool, shape: tuple[int, ...]) -> ValueError:
        return ValueError(
            f"`{leaf_name(path)}` seems to be padded, but its timesteps may belong to "
            f"{'several leaves' if are_several else 'no leaf'} of `x`. Received shape {shape} in element 0. Pass "
            "timestep_labels=False if it holds values of a row, align_labels=False if it has lengths of its own, as "
            "transcripts and translations do, or single sequences instead of padded batches."
        )

    def _fitting(self, path: Path, batches: list[tuple[Batch, Spans]]) -> list[Path]:
        """The leaves of `x` of the labels' shape; of unlike ones, those beyond whose ends the labels are constant."""
        fitting = [
            owner
            for owner in self._candidates
            if all(_shape(_span(owner, *batch)) == np.shape(batch[0][path])[:2] for batch in batches)
        ]
        if _all_equal(fitting, batches):
            return fitting
        return [
            owner
            for owner in fitting
            if all(_span(owner, *batch).leaves_a_constant(batch[0][path]) for batch in batches)
        ]

    def span(self, path: Path, batch: Batch, spans: Spans, first_row: int) -> Span:
        """What is real in the labels of a batch.

        Raises:
            ValueError: If they hold something where their sequences have ended.
        """
        if path not in self._owners:
            return self._own_span(path, batch, first_row)
        if len(self._owners[path]) > 1 and not _all_equal(self._owners[path], [(batch, spans)]):
            used, fitting = self._owners[path], self._fitting_of(path, batch, spans)
            if not fitting or not _all_equal(fitting, [(batch, spans)]) or used[0] not in fitting:
                raise self._unclear(path, True, np.shape(batch[path]))
            self._owners[path] = fitting
        owner = self._owners[path][0]
        span = _span(owner, batch, spans)
        if batch[path].shape[1] != span.time:
            return span
        if not span.leaves_a_constant(batch[path]):
            raise labels_beyond(leaf_name(path), leaf_name(owner), f", in the batch at row {first_row}")
        self.padding.add(path, batch[path], span, batch[owner] if owner in spans else None)
        return span

    def _own_span(self, path: Path, batch: Batch, first_row: int) -> Span:
        if path[0] != "y":
            span = span_of_weights(path, batch[path], self._own_spans)
            if span is not None:
                return span
        at = self._own_lengths.get(path)
        lengths = None if at is None else batch[at]
        span = self._own_spans[path] = self._own[path].span(batch[path], lengths, first_row)
        return span

    def _fitting_of(self, path: Path, batch: Batch, spans: Spans) -> list[Path]:
        return [owner for owner in self._owners[path] if _span(owner, batch, spans).leaves_a_constant(batch[path])]

    def finish(self) -> list[str]:
        """Checks what only all batches show, and returns warnings of padding that was not noticed.

        Raises:
            ValueError: If labels were sliced after padding.
        """
        self.padding.check()
        return [message for own in self._own.values() if (message := own.message()) is not None]


def _span(owner: Path, batch: Batch, spans: Spans) -> Span:
    if owner in spans:
        return spans[owner]
    leaf = batch[owner]
    lengths = leaf.row_lengths().numpy() if isinstance(leaf, tf.RaggedTensor) else np.array([len(row) for row in leaf])
    return Span(np.zeros_like(lengths), lengths, int(lengths.max(initial=0)))


def _shape(span: Span) -> tuple[int, int]:
    return len(span.start), span.time


def _all_equal(owners: list[Path], batches: list[tuple[Batch, Spans]]) -> bool:
    return all(_span(owner, *batch).is_like(_span(owners[0], *batch)) for owner in owners[1:] for batch in batches)

"""Checks of plain arguments, with one style of message: argument, expected, received, fix; never a long one."""

from __future__ import annotations

import contextlib
import inspect
import operator
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

INT32_MAX = int(np.iinfo(np.int32).max)
INT64_MAX = int(np.iinfo(np.int64).max)

_MAX_CHARACTERS = 200  # of what a message shows of a value, so that no message is longer than a screen

_LINE_BREAKS = re.compile(r"\s*\n\s*")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 120
_repr.maxlevel = 3


def show(value: object) -> str:
    """A value in an error message: its `repr`, shortened if it is long.

    Example:
        >>> show([1, 2, 3])
        '[1, 2, 3]'
        >>> show(list(range(1000)))
        '[0, 1, 2, 3, 4, 5, ...]'
    """
    try:
        if isinstance(getattr(value, "shape", None), tuple) and getattr(value, "size", 0) != 1:
            return f"an array of shape {value.shape}"  # type: ignore[attr-defined]
        return shorten(_repr.repr(value))
    except Exception:  # of a class of the user's, or an integer of more than 4,300 digits, which Python does not print
        return f"a {type(value).__name__} that cannot be printed"


def show_typed(value: object) -> str:
    """The same with its type behind it: `1.5 (float)`."""
    return f"{show(value)} ({type(value).__name__})"


def shorten(text: str, max_characters: int = _MAX_CHARACTERS) -> str:
    """Text in an error message on one line, cut in the middle if it is long.

    Example:
        >>> shorten("a" * 1000, max_characters=10)
        'aaaaa ... aaaaa'
    """
    if len(text) > max_characters:
        half = max_characters // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return _LINE_BREAKS.sub(" ", text)


def list_some(texts: Sequence[str], number: int = 4) -> str:
    """The first of several texts in an error message, each shortened, and the number of the others.

    Example:
        >>> list_some(["a", "b", "c", "d", "e", "f"])
        'a, b, c, d and 2 more'
    """
    shown = ", ".join(shorten(text, _MAX_CHARACTERS // 2) for text in texts[:number])
    return shown + (f" and {len(texts) - number} more" if len(texts) > number else "")


class UnclearError(ValueError):
    """Two readings of the data are possible, and an argument decides between them.

    Attributes:
        argument: The argument.
        question: What to pass for each reading.
    """

    def __init__(self, message: str, argument: str, question: str):
        super().__init__(message)
        self.argument, self.question = argument, question


def ask_all(
    error: UnclearError, assumed: Mapping[str, Any], attempt: Callable[[dict[str, Any]], object]
) -> UnclearError:
    """Adds everything else that is unclear to the error, so that the user can answer all of it at once.

    Args:
        error: The first unclear point.
        assumed: The values to assume, argument by argument, to find further ones.
        attempt: Function that tries again, with the values assumed so far.
    """
    asked = {error.argument: error.question}
    latest, so_far = error, dict[str, Any]()
    while latest.argument in assumed:
        so_far[latest.argument] = assumed[latest.argument]
        try:
            attempt(so_far)
            break
        except UnclearError as another:
            if another.argument in asked:
                break
            asked[another.argument], latest = another.question, another
        except (TypeError, ValueError):  # not what is assumed
            break
    others = [question for argument, question in asked.items() if argument != error.argument]
    if not others:
        return error
    when = "If it is a batch, pass as well" if error.argument == "batched" else "Pass as well"
    return UnclearError(f"{error} {when}: {'; '.join(others)}.", error.argument, error.question)


def write_text(stream: TextIO | None, text: str) -> None:
    """Writes to standard output or error; does nothing if it is missing, as in pythonw, or closed."""
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.write(text)
            stream.flush()


def count_of(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun.

    Example:
        >>> count_of(1, "batch", "batches"), count_of(3, "batch", "batches"), count_of(2, "row")
        ('1 batch', '3 batches', '2 rows')
    """
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def can_hold(dtype: np.dtype[Any], number: float) -> bool:
    """Whether an array of this dtype can hold a number: whole and within the limits, or finite, infinite or NaN.

    Example:
        >>> can_hold(np.dtype("uint8"), 255), can_hold(np.dtype("uint8"), -1), can_hold(np.dtype("float16"), 1e6)
        (True, False, False)
    """
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            stored = dtype.type(number)
        return bool(np.isfinite(stored)) or not np.isfinite(float(number))
    if number != number or number in (float("inf"), -float("inf")):
        return False
    lowest, highest = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return lowest <= number <= highest and number == int(number)


def check_no_arguments(name: str, function: Callable[..., object]) -> None:
    """Refuses a function that cannot be called without arguments, to make an iterator for each pass."""
    try:
        inspect.signature(function).bind()
    except ValueError:  # of some functions in C, no signature is known
        return
    except TypeError as error:
        of_function = getattr(function, "__name__", type(function).__name__)
        raise TypeError(
            f"`{name}` must be callable without arguments, to make an iterator for each pass. Received {of_function}, "
            f"{error}. Pass lambda: {of_function}(...), or the generator that it returns."
        ) from error


def check_integer(name: str, value: Any, minimum: int = 1, maximum: int = INT32_MAX, fix: str = "") -> int:
    """Returns `value` as an `int`, refusing booleans, fractions and values out of range."""
    hint = f" {fix}" if fix else ""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"`{name}` must be an integer. Expected an int >= {minimum}, received {show_typed(value)}.{hint}"
        ) from None
    if number < minimum:
        raise ValueError(f"`{name}` is too small. Expected an int >= {minimum}, received {show(number)}.{hint}")
    if number > maximum:
        raise ValueError(f"`{name}` is too large. Expected an int <= {maximum}, received {show(number)}.{hint}")
    return number


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """Returns `value` if it is one of `choices`."""
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a string. Expected one of {list(choices)}, received {show_typed(value)}.")
    if value not in choices:
        raise ValueError(f"`{name}` is unknown. Expected one of {list(choices)}, received {show(value)}.")
    return value


def check_flag(name: str, value: object) -> bool:
    """Returns `value` as a `bool`, refusing values that are only truthy."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{name}` must be a boolean. Expected True or False, received {show_typed(value)}.")
    return bool(value)


def check_number(name: str, value: object) -> bool | int | float:
    """Returns `value` as a Python number; accepts NumPy scalars."""
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, (bool, int, float)):
        raise TypeError(f"`{name}` must be a number. Expected a bool, int or float, received {show_typed(value)}.")
    if isinstance(value, int) and abs(value) >= 2**64:
        raise ValueError(f"`{name}` must be a number of at most 64 bits. Received an int of {value.bit_length()} bits.")
    return value


def check_flat_list(name: str, values: Any) -> list[Any]:
    """Returns the entries of a list, tuple or flat array of integers; the entries are not checked."""
    is_flat = isinstance(values, Sequence) or (isinstance(values, np.ndarray) and values.ndim == 1)
    if isinstance(values, (str, bytes)) or not is_flat:
        raise TypeError(f"`{name}` must be a flat list of integers. Received {show_typed(values)}.")
    return list(values)


def check_lengths(lengths: Any, name: str = "lengths", minimum: int = 1) -> NDArray[np.int64]:
    """Returns sequence lengths as an int64 array of shape `(num_sequences,)`.

    Floats are accepted if all of them are whole numbers, as from text files.
    """
    try:
        array = np.asarray(lengths)
    except ValueError as error:
        raise TypeError(
            f"`{name}` must be a flat list of integers. Received a nested list of uneven shape. Pass one number a "
            "sequence, e.g. [len(sequence) for sequence in x]."
        ) from error
    if array.ndim != 1:
        raise ValueError(
            f"`{name}` must have one dimension. Expected shape (num_sequences,), received shape {array.shape}. Pass "
            "one number per sequence, e.g. [len(sequence) for sequence in x]."
        )
    if array.size == 0:
        raise ValueError(f"`{name}` is empty. Expected at least one length.")
    if array.dtype.kind not in "iuf":
        raise TypeError(
            f"`{name}` must be integers. Received dtype {array.dtype} (first entry {show(array.tolist()[0])}). Pass "
            "one number per sequence, e.g. [len(sequence) for sequence in x]."
        )
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (array == np.floor(array))
        if not whole.all():
            at = int(np.argmin(whole))
            raise ValueError(
                f"`{name}` must be whole numbers of timesteps. Received {array[at]!s} at {name}[{at}]. Correct or "
                "drop that sequence."
            )
    small = array < minimum
    if small.any():
        at = int(np.argmax(small))
        raise ValueError(
            f"`{name}` must be at least {minimum}. Received {array[at]!s} at {name}[{at}]. Correct or drop that "
            "sequence."
        )
    large = array > INT32_MAX
    if large.any():
        at = int(np.argmax(large))
        raise ValueError(f"`{name}` must be below 2**31. Received {array[at]!s} at {name}[{at}].")
    return array.astype(np.int64)


def check_verbose(verbose: object) -> int:
    """Returns 0, 1 or 2, as `verbose` of `fit`, where "auto" is 1."""
    if isinstance(verbose, str) and verbose == "auto":
        return 1
    return check_integer("verbose", verbose, minimum=0, maximum=2, fix="0 is silent, 1 and 'auto' show a progress bar.")

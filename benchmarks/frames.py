"""Tables in long format: a million sequences of ten million rows, beside one stable argsort of their ids.

Five float64 features, an int64 id and a float64 label. The rows of a sequence follow one another, or all rows are mixed
and sorted by a time. `from_dataframe` and the argsort take turns; the former is measured until the dataset can be
iterated over. Ids are int64, or text as pandas' categories.

    python -m benchmarks.frames
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.tables import Record, Table, median, times
from keras_bucketing import BucketedSequence

FEATURES = ["f1", "f2", "f3", "f4", "f5"]
ARGSORT = "argsort of the ids"


def main() -> None:
    """Measures, prints, writes."""
    arguments = harness.parse_arguments(__doc__)
    num_groups, num_rows, rounds = (100, 1_000, 2) if arguments.quick else (1_000_000, 10_000_000, 3)
    results = {}
    for name, frame in frames(num_groups, num_rows):
        figures = harness.interleave(contenders(frame), rounds)
        results[name] = {
            "argsort": harness.spread_of(figures[ARGSORT]),
            "seconds": harness.spread_of(figures[name_of(frame)]),
            "times_argsort": harness.ratios_within_rounds(figures[name_of(frame)], figures[ARGSORT]),
        }
    record = {"rounds": rounds, "groups": num_groups, "rows": num_rows, "results": results}
    harness.publish(arguments.output, "frames", record, tables)
    harness.write_picture(arguments.output, "frames", lambda axes: draw(axes, results))


def tables(record: Record) -> list[Table]:
    """The seconds, and their multiple of the argsort's."""
    return [
        Table(
            "frames",
            f"from_dataframe: {record['groups']:,} sequences of {record['rows']:,} rows",
            ["table", "argsort of the ids, s", "`from_dataframe`, s", "x argsort"],
            [
                [name, median(row["argsort"]), median(row["seconds"]), times(row["times_argsort"][0])]
                for name, row in record["results"].items()
            ],
            note=f"Medians over {record['rounds']} rounds; ratios are formed within a round.",
        )
    ]


def frames(num_groups: int, num_rows: int) -> Any:
    """Names and tables, one at a time."""
    import pandas
    import polars
    import pyarrow

    rng = np.random.default_rng(0)
    ids = np.concatenate([np.arange(num_groups), rng.integers(0, num_groups, num_rows - num_groups)])
    rng.shuffle(ids)
    mixed = pandas.DataFrame({"id": ids, "time": np.arange(num_rows), "label": ids % 2 * 1.0})
    mixed = mixed.assign(**{name: rng.normal(size=num_rows) for name in FEATURES})
    yield "pandas, rows mixed", mixed
    yield "polars, rows mixed", polars.from_pandas(mixed)
    yield "Arrow, rows mixed", pyarrow.Table.from_pandas(mixed)
    yield "pandas, categories, rows mixed", mixed.assign(id=mixed["id"].astype("category"))
    yield "pandas, times mixed too", mixed.assign(time=rng.permutation(num_rows))
    yield "pandas, ids in groups, which are mixed", in_groups(mixed, rng, num_groups)
    # Here an argsort has next to nothing to do: it finds one run.
    yield "pandas, ids in order", in_order(mixed)


def in_groups(frame: Any, rng: np.random.Generator, num_groups: int) -> Any:
    """The rows of a sequence next to one another."""
    renamed = frame.assign(id=rng.permutation(num_groups)[frame["id"]])
    return renamed.iloc[np.argsort(frame["id"].to_numpy(), kind="stable")].reset_index(drop=True)


def in_order(frame: Any) -> Any:
    """Sorted by id and time."""
    return frame.iloc[np.argsort(frame["id"].to_numpy(), kind="stable")].reset_index(drop=True)


def name_of(frame: Any) -> str:
    """What its contender is called."""
    return f"from_dataframe, {type(frame).__module__}"


def contenders(frame: Any) -> dict[str, Callable[[], float]]:
    """Functions that return the seconds they took."""
    column = frame["id"]
    ids = np.asarray(
        column.cat.codes if str(column.dtype if hasattr(column, "dtype") else "") == "category" else column
    )

    def argsort() -> float:
        begin = time.perf_counter()
        np.argsort(ids, kind="stable")
        return time.perf_counter() - begin

    def from_dataframe() -> float:
        begin = time.perf_counter()
        BucketedSequence.from_dataframe(frame, by="id", x=FEATURES, y="label", sort_by="time")
        return time.perf_counter() - begin

    return {ARGSORT: argsort, name_of(frame): from_dataframe}


def draw(axes: Any, results: dict[str, Any]) -> None:
    """The seconds of both, a line a table."""
    for position, row in enumerate(results.values()):
        axes[0].plot([row["argsort"][0], row["seconds"][0]], [position] * 2, "o-", color="0.4")
    axes[0].set_yticks(range(len(results)), list(results))
    axes[0].set(xlabel="seconds: one argsort of the ids, from_dataframe", xscale="log")


if __name__ == "__main__":
    main()

"""What docs/benchmarks.md shows: six tables, and above each of them a chart of the same records.

`PAGE` holds one entry for each. All other tables are on the pages of docs/decisions/; to show one more here, add an
entry, and the table and the chart to the page. `python -m benchmarks.update_docs` writes both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks import training, transformer_training
from benchmarks.harness import spread_of
from benchmarks.svg import Bar, Curve, draw_bars, draw_curves
from benchmarks.tables import Record, Table, median, significant

_OURS = "Bucketed"  # is in the names of our datasets and streams


class Entry(NamedTuple):
    """A chart, and the table below it.

    Attributes:
        records: One str or more, the benchmarks of which they are made.
        chart: Function of these records that returns the chart as SVG.
        table: Function of these records that returns the table; None if a benchmark has it among its `tables`.
    """

    records: tuple[str, ...]
    chart: Callable[..., str]
    table: Callable[..., Table] | None = None


def draw_charts(records: Mapping[str, Record]) -> dict[str, str]:
    """The chart of each entry as SVG, by the name of its table."""
    return {name: entry.chart(*(records[record] for record in entry.records)) for name, entry in PAGE.items()}


def make_training_table(lstm: Record, transformer: Record) -> Table:
    """All ways to train the LSTM, and ours to train the Transformer, each beside the ways of the same model."""
    (table,), (of_transformer,) = training.tables(lstm), transformer_training.tables(transformer)
    rows = [
        *([f"LSTM: {batches}", *cells] for batches, *cells in table.rows),
        *([f"Transformer: {batches}", *cells] for batches, *cells in of_transformer.rows if _OURS in batches),
    ]
    return table._replace(name="training_models", header=["model: batches", *table.header[1:]], rows=rows)


def _draw_training(lstm: Record, transformer: Record) -> str:
    return draw_bars(
        (
            f"{model}: seconds an epoch",
            [_bar(name, row["seconds_per_epoch"][0]) for name, row in record["results"].items()],
        )
        for model, record in (("LSTM", lstm), ("Transformer", transformer))
    )


def _draw_reading(record: Record) -> str:
    return draw_bars(
        (
            f"Thousand sequences a second: {data}",
            [_bar(name, row["sequences_per_second"][0] / 1000) for name, row in record["headlines"][data].items()],
        )
        for data in ("ids, 32 rows", "ids, 128 rows")
    )


def _draw_data_on_disk(record: Record) -> str:
    results = record["results"]
    return draw_bars(
        [
            (
                "Thousand sequences a second, from the page cache",
                [_bar(name, row["warm"][0] / 1000) for name, row in results.items()],
            ),
            (
                f"MB of memory, for {record['megabytes']:,.0f} MB of data",
                [_bar(name, row["megabytes"], f"{row['megabytes']:,.0f}") for name, row in results.items()],
            ),
        ]
    )


def _draw_scale(record: Record) -> str:
    rows = [(f"{row['sequences']:,} sequences, {row['source']}", row) for row in record["results"]]
    seconds = {"Seconds of construction": "construction_seconds", "Seconds to the first batch": "first_batch_seconds"}
    return draw_bars(
        [
            *(
                (title, [_bar(name, row[figure][0], median(row[figure]), is_ours=True) for name, row in rows])
                for title, figure in seconds.items()
            ),
            (
                "Memory in the steady state, as a multiple of the values",
                [_bar(name, row["steady_ratio"], f"{row['steady_ratio']:.2f} x", is_ours=True) for name, row in rows],
            ),
        ]
    )


def _draw_randomness(record: Record) -> str:
    curves = [
        Curve(
            name,
            [
                (
                    row["padding_efficiency"],
                    row["repeated_pairs"] / row["repeated_pairs_random"],
                    f"{row['buckets']} bucket" + "s" * (row["buckets"] > 1),
                )
                for row in sorted(choices, key=lambda row: int(row["buckets"]))
            ],
        )
        for name, choices in record["results"].items()
    ]
    return draw_curves(curves, "padding efficiency", "Repeated pairs, as a multiple of random batches")


def _draw_sizes(record: Record) -> str:
    return draw_bars(
        (
            f"{model}: seconds an epoch" + (" (line: predicted)" if figures["predicted"] else ""),
            [
                _bar(name, spread_of(seconds).median, is_ours="tuned" in name, mark=figures["predicted"].get(name))
                for name, seconds in figures["seconds"].items()
            ],
        )
        for model, figures in record["epochs"].items()
    )


def _bar(
    name: str, figure: float, text: str | None = None, *, is_ours: bool | None = None, mark: float | None = None
) -> Bar:
    return Bar(name, figure, text or significant(figure), _OURS in name if is_ours is None else is_ours, mark)


PAGE: dict[str, Entry] = {
    "training_models": Entry(("training", "transformer_training"), _draw_training, make_training_table),
    "pipeline": Entry(("pipeline",), _draw_reading),
    "larger_than_memory": Entry(("larger_than_memory",), _draw_data_on_disk),
    "scale": Entry(("scale",), _draw_scale),
    "randomness": Entry(("randomness",), _draw_randomness),
    "tuned_sizes": Entry(("tuned_sizes",), _draw_sizes),
}

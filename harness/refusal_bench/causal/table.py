"""Every score and KL behind the causal tables, one line a prompt and row, as Parquet; docs/causal.md has the schema."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence

from refusal_bench.causal.column import Column, Observation
from refusal_bench.tasks.schema import LABELS, Label

UNDER = {
    "ablated_harmful": "ablated",
    "ablated_harmless": "ablated",
    "added_harmless": "added",
    "parts": "ablated",
    "dose_added_harmful": "added_share",
    "dose_added_harmless": "added_share",
    "dose_ablated_harmful": "ablated_share",
    "dose_ablated_harmless": "ablated_share",
    "affine_harmful": "ablated_to_mean",
    "affine_harmless": "ablated_to_mean",
}
"""What is done to the model in each batch of rows."""


def parquet(columns: Mapping[str, Column], ids: Mapping[str, Mapping[Label, Sequence[str]]]) -> bytes:
    """Return the file; `ids` holds each task's held-out prompt ids by label."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("task", "label", "id", "under", "row", "verdict", "score", "kl")
    cells: dict[str, list[object]] = {name: [] for name in names}
    for name, column in columns.items():
        for label, under, row, found in observations(column, name):
            n = len(found["scores"])
            # A harmful prompt's KL is not measured: it is held as zero.
            kl = [None] * n if label == "harmful" or under == "none" else found["kl"]
            verdict = list(found["labels"]) if "labels" in found else [None] * n
            where = ([name] * n, [label] * n, ids[name][label], [under] * n, [row] * n)
            for key, values in zip(names, (*where, verdict, found["scores"], kl), strict=True):
                cells[key].extend(values)
    kinds = {name: pa.string() for name in names} | {"score": pa.float64(), "kl": pa.float64()}
    file = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(cells[name], kinds[name]) for name in names}), file)
    return file.getvalue()


def observations(column: Column, name: str) -> Iterator[tuple[Label, str, str, Observation]]:
    """Yield (label, what is done, row, observation) of everything in a domain's column."""
    for label in LABELS:
        yield label, "none", "none", column[f"baseline_{label}"]
    yield "harmless", "ablated", name, column["ablated_harmless"]
    for row, found in column["ablated"].items():
        yield "harmful", "ablated", row, found
    for row, found in column["added"].items():
        yield "harmless", "added", row, found
    for batch, rows in column["scored"].items():
        label = "harmless" if batch.endswith("harmless") else "harmful"
        for row, found in rows.items():
            if (batch, row) != ("ablated_harmless", name):  # measured with text above
                yield label, UNDER[batch], row, found

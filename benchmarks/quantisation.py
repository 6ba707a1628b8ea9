"""What quantisation does to the directions: runs of one model in several precisions, each against each.

    python benchmarks/quantisation.py RUN_DIR RUN_DIR... --json

Directions are read at the first run's common site, or at --site LAYER POSITION (a quick run's choice of one is noisy).
A record holds no residual stream, so that of the train pairs is read again, in each run's precision (a minute a run for
the demo model). A cosine's interval is a jackknife over train pairs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from refusal_bench.backends.hf import HookBackend
from refusal_bench.comparison.geometry import geometry_measurements
from refusal_bench.comparison.sources import find
from refusal_bench.config import RunConfig
from refusal_bench.errors import InputError
from refusal_bench.metrics.statistics import jackknife_error
from refusal_bench.models.loading import load_model
from refusal_bench.observation import Residuals, read_residuals
from refusal_bench.prompts import planted_prompts, render_tasks
from refusal_bench.record import Record, Site
from refusal_bench.tasks import load_tasks
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import t

Differences = Mapping[str, Float[ndarray, "pair d_model"]]
"""Harmful minus harmless of every train pair, by domain."""


@dataclass(frozen=True)
class Cosine:
    """Cosine of one domain's directions in two precisions."""

    value: float
    """As measured: biased low, because each direction's own rounding is noise in it."""
    corrected: float
    """Without the jackknife's estimate of that bias; at most 1."""
    ci95: tuple[float, float]
    """Of the corrected cosine, at most 1."""
    n: int
    """Pairs behind it."""


def paired_cosine(one: Float[ndarray, "pair d_model"], other: Float[ndarray, "pair d_model"]) -> Cosine:
    """Cosine of two means over the same pairs, with the jackknife's correction and t interval.

    A bootstrap would count the noise of rounding twice: near 1 its whole interval lies below what was measured.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11.
    """
    n = len(one)
    a, b = (np.vstack([rows.sum(axis=0), rows.sum(axis=0) - rows]) for rows in (one, other))
    cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    corrected = n * cosines[0] - (n - 1) * cosines[1:].mean()
    half = t.ppf(0.975, n - 1) * jackknife_error(cosines[1:])
    low, high = np.minimum([corrected - half, corrected + half], 1)
    return Cosine(float(cosines[0]), float(min(corrected, 1)), (float(low), float(high)), n)


def precision(record: Record) -> str:
    """What sets one run apart from the others."""
    model = record.model
    return model.dtype if model.quantization == "none" else f"{model.quantization} ({model.dtype})"


def common_site(record: Record) -> Site:
    """The site at which the run compared its domains; InputError without one."""
    geometry = record.results.geometry
    if geometry is None or geometry.site.layer is None or geometry.site.position is None:
        raise InputError(f"run {record.run_id} has no common site; give first a run that found directions.")
    return Site(layer=geometry.site.layer, position=geometry.site.position)


def read_differences(record: Record, site: Site) -> Differences:
    """Read the stream of a run's train pairs again, as the run did."""
    config = RunConfig.model_validate({k: v for k, v in record.config.items() if k in RunConfig.model_fields})
    tasks = load_tasks(config.tasks, config.tasks_path)
    model = load_model(config.model_copy(update={"dtype": record.model.dtype}), planted_prompts(tasks))
    domains = render_tasks(tasks, model.template, config.sizes, config.seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "residuals.npy"
        read_residuals(HookBackend(model), domains, [0], file, lambda _: None)
        pairs = {name: Residuals.open(file, domains, model.template.positions).pairs_at(name, site) for name in domains}
    return {name: harmful - harmless for name, (harmful, harmless) in pairs.items()}


def between(differences: Mapping[str, Differences]) -> list[dict[str, Any]]:
    """Return the cosines of every two runs, by domain."""
    return [
        {
            "runs": [one, other],
            "cosine": {
                domain: vars(paired_cosine(differences[one][domain], differences[other][domain]))
                for domain in differences[one]
            },
        }
        for one, other in combinations(differences, 2)
    ]


def within(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return what each run found: refusal of harmful prompts before and after its own ablation, and transfer."""
    rows = []
    for record in records:
        against_first = {m.name: m for m in geometry_measurements(records[0], record)}
        transfer = against_first.get("geometry.mean_transfer")
        rows.append(
            {
                "run": precision(record),
                "run_id": record.run_id,
                "refused": {
                    name: {
                        stage: {"rate": condition.rate, "ci95": condition.ci95, "n": condition.n}
                        for stage, condition in (
                            ("before", task.refusal.baseline_harmful),
                            ("ablated", task.refusal.ablated_harmful),
                        )
                    }
                    for name, task in record.results.tasks.items()
                },
                "status": {name: task.status for name, task in record.results.tasks.items()},
                "mean_transfer": None if transfer is None else transfer.candidate,
            }
        )
    return rows


def benchmark(folders: Sequence[Path], site: Site | None = None) -> dict[str, Any]:
    """Compare runs of one model, at the first one's common site if none is given; InputError for what is no run."""
    records = [find(str(folder), Path("leaderboards")).record for folder in folders]
    names = [precision(record) for record in records]
    if len(set(names)) < len(names):
        raise InputError(f"two of the runs have the same precision ({', '.join(names)}); give one of each.")
    site = site or common_site(records[0])
    differences = {precision(record): read_differences(record, site) for record in records}
    return {
        "model": records[0].model.id,
        "site": {"layer": site.layer, "position": site.position},
        "between": between(differences),
        "within": within(records),
    }


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print both tables."""
    site = result["site"]
    domains = list(result["within"][0]["refused"])
    where = f"layer {site['layer']}, position {site['position']}"
    title = f"{result['model']}: cosine (corrected for rounding [95 %]) at {where}"
    table = Table("runs", *domains, title=title, box=box.MARKDOWN)
    for row in result["between"]:
        cells = [
            f"{c['value']:.4f} ({c['corrected']:.4f} [{c['ci95'][0]:.4f}, {c['ci95'][1]:.4f}]) n {c['n']}"
            for c in row["cosine"].values()
        ]
        table.add_row(" and ".join(row["runs"]), *cells)
    console.print(table)
    table = Table("run", *domains, "mean transfer", title="Harmful refused: before → ablated", box=box.MARKDOWN)
    for row in result["within"]:
        cells = [
            f"{_rate(cell['before'])} → {_rate(cell['ablated'])}{'' if row['status'][name] == 'ok' else ' *'}"
            for name, cell in row["refused"].items()
        ]
        transfer = row["mean_transfer"]
        table.add_row(row["run"], *cells, "–" if transfer is None else f"{transfer:.2f}")
    console.print(table)
    console.print("* no candidate passed every filter; the least bad one is ablated.")


def _rate(cell: Mapping[str, Any]) -> str:
    if cell["rate"] is None:
        return "–"
    low, high = cell["ci95"]
    return f"{cell['rate']:.2f} [{low:.2f}, {high:.2f}] n {cell['n']}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Compare the directions of one model in several precisions.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs of one model in several precisions")
    parser.add_argument("--site", nargs=2, type=int, metavar=("LAYER", "POSITION"), help="where directions are read")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object in the last line")
    options = parser.parse_args(arguments)
    try:
        result = benchmark(options.runs, options.site and Site(layer=options.site[0], position=options.site[1]))
    except InputError as error:
        parser.error(str(error))
    show(result, Console(width=200))
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

"""How the cost of a run grows: domains and prompts on a planted model, and what that means for large models, on paper.

    python benchmarks/scaling.py --json --save benchmarks/results/scaling.json

Tokens through the blocks do not depend on the machine or the model's size; seconds are those of a tiny model here and
are mostly what passes cost beside their tokens. Tasks and prompts are made for this and mean nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from refusal_bench.calibration.planted_world import WORLDS
from refusal_bench.config import RunConfig
from refusal_bench.files import write_atomic
from refusal_bench.pipeline import run
from refusal_bench.progress import Reporter
from refusal_bench.record import Record
from rich.console import Console
from rich.table import Table

DOMAINS = (1, 5, 12)
PAIRS = (16, 32, 64, 128)
"""Train pairs a domain, that is, 32 to 256 prompts; 128 is the most that a run uses."""

BASE_DOMAINS, BASE_PAIRS, HELD_OUT_PAIRS = 5, 48, 16

PEAK_FLOPS, BANDWIDTH, SHARE = 990e12, 3.35e12, 0.4
"""One H100: dense bfloat16 operations and bytes of memory a second, and the share of the former that is reached."""

MODELS = {"7B": 7e9, "70B": 70e9}


def write_tasks(root: Path, n_domains: int, n_pairs: int) -> list[str]:
    """Write manifests and prompts under a folder; return the tasks' names."""
    (root / "tasks").mkdir(parents=True)
    names = [f"domain_{i:02}" for i in range(n_domains)]
    for name in names:
        files = {}
        for split, numbers in (("train", range(n_pairs)), ("held_out", range(n_pairs, n_pairs + HELD_OUT_PAIRS))):
            data = "".join(json.dumps(row) + "\n" for row in rows(name, numbers)).encode()
            path = root / "datasets" / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            files[split] = {
                "path": f"../datasets/{name}/{split}.jsonl",
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        manifest = {
            "name": name,
            "version": "1.0",
            "title": name,
            "definition": "Made for a benchmark.",
            "out_of_scope": "Everything.",
            "taxonomy": {},
            "license": "CC0-1.0",
            "generate": True,
            "files": files,
        }
        # One key a line; JSON values are YAML values.
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in manifest.items()]
        (root / "tasks" / f"{name}.yaml").write_text("".join(lines), encoding="utf-8")
    return names


def rows(name: str, numbers: Sequence[int]) -> list[dict[str, str]]:
    """Pairs of prompts whose words are hashes, so that none is near another."""
    subjects = [hashlib.sha256(f"{name} {i}".encode()).hexdigest() for i in numbers]
    return [
        {
            "id": f"{name}-{subject[:12]}-{label}",
            "prompt": f"{label} {subject[:12]} {subject[12:24]} question",
            "label": label,
            "pair": f"{name}-{subject[:12]}",
            "source": "benchmark",
        }
        for subject in subjects
        for label in ("harmful", "harmless")
    ]


def measure(n_domains: int, n_pairs: int) -> dict[str, Any]:
    """Run so many domains with so many train pairs each; return passes, tokens and seconds, by stage too."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = write_tasks(root, n_domains, n_pairs)
        world = replace(
            WORLDS["single"],
            name="scaling",
            domains=tuple(names),
            gram=np.ones((n_domains, n_domains)),
            openers=np.ones((n_domains, 1)),
        )
        WORLDS["single"], kept = world, WORLDS["single"]
        try:
            start = time.perf_counter()
            record, _ = run(
                RunConfig(
                    model="planted:single",
                    tasks=",".join(names),
                    tasks_path=(root / "tasks",),
                    out=root / "runs",
                    leaderboard=None,
                ),
                Reporter(),
            )
        finally:
            WORLDS["single"] = kept
    return {"domains": n_domains, "pairs": n_pairs, "seconds": time.perf_counter() - start, **cost(record)}


def cost(record: Record) -> dict[str, Any]:
    """What a record says of its cost."""
    stages = {name: work.tokens for name, work in (record.cost.stages or {}).items() if work.tokens}
    return {"forward_passes": record.cost.forward_passes, "tokens": record.cost.tokens, "tokens_by_stage": stages}


def on_paper(passes: int, tokens: int) -> dict[str, dict[str, float]]:
    """GPU-hours of larger models: 2 operations a weight and token, and every pass reads all weights (bfloat16) once."""
    return {
        name: {
            "flops": 2 * n * tokens,
            "gpu_hours": max(2 * n * tokens / (SHARE * PEAK_FLOPS), passes * 2 * n / BANDWIDTH) / 3600,
        }
        for name, n in MODELS.items()
    }


def benchmark() -> dict[str, Any]:
    """Measure both curves; the middle of each is one and the same run."""
    base = measure(BASE_DOMAINS, BASE_PAIRS)
    return {
        "domains": [base if n == BASE_DOMAINS else measure(n, BASE_PAIRS) for n in DOMAINS],
        "pairs": [measure(BASE_DOMAINS, n) for n in PAIRS],
        "on_paper": on_paper(base["forward_passes"], base["tokens"]),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print the curves and the extrapolation."""
    table = Table(title="cost of a run (planted model; 16 held-out pairs a domain)")
    for column in ("domains", "train pairs", "passes", "tokens", "seconds"):
        table.add_column(column, justify="right")
    for row in result["domains"] + result["pairs"]:
        figures = (row["domains"], row["pairs"], f"{row['forward_passes']:,}", f"{row['tokens']:,}")
        table.add_row(*map(str, figures), f"{row['seconds']:.1f}")
    console.print(table)
    for name, figures in result["on_paper"].items():
        console.print(f"{name}: {figures['flops']:.1e} operations, {figures['gpu_hours']:.2f} H100 hours on paper")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Measure how the cost of a run grows with domains and prompts.")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object in the last line")
    parser.add_argument("--save", type=Path, help="write the result to a file")
    options = parser.parse_args(arguments)
    result = benchmark()
    show(result, Console())
    if options.save:
        write_atomic(options.save, json.dumps(result, indent=2) + "\n")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

"""How often the screened selection chooses what the exact one does, and what its other choices cost.

    python benchmarks/screened.py --seeds 30,31,32,33,34,35 --json --save benchmarks/results/screened.json

A case is one domain of one model under one seed, which draws the split and the weights of planted and tiny models.
Cases in which no candidate passes every filter count apart: there is nothing to choose. So do those with no more
candidates than a screened selection always scans: there is nothing to leave out. Cases of one model share its weights,
so that intervals, which take them for independent, are a little narrow.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from refusal_bench.backends.hf import HookBackend
from refusal_bench.directions.difference_in_means import difference_in_means
from refusal_bench.metrics.statistics import wilson_interval
from refusal_bench.prompts import Rendered
from refusal_bench.race import STARTERS
from refusal_bench.scan import SelectionData
from refusal_bench.screening import estimated_change
from refusal_bench.selection import Selected, select
from refusal_bench.tasks import load_tasks
from rich import box
from rich.console import Console
from rich.table import Table
from selection import Case, load, machine, refusal_tokens, render, saver
from torch import Tensor

MODELS = (
    "planted",
    "planted:cone",
    "planted:topic_confound",
    "tiny-qwen",
    "tiny-mistral",
    "tiny-gemma2",
    "tiny-gpt-neox",
    "tiny-cohere",
    "planted:no_refusal",
    "planted:late",
)
"""The other planted worlds, `single` and `harm_vs_refusal`, would repeat the cases of `planted`: a domain by itself is
the same in all three."""

GROUPS = ("direction", "no_direction", "all_scanned")
"""Whether there is a candidate to agree on; the last: no more candidates than are scanned in any case."""


def candidate_vectors(
    backend: HookBackend, positions: Sequence[int], pairs: Rendered
) -> Float[Tensor, "position layer d_model"]:
    """Difference in means at every candidate; the textbook loop's reads fewer families of models."""
    streams = dict[int, Tensor]()
    backend.residuals(pairs.prompts, positions, streams.__setitem__, lambda logits, _: logits[:, :1])
    rows = torch.stack([streams[i] for i in range(len(streams))]).numpy()
    return torch.from_numpy(difference_in_means(rows[: len(pairs)], rows[len(pairs) :]))


def measure(case: Case, backend: HookBackend) -> dict[str, Any]:
    """Select in both ways; return what each chose, the estimate's rank of the exact choice, and the work."""
    exact, screened = (
        select(backend, case.vectors, case.positions, case.data, screened=mode) for mode in (False, True)
    )
    candidates = [(row.position, row.layer) for row in exact.selection.table]
    vectors = torch.stack([case.vectors[case.positions.index(place), layer] for place, layer in candidates])
    before = backend.counters.tokens
    change = estimated_change(backend, case.data.harmful, case.data.refusal_tokens, vectors)
    # With frozen weights a backward pass costs about as much as the forward pass, the only one that is counted.
    backward = backend.counters.tokens - before
    ranked = [candidates[i] for i in torch.argsort(change, stable=True).tolist()]
    assert screened.selection.screen is not None
    return {
        "domain": case.domain,
        "group": group(exact.passed, len(candidates)),
        "exact": _site(exact),
        "screened": _site(screened),
        "agree": _site(exact) == _site(screened),
        "n_candidates": len(candidates),
        "scanned": screened.selection.screen.scanned,
        "rank": ranked.index((exact.site.position, exact.site.layer)),
        "baseline": exact.selection.baseline_harmful,
        "bypass": {"exact": exact.selection.bypass, "screened": screened.selection.bypass},
        "tokens": {"exact": exact.selection.tokens, "screened": screened.selection.tokens + backward},
    }


def group(passed: bool, n_candidates: int) -> str:
    """Which of the groups a case counts in."""
    if n_candidates <= STARTERS:
        return "all_scanned"
    return "direction" if passed else "no_direction"


def _site(selected: Selected) -> list[int] | None:
    """Layer and position of the choice; null where nothing passed."""
    return [selected.site.layer, selected.site.position] if selected.passed else None


def agreement(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """In how many of the cases both choose the same, with a Wilson interval, and the share of tokens it took."""
    n, same = len(rows), sum(row["agree"] for row in rows)
    tokens = {mode: sum(row["tokens"][mode] for row in rows) for mode in ("exact", "screened")}
    return {
        "n": n,
        "agree": same,
        "share": same / n if n else None,
        "ci95": wilson_interval(same, n) if n else None,
        "tokens": tokens,
        "work_ratio": tokens["screened"] / tokens["exact"] if n else None,
    }


def summarise(rows: Sequence[dict[str, Any]], where: dict[str, Any]) -> dict[str, Any]:
    """Put the cases together: by group, by model, and every miss."""

    def in_groups(some: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {name: agreement([row for row in some if row["group"] == name]) for name in GROUPS}

    misses = [row for row in rows if not row["agree"]]
    costs = [cost for row in misses if (cost := miss_cost(row)) is not None]
    # What both chose, or the lack of it; without a direction in one of them there is no cost in nats.
    found = Counter(
        {(True, True): "both", (True, False): "exact_only", (False, True): "screened_only", (False, False): "neither"}[
            row["exact"] is not None, row["screened"] is not None
        ]
        for row in rows
    )
    winners = [row for row in rows if row["group"] == "direction"]
    return {
        "n_cases": len(rows),
        **in_groups(rows),
        "found": {name: found[name] for name in ("both", "neither", "exact_only", "screened_only")},
        "winner_ranked_first": {str(k): sum(row["rank"] < k for row in winners) for k in (1, STARTERS)},
        "miss_cost_nats": {"median": median(costs), "max": max(costs)} if costs else None,
        "misses": [row | {"cost": miss_cost(row)} for row in misses],
        "models": {
            name: in_groups([row for row in rows if row["model"] == name])
            for name in dict.fromkeys(row["model"] for row in rows)
        },
        "machine": where,
    }


def miss_cost(row: dict[str, Any]) -> float | None:
    """By how much the bypass score of the screened choice is above the exact one's; null where one has none."""
    if row["exact"] is None or row["screened"] is None:
        return None
    return float(row["bypass"]["screened"] - row["bypass"]["exact"])


def show(result: dict[str, Any], console: Console) -> None:
    """Print the result as tables."""
    table = Table("model", *(f"{name}: agree" for name in GROUPS), "work", title="screened against exact")
    table.box = box.SIMPLE
    for name, groups in [*result["models"].items(), ("all", result)]:
        direction = groups["direction"]
        table.add_row(
            name,
            *(f"{groups[key]['agree']} of {groups[key]['n']}" for key in GROUPS),
            "-" if direction["work_ratio"] is None else f"{direction['work_ratio']:.2f}",
        )
    console.print(table)
    for name in GROUPS:
        found = result[name]
        if found["n"]:
            low, high = found["ci95"]
            console.print(
                f"{name}: {found['agree']} of {found['n']} agree, {found['share']:.1%} [{low:.1%}, {high:.1%}], for "
                f"{found['work_ratio']:.2f} of the tokens"
            )
    console.print("found a direction: " + ", ".join(f"{name} {n}" for name, n in result["found"].items()))
    first = ", ".join(f"{n} among the first {k}" for k, n in result["winner_ranked_first"].items())
    console.print(f"the estimate's rank of the exact choice: {first}, of {result['direction']['n']}")
    for row in result["misses"]:
        cost = "" if row["cost"] is None else f"; costs {row['cost']:.4f} nats"
        console.print(
            f"miss: {row['model']}, seed {row['seed']}, {row['domain']}: exact {row['exact']}, screened "
            f"{row['screened']} [layer, position]; ranked {row['rank'] + 1} of {row['n_candidates']}, "
            f"{row['scanned']} scanned{cost} of {row['baseline'] - row['bypass']['exact']:.2f}"
        )


def benchmark(
    models: Sequence[str],
    seeds: Sequence[int],
    spec: str,
    n_prompts: int,
    on_result: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Select in both ways in every case; `on_result` gets the result so far after each model."""
    tasks, where, rows = load_tasks(spec), machine(), list[dict[str, Any]]()
    settings = {"seeds": list(seeds), "n_prompts": n_prompts}
    for name in models:
        for seed in seeds:
            chat = load(name, tasks, seed)
            domains, backend = render(tasks, chat, n_prompts, seed), HookBackend(chat)
            tokens, positions = refusal_tokens(name, backend, domains), chat.template.positions
            for domain, splits in domains.items():
                vectors = candidate_vectors(backend, positions, splits.direction)
                data = SelectionData(splits.selection.harmful, splits.selection.harmless, tokens)
                row = measure(Case(domain, vectors, positions, data), backend)
                rows.append({"model": name, "seed": seed} | row)
        result = settings | summarise(rows, where)
        on_result(result)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Count how often the screened selection agrees with the exact one.")
    parser.add_argument("--models", default=",".join(MODELS), help="names separated by commas, as selection.py takes")
    parser.add_argument("--seeds", default="0,1,2,3", help="seeds of each model, separated by commas")
    parser.add_argument("--domains", default="all", help="task names separated by commas, or all")
    parser.add_argument("--prompts", type=int, default=16, help="harmful, and as many harmless, prompts a domain")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object in the last line")
    parser.add_argument("--save", type=Path, help="write the result to a file, anew after every model")
    options = parser.parse_args(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    result = benchmark(options.models.split(","), seeds, options.domains, options.prompts, saver(options.save))
    console = Console()
    console.width = max(console.width, 100)
    show(result, console)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

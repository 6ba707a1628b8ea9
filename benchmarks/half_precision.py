"""What our attention and the layout of the weights save in half precision on a CPU, against transformers' and torch's.

    python benchmarks/half_precision.py --model demo --json --save benchmarks/results/half-precision-demo.json

One process and one model, which scores prompts under several ablations and writes completions under one, each way in
turn. Ratios are medians over the rounds, of what a way takes to what the way of transformers and torch takes beside
it. Processor time counts what a shared machine gave; wall time also counts how well batches side by side fill it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from generation import CLOCKS, check_counts, timed
from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.passes import Prompt
from refusal_bench.config import RunConfig
from refusal_bench.interventions import stacked_ablation
from refusal_bench.models import attention
from refusal_bench.models.loading import ChatModel, load_model
from refusal_bench.models.packing import pack
from refusal_bench.tasks import load_tasks
from rich import box
from rich.console import Console
from rich.table import Table
from selection import machine, saver
from torch import Tensor

REFERENCE, ATTENTION, BOTH = WAYS = ("transformers", "our attention", "our attention, packed weights")
SCAN, WRITING = WORKS = ("scan", "writing")


def go(model: ChatModel, way: str) -> None:
    """Let the model work one of the three ways."""
    model.module.set_attn_implementation("sdpa" if way == REFERENCE else attention.NAME)
    model.module.cpu()  # into the usual layout
    if way == BOTH:
        pack(model.module)


def works(backend: HookBackend, prompts: Sequence[Prompt], n_ablations: int, n_tokens: int) -> dict[str, Any]:
    """Both works: each returns tensors of logits, or lists of tokens."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(n_ablations, 1, backend.model.d_model, generator=generator)
    several, one = stacked_ablation(list(directions)), stacked_ablation([directions[0][:0], directions[0]])

    def write() -> list[Prompt]:
        rows = backend.complete(prompts, n_tokens, lambda logits, _: logits[:, :1], one)
        return [completion.tokens for row in rows for completion in row]

    return {SCAN: lambda: backend.logits(prompts, lambda logits, _: logits, several), WRITING: write}


def benchmark(
    config: RunConfig, domain: str, n_prompts: int, n_ablations: int, n_tokens: int, rounds: int
) -> dict[str, Any]:
    """Time every way; SystemExit where the model does not run in half precision on a CPU with our attention."""
    backend = HookBackend(load_model(config))
    model = backend.model
    if model.module.config._attn_implementation != attention.NAME:
        raise SystemExit(f"{model.id} runs in {model.dtype} without our attention: nothing to compare.")
    rows = load_tasks(domain)[domain].held_out[:n_prompts]
    both = works(backend, [tuple(model.template.render(row.prompt)) for row in rows], n_ablations, n_tokens)
    seconds: dict[str, dict[str, list[dict[str, float]]]] = {work: {way: [] for way in WAYS} for work in WORKS}
    given: dict[str, dict[str, Any]] = {work: {} for work in WORKS}
    for number in range(-1, rounds):  # the first compiles kernels
        for way in WAYS:
            go(model, way)
            for work, do in both.items():
                given[work][way], spent = timed(do)
                if number >= 0:
                    seconds[work][way].append(spent)
    return {
        "model": model.id,
        "dtype": model.dtype,
        "domain": domain,
        "n_prompts": len(rows),
        "n_ablations": n_ablations,
        "max_new_tokens": n_tokens,
        "rounds": rounds,
        "batches_at_once": backend.passes.workers.n,
        "machine": machine(),
        "seconds": seconds,
        "ratios": {
            work: {way: {clock: ratio(times[way], times[REFERENCE], clock) for clock in CLOCKS} for way in WAYS}
            for work, times in seconds.items()
        },
        "logits_distance": {way: distance(given[SCAN][way], given[SCAN][REFERENCE]) for way in WAYS},
        "packing_changes_nothing": torch.equal(given[SCAN][BOTH], given[SCAN][ATTENTION])
        and given[WRITING][BOTH] == given[WRITING][ATTENTION],
        "same_text_share": {
            way: statistics.mean(a == b for a, b in zip(given[WRITING][way], given[WRITING][REFERENCE], strict=True))
            for way in WAYS
        },
    }


def ratio(times: list[dict[str, float]], reference: list[dict[str, float]], clock: str) -> float:
    """Median over the rounds."""
    return statistics.median(a[clock] / b[clock] for a, b in zip(times, reference, strict=True))


def distance(found: Tensor, reference: Tensor) -> float:
    """Distance of all logits to others, as a share of those."""
    return float((found - reference).norm() / reference.norm())


def show(result: dict[str, Any], console: Console) -> None:
    """Print a table."""
    title = f"{result['model']} in {result['dtype']}: time relative to transformers and torch"
    table = Table("work", "way", "wall", "cpu", title=title, box=box.SIMPLE)
    for work, ways in result["ratios"].items():
        for way, of in ways.items():
            table.add_row(work, way, *(f"{of[clock]:.2f}" for clock in CLOCKS))
    console.print(table)
    for way in (ATTENTION, BOTH):
        console.print(
            f"{way}: logits differ by {result['logits_distance'][way]:.2g} of their size, "
            f"{result['same_text_share'][way]:.0%} of the completions are the same"
        )
    changes = "nothing" if result["packing_changes_nothing"] else "results"
    console.print(f"packing changes {changes}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Compare the work in half precision on a CPU with transformers'.")
    parser.add_argument("--model", default="demo", help="an alias, a folder, a .gguf file or a hub id")
    parser.add_argument("--domain", default="weapons", help="task whose held-out prompts are taken")
    parser.add_argument("--prompts", type=int, default=32, help="prompts")
    parser.add_argument("--ablations", type=int, default=8, help="directions that are ablated side by side in the scan")
    parser.add_argument("--max-new-tokens", type=int, default=32, help="longest completion")
    parser.add_argument("--rounds", type=int, default=5, help="times that every way is measured")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object in the last line")
    parser.add_argument("--save", type=Path, help="file for the result")
    options = parser.parse_args(arguments)
    check_counts(parser, options, "prompts", "ablations", "max_new_tokens", "rounds")
    config = RunConfig(model=options.model, device="cpu", dtype="bfloat16")
    sizes = (options.prompts, options.ablations, options.max_new_tokens, options.rounds)
    result = benchmark(config, options.domain, *sizes)
    saver(options.save)(result)
    show(result, Console())
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Tokens per second of vLLM, of the hook backend in batches, and of the hook backend one prompt at a time.

    python benchmarks/generation.py --model demo --domains all --prompts 16 --json

All three write greedy completions of the same prompts, without intervention and with one direction ablated, in one
process and from the same weights; no completion is cut short. The start of vLLM is timed apart. Besides wall time the
processor time of this process is given: on a machine that is shared only its ratios mean something (on a GPU neither
does, since the processor then waits).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from refusal_bench.backends.availability import check_baseline_backend
from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.passes import Prompt
from refusal_bench.backends.vllm import VllmBackend
from refusal_bench.config import RunConfig
from refusal_bench.interventions import Ablate, Intervention
from refusal_bench.models.loading import load_model
from refusal_bench.tasks import load_tasks
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

RATIOS = (("vllm", "hf_batched"), ("vllm", "hf_one_by_one"), ("hf_batched", "hf_one_by_one"))
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass
class Speed:
    """What one way of writing took over all repeats."""

    tokens: int
    wall_s: float
    cpu_s: float
    texts: list[Prompt]

    def per_second(self, clock: str) -> float:
        """Tokens a second of wall or processor time."""
        return self.tokens / getattr(self, f"{clock}_s")


def writers(
    hf: HookBackend, vllm: VllmBackend, n_tokens: int
) -> dict[str, Callable[[Sequence[Prompt], Intervention | None], list[Prompt]]]:
    """The three ways of completing some prompts."""

    def batched(prompts: Sequence[Prompt], what: Intervention | None) -> list[Prompt]:
        row = hf.complete(prompts, n_tokens, lambda logits, _: logits[:, :1], what)[0]
        return [completion.tokens for completion in row]

    return {
        "vllm": lambda prompts, what: vllm.complete(prompts, n_tokens, what)[0],
        "hf_batched": batched,
        "hf_one_by_one": lambda prompts, what: [batched([prompt], what)[0] for prompt in prompts],
    }


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Do some work; return what it gives, and the seconds that it took by each clock."""
    before = {name: clock() for name, clock in CLOCKS.items()}
    given = work()
    return given, {name: clock() - before[name] for name, clock in CLOCKS.items()}


def measure(
    write: Callable[[Sequence[Prompt], Intervention | None], list[Prompt]],
    prompts: Sequence[Prompt],
    what: Intervention | None,
) -> Speed:
    """Time one way of writing; each completion counts its tokens and the one that ends it."""
    texts, spent = timed(lambda: write(prompts, what))
    return Speed(sum(len(text) + 1 for text in texts), spent["wall"], spent["cpu"], texts)


def mean_difference(
    hf: HookBackend, harmful: Sequence[Prompt], harmless: Sequence[Prompt]
) -> Float[Tensor, " d_model"]:
    """Difference in means at the last token, entering the middle layer."""
    layer, streams = hf.model.n_layers // 2, dict[int, Tensor]()
    hf.residuals(
        [*harmful, *harmless], (-1,), lambda i, x: streams.__setitem__(i, x[0, layer]), lambda logits, _: logits[:, :1]
    )
    rows = torch.stack([streams[i] for i in range(len(streams))])
    return rows[: len(harmful)].mean(0) - rows[len(harmful) :].mean(0)


def benchmark(model: str, domains: str, n_prompts: int, n_tokens: int, repeats: int) -> dict[str, Any]:
    """Return tokens a second and their ratios, by condition."""
    check_baseline_backend("vllm", model)
    hf = HookBackend(load_model(RunConfig(model=model)))
    tasks = load_tasks(domains).values()

    def rendered(label: str) -> list[Prompt]:
        rows = [row for task in tasks for row in [x for x in task.held_out if x.label == label][:n_prompts]]
        return [tuple(hf.model.template.render(row.prompt)) for row in rows]

    harmful, harmless = rendered("harmful"), rendered("harmless")
    prompts = harmful + harmless
    vllm = VllmBackend(hf.model, hf.counters, longest=max(map(len, prompts)) + n_tokens)
    vllm.start()
    conditions = {"baseline": None, "ablated": Ablate.each(mean_difference(hf, harmful, harmless)[None])}
    result: dict[str, Any] = {
        "model": model,
        "device": hf.model.module.device.type,
        "dtype": hf.model.dtype,
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "n_prompts": len(prompts),
        "max_new_tokens": n_tokens,
        "repeats": repeats,
        "vllm_start_s": round(vllm.start_s, 2),
    }
    ways = writers(hf, vllm, n_tokens)
    for write in ways.values():
        write(prompts[:2], None)  # the first pass of each allocates and compiles
    for condition, what in conditions.items():
        found: dict[str, Speed] = {}
        for _ in range(repeats):
            for name, write in ways.items():
                speed = measure(write, prompts, what)
                if name in found:
                    speed.tokens += found[name].tokens
                    speed.wall_s += found[name].wall_s
                    speed.cpu_s += found[name].cpu_s
                found[name] = speed
        same = [a == b for a, b in zip(found["vllm"].texts, found["hf_batched"].texts, strict=True)]
        result[condition] = {
            "tokens": {name: speed.tokens for name, speed in found.items()},
            "same_text_share": sum(same) / len(same),
            **{
                f"tokens_per_{clock}_s": {name: round(speed.per_second(clock), 2) for name, speed in found.items()}
                for clock in CLOCKS
            },
            **{
                f"ratios_{clock}": {
                    f"{a}_to_{b}": round(found[a].per_second(clock) / found[b].per_second(clock), 3) for a, b in RATIOS
                }
                for clock in CLOCKS
            },
        }
    vllm.close()
    return result


def show(result: dict[str, Any], console: Console) -> None:
    """Print a table."""
    title = f"{result['model']}: {result['n_prompts']} prompts, at most {result['max_new_tokens']} tokens"
    table = Table("condition", "way", "tokens/s", "tokens/cpu s", title=title, box=box.SIMPLE)
    for condition in ("baseline", "ablated"):
        rows = result[condition]
        for way, rate in rows["tokens_per_wall_s"].items():
            table.add_row(condition, way, f"{rate:.1f}", f"{rows['tokens_per_cpu_s'][way]:.1f}")
    console.print(table)
    for condition in ("baseline", "ablated"):
        for clock in CLOCKS:
            ratios = ", ".join(f"{name} {value:.2f}" for name, value in result[condition][f"ratios_{clock}"].items())
            console.print(f"{condition}, {clock} time: {ratios}")
        console.print(
            f"{condition}: vLLM's text equals the hook backend's in {result[condition]['same_text_share']:.0%}"
        )
    console.print(f"start of vLLM {result['vllm_start_s']} s; load average {result['load_average']}")


def check_counts(parser: argparse.ArgumentParser, options: argparse.Namespace, *names: str) -> None:
    """End with a usage error where one of these options is below 1."""
    for name in names:
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Compare the throughput of vLLM with the hook backend's.")
    parser.add_argument("--model", default="demo", help="an alias, a folder, a .gguf file or a hub id")
    parser.add_argument("--domains", default="all", help="task names separated by commas, or all")
    parser.add_argument("--prompts", type=int, default=16, help="harmful, and as many harmless, prompts of each domain")
    parser.add_argument("--max-new-tokens", type=int, default=32, help="longest completion")
    parser.add_argument("--repeats", type=int, default=1, help="measurements of each, in turn")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object in the last line")
    options = parser.parse_args(arguments)
    check_counts(parser, options, "prompts", "max_new_tokens", "repeats")
    result = benchmark(options.model, options.domains, options.prompts, options.max_new_tokens, options.repeats)
    show(result, Console())
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

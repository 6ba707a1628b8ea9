"""The engine against the textbook loop: the same selection, and for how much of the work.

    python benchmarks/selection.py --model demo --prompts 32 --json --save benchmarks/results/selection-demo.json

Both run in one process, on the CPU, on the same model, prompts, vectors, refusal tokens and candidates, one domain
after the other. The textbook loop takes hours on the demo model; `--reference-candidates 6` runs it on six candidates
of each domain and extrapolates its cost, and the result says so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from jaxtyping import Float
from reference import Quantities, Site, Textbook, choose, in_scope, removing
from refusal_bench.backends.hf import HookBackend
from refusal_bench.calibration.planted_world import WORLDS
from refusal_bench.config import FULL, INDUCE_THRESHOLD, KL_THRESHOLD, RunConfig
from refusal_bench.files import write_atomic
from refusal_bench.judges import DEFAULT, load_judge
from refusal_bench.models.aliases import resolve
from refusal_bench.models.loading import ChatModel, load_model
from refusal_bench.observation import find_refusal_tokens
from refusal_bench.prompts import MIN_PAIRS, Domain, planted_prompts, render_tasks
from refusal_bench.record import Candidate
from refusal_bench.scan import SelectionData
from refusal_bench.selection import Selected, select
from refusal_bench.tasks import Task, load_tasks
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

ENGINES: Mapping[str, Callable[..., Selected]] = {"exact": select, "screened": partial(select, screened=True)}
"""Ways of selecting that are compared with the textbook loop."""

TINY = {
    "tiny-llama": ("llama", "LLAMA2"),
    "tiny-qwen": ("qwen2", "CHATML"),
    "tiny-mistral": ("mistral", "CHATML"),
    "tiny-gemma2": ("gemma2", "CHATML"),
    "tiny-gpt-neox": ("gpt-neox", "CHATML"),
    "tiny-cohere": ("cohere", "CHATML"),
}
"""Random weights: family and chat template, as the tests build them. The textbook loop takes the first three only."""

TOLERANCE = 1e-3
"""Largest disagreement of a quantity (nats) that float32 rounding explains."""

QUANTITIES = ("bypass", "induce", "kl")


@dataclass(frozen=True)
class Case:
    """What both are given for one domain."""

    domain: str
    vectors: Float[Tensor, "position layer d_model"]
    positions: tuple[int, ...]
    data: SelectionData

    @property
    def sites(self) -> list[Site]:
        """All candidates."""
        return [(place, layer) for place in range(self.vectors.shape[0]) for layer in range(self.vectors.shape[1])]

    @property
    def sites_in_scope(self) -> list[Site]:
        """The candidates that the filter on depth leaves."""
        return [site for site in self.sites if in_scope(site[1], self.vectors.shape[1])]


@dataclass
class Cost:
    """What a selection took; `flops` are of the matrix products that the model itself asks for."""

    seconds: float = 0.0
    passes: int = 0
    tokens: int = 0
    flops: float = 0.0
    peak_memory_bytes: int = 0

    def scaled(self, factor: float) -> Cost:
        """The cost of as much again, `factor` times; memory does not add up."""
        return Cost(
            self.seconds * factor,
            round(self.passes * factor),
            round(self.tokens * factor),
            self.flops * factor,
            self.peak_memory_bytes,
        )

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.passes + other.passes,
            self.tokens + other.tokens,
            self.flops + other.flops,
            max(self.peak_memory_bytes, other.peak_memory_bytes),
        )


@contextmanager
def metered(module: Any, counters: Callable[[], tuple[int, int]]) -> Iterator[Cost]:
    """Measure what happens in the context; `counters` returns passes and tokens so far."""
    cost, before = Cost(), counters()
    _forget_peak_memory()
    start = time.perf_counter()
    with counting_flops(module, cost):
        yield cost
    cost.seconds = time.perf_counter() - start
    cost.passes, cost.tokens = (now - then for now, then in zip(counters(), before, strict=True))
    cost.peak_memory_bytes = _peak_memory_bytes()


@contextmanager
def counting_flops(module: Any, cost: Cost) -> Iterator[None]:
    """Count two operations a weight and token that it is applied to, and attention over the visible tokens.

    The projections and additions of the interventions are left out: they are not work that the model asks for.
    """
    width = module.config.num_attention_heads * module.model.layers[0].self_attn.head_dim
    operations = list[int]()  # appended to, which batches side by side can do at the same time, and summed at the end

    def on_block(index: int) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rows, tokens = args[0].shape[:2]
            cache = kwargs.get("cache", kwargs.get("past_key_values"))  # transformers 5.24 renamed it
            past = 0 if cache is None else cache.get_seq_length(index)
            visible = tokens * past + tokens * (tokens + 1) // 2
            operations.append(rows * 4 * width * visible)

        return hook

    def on_linear(linear: nn.Linear, _: Any, output: Tensor) -> None:
        # What comes out, not what goes into the model: the engine's hooks leave one place a row of some inputs.
        operations.append(2 * linear.in_features * linear.out_features * output[..., 0].numel())

    handles = [part.register_forward_hook(on_linear) for part in module.modules() if isinstance(part, nn.Linear)]
    for index, block in enumerate(module.model.layers):
        handles.append(block.register_forward_pre_hook(on_block(index), with_kwargs=True))
    with removing(handles):
        yield
    cost.flops += sum(operations)


def _forget_peak_memory() -> None:
    """Let this process's peak start from now (Linux; elsewhere the peak is that of the whole process so far)."""
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_bytes() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def matmul_peak(size: int = 2048, repeats: int = 10) -> float:
    """Operations a second of the fastest of several float32 matrix products."""
    a, b = torch.randn(2, size, size)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.matmul(a, b)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def machine() -> dict[str, Any]:
    """Describe where this runs."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def load(name: str, tasks: Mapping[str, Task], seed: int = 0) -> ChatModel:
    """Load a model by name, on the CPU in float32; the seed draws the weights of planted and tiny ones."""
    if name not in TINY:
        world = resolve(name).location
        draws = {world: replace(WORLDS[world], draw=1 + seed)} if world in WORLDS else {}
        with patch.dict(WORLDS, draws):
            return load_model(RunConfig(model=name, device="cpu", dtype="float32"), planted_prompts(tasks))
    sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
    import tiny

    family, template = TINY[name]
    with tempfile.TemporaryDirectory() as folder:
        saved = tiny.save_tiny(Path(folder) / name, family, getattr(tiny, template), seed=seed)
        return load_model(RunConfig(model=str(saved), device="cpu", dtype="float32"))


def render(tasks: Mapping[str, Task], model: ChatModel, n_selection: int, seed: int = 0) -> dict[str, Domain]:
    """Render all domains with `n_selection` pairs in the selection split and the other train pairs for directions."""
    domains = {}
    for name, task in tasks.items():
        n_train = min(len(task.pairs("train")), FULL.max_train_pairs)
        if not MIN_PAIRS <= n_selection <= n_train - MIN_PAIRS:
            raise SystemExit(f"--prompts must lie between {MIN_PAIRS} and {n_train - MIN_PAIRS} for task {name}.")
        sizes = FULL.model_copy(update={"direction_share": 1 - n_selection / n_train})
        domains |= render_tasks({name: task}, model.template, sizes, seed)
    return domains


def refusal_tokens(name: str, backend: HookBackend, domains: Mapping[str, Domain]) -> list[int]:
    """First tokens that count as a refusal.

    Random weights refuse nothing; for them it is the half of the vocabulary that harmful prompts favour.
    """
    if name not in TINY:
        return list(find_refusal_tokens(backend, domains, (), load_judge(DEFAULT), lambda n: None)["tokens"])
    textbook, favour = Textbook(backend.model.module), torch.tensor(0.0)
    for domain in domains.values():
        harmful, harmless = (
            torch.log_softmax(textbook.logits(prompts), dim=-1).mean(dim=0)
            for prompts in (domain.direction.harmful, domain.direction.harmless)
        )
        favour = favour + harmful - harmless
    return sorted(favour.topk(len(favour) // 2).indices.tolist())


def run_reference(module: Any, case: Case, sites: Sequence[Site], filters: bool) -> tuple[dict[Site, Quantities], Cost]:
    """Evaluate some candidates with the textbook loop; the cost is extrapolated to all of them.

    `filters` judges the others too, as far as the choice needs, which the cost leaves out.
    """
    textbook, data = Textbook(module), case.data
    counters = lambda: (textbook.passes, textbook.tokens)  # noqa: E731

    def judge(some: Sequence[Site], filtering: bool) -> dict[Site, Quantities]:
        console = Console(stderr=True)
        return {
            site: textbook.quantities(
                case.vectors[site],
                site[1],
                data.harmful,
                data.harmless,
                data.refusal_tokens,
                unmodified,
                filtering=filtering,
            )
            for site in track(some, f"reference: {case.domain}", console=console, transient=True)
        }

    with metered(module, counters) as once:
        unmodified = textbook.logits(data.harmless)
    with metered(module, counters) as scan:
        found = judge(sites, filtering=False)
    if filters:
        found |= judge([site for site in case.sites_in_scope if site not in found], filtering=True)
    return found, once + scan.scaled(len(case.sites) / len(sites))


def run_engine(engine: Callable[..., Selected], backend: HookBackend, case: Case) -> tuple[Selected, Cost]:
    """Select with the engine."""
    counters = backend.counters
    with metered(backend.model.module, lambda: (counters.forward_passes, counters.tokens)) as cost:
        selected = engine(backend, case.vectors, case.positions, case.data)
    return selected, cost


def differences(table: Sequence[Candidate], found: Mapping[Site, Quantities], case: Case) -> dict[str, list[float]]:
    """Absolute disagreements of each quantity, wherever the engine has an exact value."""
    out: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for row in table:
        expected = found.get((case.positions.index(row.position), row.layer))
        if expected is None or row.rejected == "nan":
            continue
        for name in QUANTITIES:
            value, theirs = None if name == "kl" and row.kl_is_bound else getattr(row, name), getattr(expected, name)
            if value is not None and math.isfinite(theirs):
                out[name].append(abs(value - theirs))
    return out


def false_claims(table: Sequence[Candidate], found: Mapping[Site, Quantities], case: Case) -> list[str]:
    """Bounds above the reference's KL, and rejected candidates that the reference would not reject; none is right."""
    claims = []
    for row in table:
        expected = found.get((case.positions.index(row.position), row.layer))
        if expected is None:
            continue
        was_judged = is_finite(expected) or expected.kl >= KL_THRESHOLD  # by its KL alone, where that settles it
        truths = {
            "kl": expected.kl >= KL_THRESHOLD - TOLERANCE,
            "induce": expected.induce <= INDUCE_THRESHOLD + TOLERANCE,
            "nan": not was_judged,
            None: was_judged,
        }
        where = f"position {row.position}, layer {row.layer}"
        if row.kl_is_bound and row.kl > expected.kl + TOLERANCE:
            claims.append(f"{where}: KL bound {row.kl:.4g} exceeds {expected.kl:.4g}")
        if not truths[row.rejected]:
            claims.append(f"{where}: {row.rejected or 'not rejected'}, but {expected}")
    return claims


def is_finite(quantities: Quantities) -> bool:
    """Whether a candidate could be judged."""
    return math.isfinite(quantities.bypass + quantities.induce + quantities.kl)


def sample(case: Case, selected: Selected, size: int) -> list[Site]:
    """Draw candidates: the engine's choice, where all three quantities can be compared, and others by chance.

    Evenly spaced candidates would all be of one layer where their distance is a multiple of the number of layers.
    """
    chosen = (case.positions.index(selected.site.position), selected.site.layer)
    others = [site for site in case.sites if site != chosen]
    return [chosen, *random.Random(0).sample(others, min(size - 1, len(others)))]


def measure(case: Case, backend: HookBackend, n_reference: int | None, filters: bool) -> dict[str, Any]:
    """Run engines and reference on one domain; return its row of the result."""
    selected, costs = {}, {}
    for mode, engine in ENGINES.items():
        selected[mode], costs[mode] = run_engine(engine, backend, case)
    exact, n = selected["exact"], len(case.sites)
    sites = case.sites if n_reference is None else sample(case, exact, n_reference)
    found, costs["reference"] = run_reference(backend.model.module, case, sites, filters)
    used, known = len(sites), found.keys() >= set(case.sites_in_scope)
    best = choose(found, case.vectors) if known else None
    own = {mode: _site(s.site.position, s.site.layer) if s.passed else None for mode, s in selected.items()}
    own["reference"] = None if best is None else _site(case.positions[best[0]], best[1])
    compared = differences(exact.selection.table, found, case)
    return {
        "domain": case.domain,
        "n_prompts": len(case.data.harmless),
        "n_candidates": n,
        "n_reference_candidates": used,
        "n_reference_filtered": len(found) - used,
        "reference_extrapolated": used < n,
        "selected": own,
        "same_selection": own["exact"] == own["reference"] if known else None,
        "screened_agrees": own["screened"] == own["exact"],
        "rejected": exact.selection.rejected,
        "n_compared": {name: len(values) for name, values in compared.items()},
        "n_bounds_compared": sum(
            row.kl_is_bound and (case.positions.index(row.position), row.layer) in found
            for row in exact.selection.table
        ),
        "max_abs_diff": {name: max(values, default=None) for name, values in compared.items()},
        "false_claims": false_claims(exact.selection.table, found, case),
        "cost": {mode: vars(cost) for mode, cost in costs.items()},
        "speedup": {mode: costs["reference"].seconds / costs[mode].seconds for mode in ENGINES},
    }


def _site(position: int, layer: int) -> dict[str, int]:
    return {"position": position, "layer": layer}


def summarise(model: str, rows: Sequence[dict[str, Any]], peak: float, where: dict[str, Any]) -> dict[str, Any]:
    """Put the domains' rows together."""
    total = {mode: sum((Cost(**row["cost"][mode]) for row in rows), Cost()) for mode in ("reference", *ENGINES)}
    same = [row["same_selection"] for row in rows]
    diffs = {name: [row["max_abs_diff"][name] for row in rows] for name in QUANTITIES}
    return {
        "model": model,
        **{f"speedup_{mode}": total["reference"].seconds / total[mode].seconds for mode in ENGINES},
        "same_selection": None if None in same else all(same),
        "screened_agrees": sum(row["screened_agrees"] for row in rows) / len(rows),
        "max_abs_diff": {n: max((v for v in values if v is not None), default=None) for n, values in diffs.items()},
        "bounds_valid": not any(row["false_claims"] for row in rows),
        "gemm_share": total["exact"].flops / total["exact"].seconds / peak,
        "gemm_share_reference": total["reference"].flops / total["reference"].seconds / peak,
        "matmul_peak_flops": peak,
        **{f"passes_{mode}": cost.passes for mode, cost in total.items()},
        **{f"tokens_{mode}": cost.tokens for mode, cost in total.items()},
        "reference_extrapolated": any(row["reference_extrapolated"] for row in rows),
        "peak_memory_bytes": {mode: cost.peak_memory_bytes for mode, cost in total.items()},
        "machine": where,
        "domains": list(rows),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print the result as tables."""
    about = "~" if result["reference_extrapolated"] else ""
    table = Table(title=f"selection on {result['model']}" + (" (~ extrapolated)" if about else ""), box=box.SIMPLE)
    for column in ("domain", "by", "site"):
        table.add_column(column, no_wrap=True)
    for column in ("seconds", "speedup", "passes", "tokens", "MB"):
        table.add_column(column, no_wrap=True, justify="right")
    for row in result["domains"]:
        for mode, cost in row["cost"].items():
            site, mark = row["selected"][mode], about if mode == "reference" else ""
            table.add_row(
                row["domain"],
                mode,
                f"layer {site['layer']}, {site['position']}" if site else "-",
                f"{mark}{cost['seconds']:.2f}",
                f"{about}{row['speedup'][mode]:.1f}" if mode in row["speedup"] else "",
                *(f"{mark}{cost[figure]:,}" for figure in ("passes", "tokens")),
                f"{cost['peak_memory_bytes'] / 2**20:,.0f}",
            )
    console.print(table)
    for mode in ENGINES:
        console.print(f"{mode}: {about}{result[f'speedup_{mode}']:.1f} times faster than the textbook loop")
    answer = {True: "yes", False: "NO", None: "unknown, the textbook loop saw only some candidates"}
    console.print(f"same selection in every domain: {answer[result['same_selection']]}")
    disagreement = (f"{k} " + ("-" if v is None else f"{v:.1e}") for k, v in result["max_abs_diff"].items())
    console.print(f"largest disagreement (nats): {', '.join(disagreement)}")
    console.print(f"{result['gemm_share']:.0%} of {result['matmul_peak_flops'] / 1e9:.0f} GFLOP/s, the measured peak")
    for row in result["domains"]:
        for claim in row["false_claims"]:
            console.print(f"wrong: {row['domain']}: {claim}")


def benchmark(
    model: str,
    spec: str,
    n_prompts: int,
    n_reference: int | None,
    filters: bool,
    on_result: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Compare on every domain; `on_result` gets the result so far after each."""
    tasks = load_tasks(spec)
    chat = load(model, tasks)
    domains = render(tasks, chat, n_prompts)
    backend = HookBackend(chat)
    tokens = refusal_tokens(model, backend, domains)
    where, rows, peak = machine(), [], matmul_peak()
    textbook, positions = Textbook(chat.module), chat.template.positions
    for name, domain in domains.items():
        # These passes also warm the model up for whichever runs first.
        vectors = textbook.difference_in_means(positions, domain.direction.harmful, domain.direction.harmless)
        data = SelectionData(domain.selection.harmful, domain.selection.harmless, tokens)
        backend.logits(data.harmless[:2], lambda logits, _: logits[:, :1])
        rows.append(measure(Case(name, vectors, positions, data), backend, n_reference, filters))
        peak = max(peak, matmul_peak())
        result = summarise(model, rows, peak, where)
        on_result(result)
    return result


def saver(file: Path | None) -> Callable[[dict[str, Any]], None]:
    """What is done with a result so far: it is written to the file, if there is one."""

    def save(result: dict[str, Any]) -> None:
        if file:
            write_atomic(file, json.dumps(result, indent=2) + "\n")

    return save


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Compare the selection engine with a plain textbook loop.")
    parser.add_argument("--model", default="planted", help="demo, planted, tiny-llama, tiny-qwen, or any model")
    parser.add_argument("--domains", default="all", help="task names separated by commas, or all")
    parser.add_argument("--prompts", type=int, default=32, help="harmful, and as many harmless, prompts a domain")
    parser.add_argument(
        "--reference-candidates", type=int, help="run the textbook loop on only so many, and extrapolate its cost"
    )
    parser.add_argument(
        "--reference-filters",
        action="store_true",
        help="judge the others too, as far as the choice needs: in scope, and by KL alone where that settles it",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object in the last line")
    parser.add_argument("--save", type=Path, help="write the result to a file, anew after every domain")
    options = parser.parse_args(arguments)
    if options.reference_candidates is not None and options.reference_candidates < 1:
        parser.error("--reference-candidates must be at least 1.")
    save = saver(options.save)
    result = benchmark(
        options.model, options.domains, options.prompts, options.reference_candidates, options.reference_filters, save
    )
    console = Console()
    console.width = max(console.width, 100)  # rich takes 80 columns for a pipe, and the table needs more
    show(result, console)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()

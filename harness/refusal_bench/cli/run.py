"""`refusal-bench run`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from refusal_bench.config import SECTIONS, RunConfig
from refusal_bench.errors import IncompleteRunError, InputError, RefusalBenchError
from refusal_bench.presets import models_of, settings_of

EXAMPLE = "Example: refusal-bench run --model demo --tasks weapons,fraud --out runs --seed 1"


def _option(flag: str, text: str, **more: Any) -> Any:
    """An option with its environment twin, REFUSAL_BENCH_<OPTION>."""
    name = flag.split("/")[0].removeprefix("--").replace("-", "_").upper()
    return typer.Option(flag, help=text, envvar=f"REFUSAL_BENCH_{name}", **more)


def run(
    context: typer.Context,
    model: Annotated[
        list[str],
        _option("--model", "Hub id, local folder, .gguf file or alias (`models ls`); may be given more than once."),
    ] = [],  # noqa: B006
    tasks: Annotated[str, _option("--tasks", "all, names separated by commas, or tag:NAME.")] = "all",
    tasks_path: Annotated[
        list[Path], _option("--tasks-path", "Additional folder with task manifests; repeatable.")
    ] = [],  # noqa: B006
    out: Annotated[Path, _option("--out", "Folder for the run's folder.")] = Path("runs"),
    leaderboard: Annotated[str, _option("--leaderboard", "Leaderboard folder, or none.")] = "leaderboards",
    method: Annotated[Literal["dim"], _option("--method", "Direction method: difference in means.")] = "dim",
    backend: Annotated[Literal["hf"], _option("--backend", "Backend for activations and interventions.")] = "hf",
    baseline_backend: Annotated[
        Literal["hf", "vllm", "openai"],
        _option(
            "--baseline-backend",
            "What writes completions: vllm those of every condition, openai a baseline from an endpoint beside hf's.",
        ),
    ] = "hf",
    selection: Annotated[
        Literal["exact", "screened"],
        _option(
            "--selection",
            "exact: the same choice as evaluating every candidate in full; screened: only the best by an estimate.",
        ),
    ] = "exact",
    contrast: Annotated[
        Literal["matched"], _option("--contrast", "Harmless prompts of a direction: each domain's own twins.")
    ] = "matched",
    judge: Annotated[
        str,
        _option("--judge", "opener, substring, classifier:ID, llm:MODEL@URL or panel:NAME+NAME+NAME (`judges ls`)."),
    ] = "opener",
    executor: Annotated[Literal["local"], _option("--executor", "Where the work runs.")] = "local",
    quantization: Annotated[
        Literal["none", "4bit", "8bit"],
        _option("--quantization", "bitsandbytes: 4bit is nf4 with double quantisation, 8bit is LLM.int8()."),
    ] = "none",
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        _option("--dtype", "auto: bfloat16 on a GPU or, for half-precision weights, a CPU with AMX; else float32."),
    ] = "auto",
    device: Annotated[str, _option("--device", "auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    adapter: Annotated[str | None, _option("--adapter", "PEFT adapter (folder or hub id) on top.")] = None,
    revision: Annotated[str | None, _option("--revision", "Hub branch, tag or commit.")] = None,
    trust_remote_code: Annotated[
        bool, _option("--trust-remote-code/--no-trust-remote-code", "Run Python code that comes with a hub model.")
    ] = False,
    system_prompt: Annotated[
        str, _option("--system-prompt", "default (the template's own), none, or a text.")
    ] = "default",
    thinking: Annotated[
        Literal["default", "on", "off"],
        _option("--thinking", "Reasoning models: the template's own way, or thinking switched on or off."),
    ] = "default",
    refusal_token: Annotated[
        list[str],
        _option("--refusal-token", "First word of a refusal; repeatable. Default: learned from the model's refusals."),
    ] = [],  # noqa: B006
    preset: Annotated[
        Literal["study", "arditi"] | None,
        _option("--preset", "A published setting (docs/reproduction.md); options that are given win over it."),
    ] = None,
    seed: Annotated[int, _option("--seed", "Seed of every random draw.")] = 0,
    sections: Annotated[str, _option("--sections", f"all, none, or some of {','.join(SECTIONS)}.")] = "all",
    quick: Annotated[
        bool, _option("--quick/--no-quick", "A smaller version of everything, marked in the record.")
    ] = False,
    save_completions: Annotated[
        bool, _option("--save-completions/--no-save-completions", "Also write completions, which may be harmful text.")
    ] = False,
    resume: Annotated[
        bool, _option("--resume/--no-resume", "Go on with an unfinished run of this configuration.")
    ] = True,
    dry_run: Annotated[
        bool, _option("--dry-run/--no-dry-run", "Check the input, print the plan and its memory; load no weights.")
    ] = False,
    json: Annotated[
        bool, _option("--json/--no-json", "Print the record, one JSON object a line, and nothing else.")
    ] = False,
) -> None:
    """Measure refusal directions of chat models per harm domain, and check them causally.

    Exit codes: 0 done, 2 bad input, 3 incomplete (the same command resumes), 130 interrupted.
    """
    # Weights are taken from disk or fetched by us; the tokenizers' own threads only contend with torch's.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    settings: dict[str, Any] = {
        "tasks": tasks,
        "tasks_path": tuple(tasks_path),
        "out": out,
        "leaderboard": None if leaderboard == "none" else Path(leaderboard),
        "method": method,
        "backend": backend,
        "baseline_backend": baseline_backend,
        "selection": selection,
        "contrast": contrast,
        "judge": judge,
        "executor": executor,
        "quantization": quantization,
        "dtype": dtype,
        "device": device,
        "adapter": adapter,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "system_prompt": system_prompt,
        "thinking": thinking,
        "refusal_tokens": tuple(refusal_token),
        "preset": preset,
        "seed": seed,
        "sections": _sections(sections),
        "quick": quick,
        "save_completions": save_completions,
        "resume": resume,
    }
    configs = [_config(model=name, **settings | _of_preset(preset, name, context)) for name in models_of(preset, model)]
    _check_inputs(configs)
    if dry_run:
        for config in configs:
            _print_plan(config)
        return
    _run_all(configs, json=json)


def _of_preset(preset: str | None, model: str, context: typer.Context) -> dict[str, Any]:
    """What a preset sets, less the options that were given on the command line or in the environment."""
    options = {"refusal_tokens": "refusal_token"}
    return {
        name: value
        for name, value in settings_of(preset, model).items()
        if _is_default(context, options.get(name, name))
    }


def _is_default(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is None or source.name == "DEFAULT"


def _config(**settings: Any) -> RunConfig:
    try:
        return RunConfig(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise InputError(f"--{name} {first['input']}: {first['msg'].lower()}.") from error


def _run_all(configs: list[RunConfig], *, json: bool) -> None:
    """Run one model after the other; a failure of one does not stop the others, and the worst exit code is kept."""
    from rich.console import Console

    from refusal_bench.console import print_summary
    from refusal_bench.pipeline import run as run_pipeline
    from refusal_bench.progress import Reporter

    failures = list[RefusalBenchError]()
    for config in configs:
        try:
            record, folder = run_pipeline(config, Reporter())
        except RefusalBenchError as error:
            failures.append(error)
            if len(configs) > 1:
                print(f"refusal-bench: {config.model}: {error}", file=sys.stderr)
            continue
        if json:
            print(record.model_dump_json())
        else:
            # Rich takes a file or a pipe for 80 columns wide, where the matrices wrap.
            print_summary(record, Console(width=None if sys.stdout.isatty() else 110))
            print(f"\n{folder / 'report.html'}")
        if record.status == "incomplete":
            failures.append(IncompleteRunError(f"{config.model}: too many completions could not be scored."))
    if failures:
        raise failures[0] if len(configs) == 1 else max(failures, key=lambda error: error.exit_code)


def _sections(text: str) -> tuple[str, ...]:
    if text in ("all", "none"):
        return SECTIONS if text == "all" else ()
    chosen = tuple(part.strip() for part in text.split(","))
    for part in chosen:
        if part not in SECTIONS:
            raise InputError(f"unknown section {part!r}; choose all, none, or some of {', '.join(SECTIONS)}.")
    return tuple(section for section in SECTIONS if section in chosen)


def _check_inputs(configs: list[RunConfig]) -> None:
    """Check everything that needs no weights, for every model, before the first one runs."""
    from refusal_bench.backends.availability import check_baseline_backend
    from refusal_bench.judges import check_spec
    from refusal_bench.models.aliases import resolve
    from refusal_bench.run_folder import check_writable
    from refusal_bench.tasks import load_tasks

    check_spec(configs[0].judge)
    for config in configs:
        check_baseline_backend(config.baseline_backend, resolve(config.model).id)
    for folder in (configs[0].out, configs[0].leaderboard):
        if folder is not None:
            check_writable(folder)
    load_tasks(configs[0].tasks, configs[0].tasks_path)


def _print_plan(config: RunConfig) -> None:
    from refusal_bench.planning import describe_plan

    for name, fact in describe_plan(config):
        print(f"{name:<13} {fact}")

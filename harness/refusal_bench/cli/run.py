"""`refusal-bench run`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from refusal_bench.cli import options
from refusal_bench.config import SECTIONS, RunConfig
from refusal_bench.errors import IncompleteRunError, InputError, RefusalBenchError
from refusal_bench.presets import models_of, settings_of

EXAMPLE = "Example: refusal-bench run --model demo --tasks weapons,fraud --out runs --seed 1"


def run(
    context: typer.Context,
    model: options.Model = [],  # noqa: B006
    tasks: options.Tasks = "all",
    tasks_path: options.TasksPath = [],  # noqa: B006
    out: options.Out = Path("runs"),
    leaderboard: options.Leaderboard = "leaderboards",
    method: options.Method = "dim",
    backend: options.Backend = "hf",
    baseline_backend: options.BaselineBackend = "hf",
    selection: options.Selection = "exact",
    contrast: options.Contrast = "matched",
    judge: options.Judge = "opener",
    executor: options.Executor = "local",
    quantization: options.Quantization = "none",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    adapter: options.Adapter = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    system_prompt: options.SystemPrompt = "default",
    thinking: options.Thinking = "default",
    refusal_token: options.RefusalToken = [],  # noqa: B006
    preset: options.Preset = None,
    seed: options.Seed = 0,
    sections: options.Sections = "all",
    quick: options.Quick = False,
    save_completions: options.SaveCompletions = False,
    resume: options.Resume = True,
    dry_run: options.DryRun = False,
    json: options.Json = False,
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
    option_of = {"refusal_tokens": "refusal_token"}
    return {
        name: value
        for name, value in settings_of(preset, model).items()
        if _is_default(context, option_of.get(name, name))
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

"""The options of `refusal-bench run`: a type, a sentence of help and an environment twin each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from refusal_bench.config import SECTIONS


def _option(flag: str, text: str, **more: Any) -> Any:
    """An option with its environment twin, REFUSAL_BENCH_<OPTION>."""
    name = flag.split("/")[0].removeprefix("--").replace("-", "_").upper()
    return typer.Option(flag, help=text, envvar=f"REFUSAL_BENCH_{name}", **more)


Model = Annotated[
    list[str],
    _option("--model", "Hub id, local folder, .gguf file or alias (`models ls`); may be given more than once."),
]
Tasks = Annotated[str, _option("--tasks", "all, names separated by commas, or tag:NAME.")]
TasksPath = Annotated[list[Path], _option("--tasks-path", "Additional folder with task manifests; repeatable.")]
Out = Annotated[Path, _option("--out", "Folder for the run's folder.")]
Leaderboard = Annotated[str, _option("--leaderboard", "Leaderboard folder, or none.")]
Method = Annotated[Literal["dim"], _option("--method", "Direction method: difference in means.")]
Backend = Annotated[Literal["hf"], _option("--backend", "Backend for activations and interventions.")]
BaselineBackend = Annotated[
    Literal["hf", "vllm", "openai"],
    _option(
        "--baseline-backend",
        "What writes completions: vllm those of every condition, openai a baseline from an endpoint beside hf's.",
    ),
]
Selection = Annotated[
    Literal["exact", "screened"],
    _option(
        "--selection",
        "exact: the same choice as evaluating every candidate in full; screened: the same in all probability, faster.",
    ),
]
Contrast = Annotated[
    Literal["matched"], _option("--contrast", "Harmless prompts of a direction: each domain's own twins.")
]
Judge = Annotated[
    str,
    _option("--judge", "opener, substring, classifier:ID, llm:MODEL@URL or panel:NAME+NAME+NAME (`judges ls`)."),
]
Executor = Annotated[Literal["local"], _option("--executor", "Where the work runs.")]
Quantization = Annotated[
    Literal["none", "4bit", "8bit"],
    _option("--quantization", "bitsandbytes: 4bit is nf4 with double quantisation, 8bit is LLM.int8()."),
]
Dtype = Annotated[
    Literal["auto", "float32", "float16", "bfloat16"],
    _option("--dtype", "auto: bfloat16 on a GPU or, for half-precision weights, a CPU with AMX; else float32."),
]
Device = Annotated[str, _option("--device", "auto, cpu, cuda, cuda:1 or mps.")]
Adapter = Annotated[str | None, _option("--adapter", "PEFT adapter (folder or hub id) on top.")]
Revision = Annotated[
    str | None, _option("--revision", "Hub branch, tag or commit. Default: an alias's pinned commit, else main.")
]
TrustRemoteCode = Annotated[
    bool, _option("--trust-remote-code/--no-trust-remote-code", "Run Python code that comes with a hub model.")
]
SystemPrompt = Annotated[str, _option("--system-prompt", "default (the template's own), none, or a text.")]
Thinking = Annotated[
    Literal["default", "on", "off"],
    _option("--thinking", "Reasoning models: the template's own way, or thinking switched on or off."),
]
RefusalToken = Annotated[
    list[str],
    _option("--refusal-token", "First word of a refusal; repeatable. Default: learned from the model's refusals."),
]
Preset = Annotated[
    Literal["study", "arditi"] | None,
    _option("--preset", "A published setting (docs/reproduction.md); options that are given win over it."),
]
Seed = Annotated[int, _option("--seed", "Seed of every random draw.")]
Sections = Annotated[str, _option("--sections", f"all, none, or some of {','.join(SECTIONS)}.")]
Quick = Annotated[bool, _option("--quick/--no-quick", "A smaller version of everything, marked in the record.")]
SaveCompletions = Annotated[
    bool, _option("--save-completions/--no-save-completions", "Also write completions, which may be harmful text.")
]
Resume = Annotated[bool, _option("--resume/--no-resume", "Go on with an unfinished run of this configuration.")]
DryRun = Annotated[
    bool, _option("--dry-run/--no-dry-run", "Check the input, print the plan and its memory; load no weights.")
]
Json = Annotated[bool, _option("--json/--no-json", "Print the record, one JSON object a line, and nothing else.")]

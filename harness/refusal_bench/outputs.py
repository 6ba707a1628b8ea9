"""The files of a finished run. No completion is among them unless --save-completions asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save

from refusal_bench import gram
from refusal_bench.causal import Column
from refusal_bench.causal.table import parquet
from refusal_bench.files import write_atomic
from refusal_bench.job import Job
from refusal_bench.observation import SPLITS, Residuals
from refusal_bench.record import HeldOutIds, Record, Refusal
from refusal_bench.report import write_report
from refusal_bench.tasks.schema import LABELS, Label


def write(
    record: Record,
    job: Job,
    residuals: Residuals,
    train_scores: Mapping[str, list[float]],
    columns: Mapping[str, Column],
) -> None:
    """Write directions, Gram matrix, prompts.jsonl, causal.parquet, report.html and, last of all, record.json."""
    folder = job.folder.path
    write_atomic(folder / "directions.safetensors", save(_directions(record, residuals)))
    write_atomic(folder / gram.FILE, gram.to_bytes(_gram(record, job, residuals)))
    rows = _prompt_rows(record, job, train_scores, columns)
    write_atomic(folder / "prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    if job.has("cross_domain") or job.has("subspace"):
        ids = {name: domain.held_out.ids for name, domain in job.domains.items()}
        write_atomic(folder / "causal.parquet", parquet(columns, ids))
    write_report(record, folder / "report.html")
    write_atomic(folder / "record.json", record.to_json())


def completion_writer(
    job: Job, name: str, ids: Mapping[Label, Sequence[str]]
) -> Callable[[str, int, int, str], None] | None:
    """Return what is done with each completion of a task's held-out prompts: None unless the user asked for them."""
    if not job.config.save_completions:
        return None
    file = job.folder.path / f"completions.{name}.jsonl"
    file.unlink(missing_ok=True)  # left by an attempt at this stage that was killed

    def append(stage: str, variant: int, prompt: int, text: str) -> None:
        of = ids["harmful" if stage.endswith("_harmful") else "harmless"]
        row = {"id": of[prompt], "stage": stage, "variant": variant, "completion": text}
        with file.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")

    return append


def _directions(record: Record, residuals: Residuals) -> dict[str, Any]:
    tensors = {}
    for name, result in record.results.tasks.items():
        candidates = residuals.vectors(name)
        vector = candidates[residuals.positions.index(result.direction.position), result.direction.layer]
        norm = np.linalg.norm(vector)
        tensors[name] = (vector / norm if norm else vector).astype(np.float32)
        tensors[f"{name}.candidates"] = candidates.astype(np.float32)
    return tensors


def _gram(record: Record, job: Job, residuals: Residuals) -> gram.Gram:
    site = gram.common_site(record, next(iter(job.domains)))
    pairs = {}
    for name, domain in job.domains.items():
        ids = zip(domain.direction.harmful_ids, domain.direction.harmless_ids, strict=True)
        for (harmful, harmless), *twins in zip(ids, *residuals.pairs_at(name, site), strict=True):
            pairs[f"{name}:{harmful}", f"{name}:{harmless}"] = (twins[0], twins[1])
    return gram.gram_of(pairs, site)


def _prompt_rows(
    record: Record, job: Job, train_scores: Mapping[str, list[float]], columns: Mapping[str, Column]
) -> list[dict[str, Any]]:
    rows = []
    for name, domain in job.domains.items():
        for split in SPLITS:
            for label in LABELS:
                ids = getattr(getattr(domain, split), f"{label}_ids")
                for prompt_id, score in zip(ids, train_scores[f"{name}.{split}.{label}"], strict=True):
                    rows.append({"id": prompt_id, "task": name, "split": split, "label": label, "score": score})
        result = record.results.tasks[name]
        held_out = list(_held_out_rows(name, result.held_out_ids, result.refusal))
        harmless = [row for row in held_out if row["label"] == "harmless"]
        for row, kl in zip(harmless, columns[name]["ablated_harmless"]["kl"], strict=True):
            row["ablated"]["kl"] = kl
        rows += held_out
    apart = record.results.over_refusal
    return rows if apart is None else [*rows, *_held_out_rows("over_refusal", apart.held_out_ids, apart.refusal)]


def _held_out_rows(task: str, ids: HeldOutIds, refusal: Refusal) -> Iterator[dict[str, Any]]:
    for label, of in ids:
        conditions = {name.removesuffix(f"_{label}"): x for name, x in refusal if name.endswith(f"_{label}")}
        for i, prompt_id in enumerate(of):
            row: dict[str, Any] = {"id": prompt_id, "task": task, "split": "held_out", "label": label}
            for what, measured in conditions.items():
                row[what] = {"verdict": measured.labels[i], "score": measured.scores[i]}
            yield row

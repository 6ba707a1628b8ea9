"""The unmodified completions of an endpoint, judged as they arrive: a block of its own, contrasted with nothing.

A finished answer is kept in the stage's folder as its letter and its token counts, never as text: an interrupted run
goes on where it was, and no harmful completion reaches the disk unless --save-completions asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from refusal_bench.backends.openai import Answer, Endpoint, Messages
from refusal_bench.config import RunConfig
from refusal_bench.files import write_atomic
from refusal_bench.job import Job
from refusal_bench.metrics.refusal import condition
from refusal_bench.models.aliases import resolve
from refusal_bench.record import Condition, Served, ServedTask


def find_endpoint(config: RunConfig) -> Endpoint | None:
    """The endpoint of a run that asks for one, once it has answered."""
    if config.baseline_backend != "openai":
        return None
    endpoint = Endpoint.from_environment(resolve(config.model).id)
    endpoint.check()
    return endpoint


def serve(job: Job) -> Served | None:
    """Ask the run's endpoint every held-out prompt of every domain; None without one.

    IncompleteRunError if it stops answering.
    """
    endpoint = job.endpoint
    if endpoint is None:
        return None
    found = {
        name: job.stage(
            f"served.{name}", f"endpoint: {name}", 2 * len(domain.held_out), partial(_ask, job, name, endpoint)
        )
        for name, domain in job.domains.items()
    }
    rows = [row for answers in found.values() for row in answers.values()]
    return Served(
        model=endpoint.model,
        prompt_tokens=sum(row["prompt_tokens"] for row in rows),
        completion_tokens=sum(row["completion_tokens"] for row in rows),
        requests=sum(row["requests"] for row in rows),
        tasks={
            name: ServedTask(
                harmful=_condition(job, domain.held_out.harmful_ids, found[name]),
                harmless=_condition(job, domain.held_out.harmless_ids, found[name]),
            )
            for name, domain in job.domains.items()
        },
    )


def _ask(job: Job, name: str, endpoint: Endpoint, advance: Callable[[int], None]) -> dict[str, Any]:
    """Return {letter, prompt_tokens, completion_tokens, requests} by prompt id."""
    chats = _chats(job, name)
    cache = job.folder.stages / f"served.{name}.jsonl"
    rows = _read_cache(cache)
    advance(len(rows))
    with cache.open("a", encoding="utf-8") as file:

        def keep(prompt_id: str, answer: Answer) -> None:
            """Judge an answer and write it down at once, so that an interruption loses none."""
            row = {
                "id": prompt_id,
                # What the provider withheld was not refused by the model.
                "letter": "?" if answer.text is None else job.judge.judge([answer.text])[0],
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens,
                "requests": answer.requests,
            }
            if job.config.save_completions:
                row["text"] = answer.text
            rows[prompt_id] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            advance(1)

        missing = {prompt_id: chat for prompt_id, chat in chats.items() if prompt_id not in rows}
        endpoint.complete(missing, job.config.sizes.max_new_tokens, job.config.seed, keep)
    if job.config.save_completions:
        texts = [{"id": key, "stage": f"{name}.served", "completion": rows[key].pop("text")} for key in chats]
        lines = "".join(json.dumps(row) + "\n" for row in texts)
        write_atomic(job.folder.path / f"completions.served.{name}.jsonl", lines)
    cache.unlink()
    return rows


def _read_cache(cache: Path) -> dict[str, dict[str, Any]]:
    """Answers of an attempt that was interrupted; a half-written last line is asked again."""
    rows: dict[str, dict[str, Any]] = {}
    for line in cache.read_text(encoding="utf-8").splitlines(keepends=True) if cache.is_file() else ():
        if line.endswith("\n"):
            row = json.loads(line)
            rows[row["id"]] = row
    write_atomic(cache, "".join(json.dumps(row) + "\n" for row in rows.values()))
    return rows


def _chats(job: Job, name: str) -> dict[str, Messages]:
    """The conversation of every held-out prompt by its id, with the run's system message."""
    held_out, system = job.domains[name].held_out, job.backend.model.template.rendering.system
    head = [{"role": "system", "content": system}] if system else []
    asked = {*held_out.harmful_ids, *held_out.harmless_ids}
    rows = (row for row in job.tasks[name].held_out if row.id in asked)
    return {row.id: [*head, {"role": "user", "content": row.prompt}] for row in rows}


def _condition(job: Job, ids: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> Condition:
    letters = "".join(rows[prompt_id]["letter"] for prompt_id in ids)
    return condition(
        letters,
        [None] * len(letters),
        n_bootstrap=job.config.sizes.n_bootstrap,
        seed=job.config.seed,
        backend="openai",
    )

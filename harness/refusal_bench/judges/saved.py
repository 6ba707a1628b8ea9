"""The completions that a run kept (`run --save-completions`), found by the conditions of its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from refusal_bench.errors import InputError
from refusal_bench.judges.reading import read_rows
from refusal_bench.record import HeldOutIds, Record, Refusal, Results, ServedTask, read_record


@dataclass(frozen=True)
class Cell:
    """One task's prompts under one condition, whose text was judged."""

    task: str
    condition: str
    """As the record names it, `baseline_harmful` and so on; `served_harmful`, `served_harmless` of an endpoint."""
    direction: str | None
    """Of what is tried beside the task's own: a domain, `random.0`, `shared`, `subspace.2` (two components)."""
    ids: tuple[str, ...]
    letters: str
    """The run's verdicts."""
    stage: str
    """What the file calls the condition."""
    variant: int = 0
    """Which of a stage's directions, as the file counts them."""

    @property
    def keys(self) -> list[tuple[str, int, str]]:
        """Where its completions are, in the order of the letters."""
        return [(self.stage, self.variant, prompt_id) for prompt_id in self.ids]


class SavedCompletion(BaseModel):
    """One row of `completions.<task>.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    """Of the prompt."""
    stage: str
    """Task and condition."""
    variant: int = 0
    """Which direction, in the order of the record's rows."""
    completion: str | None
    """What was written; null for what an endpoint's provider withheld."""


def read_run(folder: Path) -> tuple[Record, dict[Cell, list[str | None]]]:
    """Read a finished run's record and completions; InputError if they are not there or do not fit together."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give a run's folder, as in runs/MODEL/RUN_ID.")
    if not (folder / "record.json").is_file():
        raise InputError(f"{folder}: holds no record.json; give the folder of a finished run.")
    record = read_record(folder / "record.json")
    files = expected(record)
    if not any((folder / name).is_file() for name in files):
        raise InputError(f"{folder}: this run kept no completions; run it again with --save-completions.")
    found = dict[Cell, list[str | None]]()
    for name, cells in files.items():
        found |= _read(folder / name, cells)
    return record, found


def expected(record: Record) -> dict[str, list[Cell]]:
    """Every condition whose text was judged, by the file that holds its completions; InputError for a broken record."""
    results, files = record.results, dict[str, list[Cell]]()
    for name, task in results.tasks.items():
        files[f"completions.{name}.jsonl"] = list(_domain(results, name))
        if results.served is not None:
            served = _served(name, task.held_out_ids, results.served.tasks[name])
            files[f"completions.served.{name}.jsonl"] = list(served)
    if results.over_refusal is not None:
        name, apart = "over_refusal", results.over_refusal
        files[f"completions.{name}.jsonl"] = list(_own(name, apart.held_out_ids, apart.refusal, {}))
    for cell in (cell for cells in files.values() for cell in cells):
        if len(cell.letters) != len(cell.ids):
            n, prompts = len(cell.letters), len(cell.ids)
            raise InputError(f"record.json: {cell.stage} has {n} labels for {prompts} prompts; restore the record.")
    return files


def _domain(results: Results, name: str) -> Iterator[Cell]:
    task = results.tasks[name]
    rows = {"ablated_harmful": _rows(results, name, "ablation"), "added_harmless": _rows(results, name, "addition")}
    own = {condition: list(directions).index(name) for condition, directions in rows.items()}
    yield from _own(name, task.held_out_ids, task.refusal, own)
    for condition, directions in rows.items():
        for variant, (direction, letters) in enumerate(directions.items()):
            if direction != name:
                yield _cell(name, condition, task.held_out_ids, letters, direction, variant)


def _own(name: str, ids: HeldOutIds, refusal: Refusal, variants: Mapping[str, int]) -> Iterator[Cell]:
    for condition, found in refusal:
        yield _cell(name, condition, ids, found.labels, None, variants.get(condition, 0))


def _cell(name: str, condition: str, ids: HeldOutIds, letters: str, direction: str | None, variant: int) -> Cell:
    of = tuple(ids.harmful if condition.endswith("_harmful") else ids.harmless)
    return Cell(name, condition, direction, of, letters, f"{name}.{condition}", variant)


def _served(name: str, ids: HeldOutIds, served: ServedTask) -> Iterator[Cell]:
    for label, found in served:
        of = tuple(getattr(ids, label))
        yield Cell(name, f"served_{label}", None, of, found.labels, f"{name}.served")


def _rows(results: Results, name: str, what: Literal["ablation", "addition"]) -> dict[str, str]:
    """The run's letters by what was ablated from, or added to, a domain's prompts, in the order of the variants.

    That order is of `causal.rows.plan`: the domains, the controls, the leading components.
    """
    own, cross, subspace = results.tasks[name].refusal, results.cross_domain, results.subspace
    rows = {name: own.ablated_harmful.labels if what == "ablation" else own.added_harmless.labels}
    if cross is not None:
        place = cross.domains.index(name)
        rows = {d: row[place] for d, row in zip(cross.domains, getattr(cross, what).labels, strict=True)}
        controls = {control: getattr(pair, what).labels for control, pair in cross.controls}
        rows |= {f"random.{i}": row[place] for i, row in enumerate(controls["random"])}
        rows |= {"shared": controls["shared"][0][place]}
    if subspace is not None and what == "ablation":
        n = {task: len(found.held_out_ids.harmful) for task, found in results.tasks.items()}
        start = sum(n[task] for task in list(n)[: list(n).index(name)])
        letters = dict(zip(subspace.k, subspace.labels, strict=True))
        rows |= {f"subspace.{k}": row[start : start + n[name]] for k, row in letters.items() if k > 0}
    return rows


def _read(path: Path, cells: Sequence[Cell]) -> dict[Cell, list[str | None]]:
    wanted = {key for cell in cells for key in cell.keys}
    texts = dict[tuple[str, int, str], str | None]()
    for line, row in read_rows(path, SavedCompletion).items():
        key = (row.stage, row.variant, row.id)
        if key not in wanted or key in texts:
            fault = "is here twice" if key in texts else "is of no condition or prompt in record.json"
            raise InputError(f"{path}:{line}: this completion {fault}; remove the line.")
        texts[key] = row.completion
    found = {}
    for cell in cells:
        there = [key for key in cell.keys if key in texts]
        if not there and set(cell.letters) == {"?"}:
            continue  # the task forbids text under interventions
        if len(there) < len(cell.keys):
            raise InputError(
                f"{path}: holds {len(there)} of {len(cell.keys)} completions of {cell.stage}, variant {cell.variant}; "
                "restore the file or run again with --save-completions."
            )
        found[cell] = [texts[key] for key in there]
    return found

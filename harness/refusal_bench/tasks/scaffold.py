"""`tasks new`: a task that validates from the first minute, ready to be filled in."""

from __future__ import annotations

import hashlib
from pathlib import Path

from refusal_bench.errors import InputError
from refusal_bench.files import write_atomic
from refusal_bench.tasks.schema import LABELS, SPLITS, Label, Row, Split, check_name, to_jsonl

_SUBJECTS = (
    "lighthouse keeping", "apple orchards", "river ferries", "paper kites", "mountain huts", "clock towers",
    "bread ovens", "tide pools", "stone bridges", "bee hives", "wool spinning", "glass blowing", "night trains",
    "salt mines", "tea gardens", "wind mills",
)  # fmt: skip

_PAIRS: dict[Split, int] = {"train": 12, "held_out": 4}

_MANIFEST = """\
name: "{name}"
version: "1.0"            # a change to any row raises it: major if scores are no longer comparable
title: "{title}"
definition: Replace me with one sentence that says what belongs to this domain.
out_of_scope: Replace me with one sentence that says what belongs elsewhere.
taxonomy: {{ailuminate: [], harmbench: [], jailbreakbench: [], sorry_bench: []}}
license: CC-BY-4.0
generate: true            # false: logits only, no text under intervention
files:
  train: {{path: ../datasets/{name}/train.jsonl, sha256: {train}}}
  held_out: {{path: ../datasets/{name}/held_out.jsonl, sha256: {held_out}}}
"""

_CARD = """\
# {title}

What the domain is, in and out of scope. How the prompts were written and reviewed. Counts by split, label and form.
Known limits. Responsible use: prompts are request-level, no completion is distributed. Licence: CC-BY-4.0.
"""


def scaffold(name: str, root: Path) -> list[Path]:
    """Write manifest, both data files and a data card under `root`; InputError for a bad name or existing files."""
    try:
        check_name(name)
    except ValueError as error:
        raise InputError(f"task name {name!r} {error}.") from error
    data = root / "datasets" / name
    files: dict[Path, str] = {data / f"{split}.jsonl": to_jsonl(_rows(name, split)) for split in SPLITS}
    checksums = {path.stem: hashlib.sha256(text.encode()).hexdigest() for path, text in files.items()}
    title = name.replace("_", " ").capitalize()
    files[data / "README.md"] = _CARD.format(title=title)
    files[root / "tasks" / f"{name}.yaml"] = _MANIFEST.format(name=name, title=title, **checksums)
    for path in files:
        if path.exists():
            raise InputError(f"{path}: exists already; choose another name or remove it.")
    for path, text in files.items():
        write_atomic(path, text)
    return list(files)


def _rows(name: str, split: Split) -> tuple[Row, ...]:
    start = 0 if split == "train" else _PAIRS["train"]
    return tuple(
        _row(name, split, number, label, _SUBJECTS[start + number - 1])
        for number in range(1, _PAIRS[split] + 1)
        for label in LABELS
    )


def _row(name: str, split: Split, number: int, label: Label, subject: str) -> Row:
    pair = f"{name}-{split}-{number:03d}"
    prompt = f"Placeholder, {label}: {subject}."
    return Row(id=f"{pair}-{label}", prompt=prompt, label=label, pair=pair, source="placeholder")

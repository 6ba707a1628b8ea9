"""A small valid task on disk, written without the code under test, that a test then breaks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def pair_rows(name, split, numbers):
    """Adjacent rows of five words, harmful first, each pair on a subject of its own."""
    return [
        {
            "id": f"{name}-{split}-{i}-{label}",
            "prompt": f"{label[:6]} {_subject(name, i)} small question",
            "label": label,
            "pair": f"{name}-{split}-{i}",
            "source": "test",
        }
        for i in numbers
        for label in ("harmful", "harmless")
    ]


def _subject(name, i):
    digest = hashlib.sha256(f"{name} {i}".encode()).hexdigest()
    return f"{digest[:12]} {digest[12:24]}"


class TaskFolder:
    """`tasks/<name>.yaml` and `datasets/<name>/` under a root; `write()` makes the checksums right."""

    def __init__(self, root: Path, name: str = "alpha") -> None:
        self.root, self.name = root, name
        self.rows = {
            "train": pair_rows(name, "train", range(12)),
            "held_out": pair_rows(name, "held_out", range(12, 16)),
        }
        self.manifest = {
            "name": name,
            "version": "1.0",
            "title": "Alpha",
            "definition": "A test.",
            "out_of_scope": "The rest.",
            "taxonomy": {"harmbench": ["illegal"]},
            "license": "CC0-1.0",
            "generate": True,
        }

    @property
    def tasks(self) -> Path:
        return self.root / "tasks"

    @property
    def yaml(self) -> Path:
        return self.tasks / f"{self.name}.yaml"

    def data(self, split: str) -> Path:
        return self.root / "datasets" / self.name / f"{split}.jsonl"

    def turn_into(self, kind: str) -> TaskFolder:
        """Make it a sound task of a kind without a train split."""
        self.manifest["kind"] = kind
        del self.rows["train"]
        extra = {"mixed": {"domains": ["fraud", "privacy"]}, "over_refusal": {"type": "homonyms"}}[kind]
        for row in self.rows["held_out"]:
            row.update(extra)
        return self

    def write(self, **raw: bytes) -> TaskFolder:
        """Write everything; `raw` replaces the bytes of a split."""
        files = {}
        for split, rows in self.rows.items():
            data = raw.get(split, "".join(json.dumps(row) + "\n" for row in rows).encode())
            self.data(split).parent.mkdir(parents=True, exist_ok=True)
            self.data(split).write_bytes(data)
            path = f"../datasets/{self.name}/{split}.jsonl"
            files[split] = {"path": path, "sha256": hashlib.sha256(data).hexdigest()}
        self.tasks.mkdir(exist_ok=True)
        # One key a line; JSON values are YAML values.
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in (self.manifest | {"files": files}).items()]
        self.yaml.write_text("".join(lines))
        return self

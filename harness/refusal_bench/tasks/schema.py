"""What a task is: rows of prompts in two splits, and the manifest that describes them."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Split = Literal["train", "held_out"]
Label = Literal["harmful", "harmless"]
Kind = Literal["harm_domain", "mixed", "over_refusal"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
LABELS: tuple[Label, ...] = ("harmful", "harmless")
KINDS: tuple[Kind, ...] = ("harm_domain", "mixed", "over_refusal")


def check_name(name: str) -> str:
    """Return the name, or raise ValueError if it cannot name a task."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError("must be lower-case letters, digits and underscores, beginning with a letter")
    if name == "all":
        raise ValueError("'all' means every task; choose another name")
    return name


def _check_version(version: object) -> object:
    """Refuse what is not `N.N`; unquoted, YAML reads 1.10 as the number 1.1."""
    if not isinstance(version, str) or not re.fullmatch(r"\d+\.\d+", version):
        raise ValueError('must be two numbers in quotes, such as "1.0"')
    return version


def _check_text(text: str) -> str:
    """Refuse text without a letter or digit, and text that no file can hold."""
    if not any(character.isalnum() for character in text):
        raise ValueError("must not be empty")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half of a surrogate pair, which is no character")
    return text


def _check_relative(path: str) -> str:
    """Refuse absolute paths, since a task must read the same on every machine, and what cannot be a path."""
    if PurePosixPath(path).is_absolute() or re.match(r"[A-Za-z]:|\\", path):
        raise ValueError("must be relative to the manifest's folder")
    if not path.isprintable():
        raise ValueError("must not hold control characters")
    return path


Name = Annotated[str, AfterValidator(check_name)]
Text = Annotated[str, AfterValidator(_check_text)]


class Frozen(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Row(Frozen):
    """One prompt, one line of a data file."""

    id: Text
    """Unique over all tasks; results refer to prompts by it."""
    prompt: Text
    """What is asked; never an answer."""
    label: Label
    """Whether a safe model should refuse it."""
    pair: Text | None
    """Id that exactly one harmful and one harmless row of the split share; null for a row without a twin."""
    domains: tuple[Text, ...] = ()
    """Further domains the prompt touches; in a task of mixed prompts, exactly the two it belongs to."""
    type: Text | None = None
    """Why a safe prompt looks dangerous, in an over-refusal task; null elsewhere."""
    source: Text
    """Where the prompt comes from."""


class DataFile(Frozen):
    """One data file of a task."""

    path: Annotated[str, AfterValidator(_check_relative)]
    """Relative to the manifest's folder."""
    sha256: str
    """SHA-256 of the file's bytes: a changed row cannot go unnoticed."""


class DataFiles(Frozen):
    """The data files of a task."""

    train: DataFile | None = None
    """Directions are estimated and selected on these rows; only a harm domain has them."""
    held_out: DataFile
    """Everything reported is measured on these rows."""


class Manifest(Frozen):
    """`tasks/<name>.yaml`."""

    name: Name
    """Name of the task and of its manifest."""
    version: Annotated[str, BeforeValidator(_check_version)]
    """`major.minor`; scores of different majors are not comparable."""
    title: Text
    """A few words for tables."""
    definition: Text
    """What the domain is, in one sentence."""
    out_of_scope: Text
    """What it leaves to other domains, in one sentence."""
    taxonomy: dict[str, tuple[str, ...]]
    """The categories it corresponds to in other benchmarks, by benchmark."""
    license: Text
    """Licence of the data (SPDX identifier)."""
    generate: bool = True
    """False: under intervention prompts are scored by their logits alone, no text is generated."""
    tags: tuple[Text, ...] = ()
    """Words that select the task with `--tasks tag:WORD`."""
    kind: Kind = "harm_domain"
    """Harm domains have directions of their own; mixed and over-refusal prompts are only measured with those."""
    files: DataFiles | None = None
    """The data files; a manifest needs them, a task built in Python has none."""

    @model_validator(mode="after")
    def _check_train(self) -> Manifest:
        if self.files is not None and (self.files.train is not None) != ("train" in self.splits):
            fault = "needs files.train; add it" if "train" in self.splits else "has no files.train; remove it"
            raise ValueError(f"a task of kind {self.kind} {fault}")
        return self

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that a task of this kind has."""
        return SPLITS if self.kind == "harm_domain" else ("held_out",)


class Task(Frozen):
    """A harm domain, or prompts that are measured with the domains' directions, ready to be asked."""

    manifest: Manifest
    """Its description."""
    train: tuple[Row, ...]
    """Rows that directions are estimated and selected on; empty unless the task is a harm domain."""
    held_out: tuple[Row, ...]
    """Rows that results are measured on."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 over name, version and the checksums of the data."""

    @classmethod
    def from_rows(cls, manifest: Manifest, train: tuple[Row, ...], held_out: tuple[Row, ...]) -> Task:
        """Make a task of rows built in Python; its checksum is that of the rows as JSON lines."""
        checksums = [hashlib.sha256(to_jsonl(rows).encode()).hexdigest() for rows in (train, held_out)]
        sha256 = task_sha256(manifest.name, manifest.version, *checksums)
        return cls(manifest=manifest, train=train, held_out=held_out, sha256=sha256)

    def rows(self, split: Split) -> tuple[Row, ...]:
        """Return the rows of a split in file order."""
        return self.train if split == "train" else self.held_out

    def pairs(self, split: Split) -> list[tuple[Row, Row]]:
        """Return (harmful, harmless) pairs of a split.

        Real pairs come first, in file order. Rows without a twin follow: the i-th such harmful row with the i-th such
        harmless row, so that code which wants pairs still uses every row of a balanced split.
        """
        twins: dict[str, dict[Label, Row]] = {}
        single: dict[Label, list[Row]] = {label: [] for label in LABELS}
        for row in self.rows(split):
            if row.pair is None:
                single[row.label].append(row)
            else:
                twins.setdefault(row.pair, {})[row.label] = row
        real = [(pair["harmful"], pair["harmless"]) for pair in twins.values() if len(pair) == len(LABELS)]
        return real + list(zip(single["harmful"], single["harmless"], strict=False))


def to_jsonl(rows: tuple[Row, ...]) -> str:
    """Return rows as JSON lines, as they stand in a data file."""
    return "".join(row.model_dump_json(exclude_defaults=True) + "\n" for row in rows)


def task_sha256(name: str, version: str, train_sha256: str, held_out_sha256: str) -> str:
    """Return the checksum of a task: any change to its name, version or rows changes it."""
    return hashlib.sha256("\n".join((name, version, train_sha256, held_out_sha256)).encode()).hexdigest()

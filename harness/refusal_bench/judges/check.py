"""Judges on completions whose labels are known: reading them, and what a judge gets right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from refusal_bench.errors import InputError
from refusal_bench.files import sha256_of
from refusal_bench.judges.protocol import LABELS, Judge
from refusal_bench.judges.reading import read_rows
from refusal_bench.metrics.judging import calibration, proportion
from refusal_bench.record import JudgeCalibration, Proportion

BUNDLED = Path(__file__).with_name("data") / "calibration.jsonl"
"""Completions labelled by hand, without harmful detail; `part` says whether rules may be written from them."""

TEST_PART = "test"
"""The part that no rule was written from: what a record states about its judge is measured on it."""


class LabelledCompletion(BaseModel):
    """One row; further keys say where it comes from and are not read."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    prompt: str
    """What was asked; no judge sees it."""
    completion: str
    """What is judged."""
    label: str
    """One of R P D C G U."""
    part: str | None = None
    """`development` or `test`."""

    @field_validator("label")
    @classmethod
    def _known(cls, label: str) -> str:
        if label not in LABELS:
            raise ValueError(f"{label!r} is none of {', '.join(LABELS)}")
        return label


def read_labelled(path: Path) -> list[LabelledCompletion]:
    """Read rows of {prompt, completion, label}; InputError names the file and the line that is wrong."""
    rows = list(read_rows(path, LabelledCompletion).values())
    if not rows:
        raise InputError(f"{path}: has no rows; add completions, one JSON object a line.")
    return rows


def measured_error(judge: Judge) -> JudgeCalibration | None:
    """Measure a judge on the bundled test part; None where the file is missing."""
    if not BUNDLED.is_file():
        return None
    rows = [row for row in read_labelled(BUNDLED) if row.part == TEST_PART]
    gold, verdicts = _letters(judge, rows)
    return calibration(gold, verdicts, data_sha256=sha256_of(BUNDLED), part=TEST_PART)


def check(judge: Judge, rows: Sequence[LabelledCompletion], data_sha256: str) -> dict[str, Any]:
    """Return what `judges check --json` prints of one judge: all rows together, by label, and by part."""
    gold, verdicts = _letters(judge, rows)
    parts = sorted({row.part for row in rows if row.part is not None})
    places = {part: [i for i, row in enumerate(rows) if row.part == part] for part in parts}
    return (
        _figures(gold, verdicts, data_sha256, None)
        | {
            "version": judge.version,
            "data_sha256": data_sha256,
            "confusion": {
                letter: dict(Counter(v for g, v in zip(gold, verdicts, strict=True) if g == letter))
                for letter in LABELS
                if letter in gold
            },
            "labels": {letter: _by_label(gold, verdicts, letter) for letter in LABELS if letter in gold + verdicts},
        }
        | {
            "parts": {
                part: _figures("".join(gold[i] for i in at), "".join(verdicts[i] for i in at), data_sha256, part)
                for part, at in places.items()
            }
        }
    )


def _letters(judge: Judge, rows: Sequence[LabelledCompletion]) -> tuple[str, str]:
    return "".join(row.label for row in rows), "".join(judge.judge([row.completion for row in rows]))


def _figures(gold: str, verdicts: str, data_sha256: str, part: str | None) -> dict[str, Any]:
    found = calibration(gold, verdicts, data_sha256=data_sha256, part=part)
    return {
        "n": found.n,
        "n_unscored": found.n_unscored,
        **share_fields("precision", found.precision),
        **share_fields("recall", found.recall),
        **share_fields("specificity", found.specificity),
        "kappa": found.kappa,
        "kappa_ci95": found.kappa_ci95,
    }


def _by_label(gold: str, verdicts: str, letter: str) -> dict[str, Any]:
    pairs = list(zip(gold, verdicts, strict=True))
    hits = sum(g == v == letter for g, v in pairs)
    return {
        "n": gold.count(letter),
        **share_fields("precision", proportion(hits, verdicts.count(letter))),
        **share_fields("recall", proportion(hits, gold.count(letter))),
    }


def share_fields(name: str, share: Proportion) -> dict[str, Any]:
    """A share and its interval as JSON output names them."""
    return {name: share.value, f"{name}_ci95": share.ci95}

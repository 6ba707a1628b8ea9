"""The record's schema of the judge: which one it was, and its measured error."""

from __future__ import annotations

from typing import Literal

from refusal_bench.record.base import Frozen, Interval


class Proportion(Frozen):
    """A share with what it is a share of."""

    k: int
    """Successes."""
    n: int
    """Out of."""
    value: float | None
    """k / n; null for n = 0."""
    ci95: Interval | None
    """Wilson interval."""


class JudgeCalibration(Frozen):
    """A judge's error, refusal against the rest, on completions of known labels."""

    data_sha256: str
    """SHA-256 of the file of labelled completions."""
    part: str | None
    """Part of the file that was judged; null for all of it."""
    n: int
    """Completions."""
    n_unscored: int
    """Completions that the judge gave no label; they count as not called a refusal."""
    precision: Proportion
    """Refusals among completions called one."""
    recall: Proportion
    """Completions called a refusal among refusals."""
    kappa: float | None
    """Cohen's kappa; null where there is only one label."""
    kappa_ci95: Interval
    """Central 95 % under a Dirichlet posterior."""
    sensitivity: Proportion
    """Recall among completions that the judge scored, as a rate is; corrects rates."""
    specificity: Proportion
    """Completions not called a refusal among those that are none and were scored; corrects rates."""


class PanelAgreement(Frozen):
    """How far the judges of a panel agree on this run's completions of held-out prompts."""

    judges: list[str]
    """Members, in the order of the panel."""
    n: int
    """Completions."""
    unanimous: Proportion
    """Completions on which all members give one letter."""
    kappa: float | None
    """Fleiss' kappa over all letters; null where only one was given."""


class JudgeInfo(Frozen):
    """Which judge gave the letters, and how far it can be trusted."""

    name: str
    """As given to `--judge`, without an endpoint's address or a folder's path."""
    version: str
    """Of its rules, or of the model behind it."""
    languages: list[str]
    """ISO 639-1 codes of the languages it reads; `*`: those of the model behind it."""
    input: Literal["answer"]
    """It reads the answer only, never the prompt."""
    calibration: JudgeCalibration | None
    """Its measured error; null where the bundled completions are missing."""
    agreement: PanelAgreement | None
    """For a panel."""

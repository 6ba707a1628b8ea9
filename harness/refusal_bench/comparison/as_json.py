"""A comparison as one JSON object; the same records give the same bytes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from refusal_bench.comparison.compare import Comparison
from refusal_bench.comparison.gates import Check
from refusal_bench.comparison.verdicts import Verdict
from refusal_bench.record import Record


def as_json(comparison: Comparison) -> str:
    """Return the object as text; numbers are finite or null."""
    policy = comparison.policy
    content = {
        "verdict": {0: "passed", 1: "failed", 4: "not comparable"}[comparison.exit_code],
        "exit_code": comparison.exit_code,
        "base": _who(comparison.base),
        "candidate": _who(comparison.candidate),
        "reasons": [asdict(reason) for reason in comparison.reasons],
        "policy": {
            "alpha": policy.alpha,
            "delta": policy.delta.model_dump(),
            "fail_on": [expression.text for expression in policy.expressions],
        },
        "checks": [_check(check) for check in comparison.checks],
        "measurements": [_measurement(verdict) for verdict in comparison.verdicts],
        "geometry": comparison.geometry,
        "directions": comparison.directions,
        "similarity": comparison.similarity,
    }
    return json.dumps(content, indent=1, allow_nan=False)


def _who(record: Record) -> dict[str, Any]:
    return {
        "model": record.model.id,
        "run_id": record.run_id,
        "created": record.created,
        "weights_sha256": record.model.weights_sha256,
        "adapter_sha256": record.model.adapter_sha256,
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "expression": check.expression.text,
        "measurement": check.measurement.name,
        "difference": check.measurement.evidence.estimate,
        "bound": check.bound,
        "threshold": check.expression.threshold,
        "level": check.level,
        "p": check.p,
        "p_adjusted": check.p_adjusted,
        "n": check.measurement.n,
        "failed": check.failed,
    }


def _measurement(verdict: Verdict) -> dict[str, Any]:
    measured = verdict.measurement
    return {
        "name": measured.name,
        "task": measured.task,
        "unit": measured.unit,
        "worse": measured.worse,
        "verdict": verdict.word,
        "base": measured.base,
        "candidate": measured.candidate,
        "difference": measured.evidence.estimate,
        "ci95": verdict.ci95,
        "bootstrap95": measured.bootstrap95,
        "p": verdict.p,
        "p_holm": verdict.p_holm,
        "p_mcnemar": measured.p_mcnemar,
        "lost": measured.lost,
        "won": measured.won,
        "n": measured.n,
        "n_enough": verdict.n_enough,
    }

"""Two records side by side: may they be compared, what differs, what fails.

1. Comparability: reasons, graded; a hard one ends it.
2. Measurements: refusal on the same prompts, geometry by rotation-free quantities.
3. Checks: the policy's expressions against confidence bounds, all together at one level.
4. Verdicts: each measurement in a word.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from refusal_bench.comparison.comparability import Reason, common_tasks, reasons
from refusal_bench.comparison.gates import Check, applicable, decide, unanswerable
from refusal_bench.comparison.geometry import described_geometry, geometry_measurements
from refusal_bench.comparison.pairing import refusal_measurements
from refusal_bench.comparison.policy import Policy
from refusal_bench.comparison.similarity import similarity
from refusal_bench.comparison.sources import Source
from refusal_bench.comparison.spaces import direct_comparison
from refusal_bench.comparison.verdicts import Verdict, judge
from refusal_bench.record import Record


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison of two records says."""

    base: Record
    """What it is compared with."""
    candidate: Record
    """What is judged."""
    policy: Policy
    """What must not happen."""
    reasons: list[Reason]
    """What differs beside the numbers; a hard one forbids the comparison."""
    verdicts: list[Verdict] = field(default_factory=list)
    """Every measurement, judged; empty where the records are not comparable."""
    checks: list[Check] = field(default_factory=list)
    """The policy's checks, decided."""
    geometry: dict[str, Any] | None = None
    """Matrices, spectra and depths side by side."""
    directions: dict[str, Any] | None = None
    """Cosines and principal angles in one space; None where there is none."""
    similarity: dict[str, Any] | None = None
    """CKA on the same prompts; None unless both are run folders."""

    @property
    def obstacles(self) -> list[str]:
        """Why the records cannot be compared; empty if they can."""
        return [reason.text for reason in self.reasons if reason.grade == "hard"]

    @property
    def failures(self) -> list[Check]:
        """Checks that failed."""
        return [check for check in self.checks if check.failed]

    @property
    def exit_code(self) -> int:
        """0 passed, 1 a check failed, 4 not comparable."""
        return 4 if self.obstacles else 1 if self.failures else 0


def compare(base: Source, candidate: Source, policy: Policy | None = None) -> Comparison:
    """Compare two records; without a policy, the default checks apply."""
    policy = policy or Policy()
    ours, theirs = base.record, candidate.record
    found = reasons(ours, theirs)
    if any(reason.grade == "hard" for reason in found):
        return Comparison(ours, theirs, policy, found)
    common = common_tasks(ours, theirs)
    measurements = [*refusal_measurements(ours, theirs), *geometry_measurements(ours, theirs)]
    named = {measurement.name: measurement for measurement in measurements}
    policy = applicable(policy, named)
    known = sorted({*ours.results.tasks, *theirs.results.tasks})
    if sentences := unanswerable(policy, named, common, known):
        return Comparison(ours, theirs, policy, [*(Reason("hard", "check", text) for text in sentences), *found])
    checks = decide(policy, named, common)
    return Comparison(
        base=ours,
        candidate=theirs,
        policy=policy,
        reasons=found,
        verdicts=judge(measurements, checks, policy),
        checks=checks,
        geometry=described_geometry(ours, theirs),
        directions=direct_comparison(base, candidate),
        similarity=similarity(base, candidate),
    )

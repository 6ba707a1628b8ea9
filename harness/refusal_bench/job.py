"""What a run's stages work on, and what one hands to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.openai import Endpoint
from refusal_bench.causal import Column
from refusal_bench.causal.mixed import MixedPrompts
from refusal_bench.config import RunConfig
from refusal_bench.judges import Judge
from refusal_bench.over_refusal import OverRefusalPrompts
from refusal_bench.progress import Reporter
from refusal_bench.prompts import Domain
from refusal_bench.record import Mixed, Parity, Site
from refusal_bench.run_folder import RunFolder
from refusal_bench.selection import Selected
from refusal_bench.tasks import Task

if TYPE_CHECKING:
    from refusal_bench.backends.vllm import VllmBackend


@dataclass(frozen=True)
class Job:
    """What every stage needs."""

    config: RunConfig
    tasks: Mapping[str, Task]
    domains: Mapping[str, Domain]
    """The tasks' prompts, rendered."""
    mixed: MixedPrompts | None
    """Prompts of two of the domains."""
    over_refusal: OverRefusalPrompts | None
    """Safe prompts that look dangerous, and their contrasts."""
    backend: HookBackend
    judge: Judge
    folder: RunFolder
    reporter: Reporter
    parity: Parity | None = None
    """How vLLM compares with `backend`, where the run asks for it."""
    writer: VllmBackend | None = None
    """Writes the text of all conditions in place of `backend`."""
    endpoint: Endpoint | None = None
    """Gives a baseline of its own."""

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions after the instruction."""
        return self.backend.model.template.positions

    def has(self, section: str) -> bool:
        """Whether an optional section is computed: it was asked for and there are domains to compare."""
        return section in self.config.sections and (section in ("layers", "over_refusal") or len(self.domains) > 1)

    def stage(self, name: str, title: str, total: int, compute: Callable[[Callable[[int], None]], Any]) -> Any:
        """Return a stage's JSON value, computed while `compute` reports its progress, or read back if it was done."""
        with self.reporter.stage(title, total) as advance:
            return self.folder.stage(name, lambda: compute(advance), self.backend.counters)


@dataclass(frozen=True)
class Sites:
    """The selected candidate of each domain, and of all of them together."""

    own: Mapping[str, Selected]
    common: Selected

    @property
    def of_domains(self) -> dict[str, Site]:
        """Each domain's own site."""
        return {name: selected.site for name, selected in self.own.items()}


@dataclass(frozen=True)
class HeldOut:
    """What was measured on held-out prompts."""

    columns: dict[str, Column]
    orders: dict[str, list[int]]
    """In which order the subspace curve takes the domains' directions."""
    mixed: Mixed | None
    """Prompts of two domains; None where there are none."""

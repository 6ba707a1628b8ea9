"""Who writes the text of a run: the hook backend, or vLLM for every condition once it has passed the parity check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.passes import Prompt
from refusal_bench.config import RunConfig
from refusal_bench.observation import REFUSAL_TOKENS_BUDGET
from refusal_bench.over_refusal import OverRefusalPrompts
from refusal_bench.progress import Reporter
from refusal_bench.prompts import Domain
from refusal_bench.record import Parity
from refusal_bench.run_folder import RunFolder

if TYPE_CHECKING:
    from refusal_bench.backends.vllm import VllmBackend


@contextmanager
def vllm_engine(
    config: RunConfig,
    backend: HookBackend,
    domains: Mapping[str, Domain],
    apart: OverRefusalPrompts | None,
    reporter: Reporter,
) -> Iterator[VllmBackend | None]:
    """Start vLLM if the run asks for it, and stop it in the end; InputError if it cannot run this model."""
    if config.baseline_backend != "vllm":
        yield None
        return
    from refusal_bench.backends.vllm import VllmBackend

    room = max(config.sizes.max_new_tokens, REFUSAL_TOKENS_BUDGET)
    prompts = [*_prompts(domains), *(prompt for some in (apart.rendered.values() if apart else ()) for prompt in some)]
    engine = VllmBackend(backend.model, backend.counters, longest=max(map(len, prompts)) + room, seed=config.seed)
    reporter.note("starting vLLM ...")
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


def compare_backends(
    folder: RunFolder, backend: HookBackend, engine: VllmBackend, domains: Mapping[str, Domain], reporter: Reporter
) -> Parity:
    """Whether vLLM may write this run's text; the start of the engine is timed apart."""
    from refusal_bench.backends.parity import check_parity

    folder.timings["vllm_start"] = engine.start_s
    with reporter.stage("parity of vLLM", 1):
        found = folder.stage(
            "parity", lambda: check_parity(backend, engine, _prompts(domains)).model_dump(), backend.counters
        )
    return Parity.model_validate(found)


def _prompts(domains: Mapping[str, Domain]) -> list[Prompt]:
    splits = [split for x in domains.values() for split in (x.direction, x.selection, x.held_out)]
    return [prompt for split in splits for prompt in split.prompts]

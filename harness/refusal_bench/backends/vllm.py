"""Bulk generation with vLLM: the hook backend's own weights, all prompts in one continuous batch, greedy.

1. The loaded module, adapter merged, is written to a temporary folder once and read by vLLM; the folder is removed.
2. Prompts go in as the token ids that every backend shares. Requests carry the intervention's fingerprint as a cache
   salt: a cached prefix is never used under another intervention.
3. Interventions are hooks in the worker (`vllm_hooks.py`), so the engine runs in eager mode. After every batch the
   tokens that went through each hook are compared with the tokens that were computed.
4. A completion that the caller calls decided is aborted, as in the hook backend.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from refusal_bench.backends import vllm_hooks
from refusal_bench.backends.availability import engine_arguments
from refusal_bench.backends.hf import end_tokens
from refusal_bench.backends.passes import Counters, Prompt
from refusal_bench.errors import InputError
from refusal_bench.interventions import Ablate, Add, Intervention
from refusal_bench.models.loading import ChatModel

TOP = 20
"""Most likely next tokens that `next_log_probabilities` returns: as many as vLLM gives by default."""

GPU_SHARE = 0.5
"""Share of the GPU's memory left free by the hook backend that vLLM takes."""

CPU_CACHE_BYTES = 4 * 2**30
"""Keys and values on a CPU; VLLM_CPU_KVCACHE_SPACE (GiB) overrides it."""

CPU_BLOCK_TOKENS = 32
"""Block of cached tokens on a CPU. vLLM's default of 128 is longer than most prompts: nothing would be shared."""


@dataclass
class VllmBackend:
    """Generates text with one vLLM engine, which is started by `start`."""

    model: ChatModel
    counters: Counters
    longest: int
    """Most tokens of a prompt and its answer together."""
    seed: int = 0
    start_s: float = 0.0
    """Seconds that the engine took to start."""
    _engine: Any = field(default=None, repr=False)
    _n_requests: int = 0

    def start(self) -> None:
        """Start the engine; InputError if vLLM cannot run this model here."""
        before = time.perf_counter()
        with _contained(), tempfile.TemporaryDirectory() as folder:
            from vllm import LLM  # only now: the settings of _contained are read at import

            arguments = engine_arguments() | {
                "model": folder,
                "skip_tokenizer_init": True,
                "dtype": self.model.dtype,
                "seed": self.seed,
                "max_model_len": self.longest,
                "enforce_eager": True,
                "enable_prefix_caching": True,
                "generation_config": "vllm",
                "use_tqdm_on_load": False,
            }
            try:
                self.model.module.save_pretrained(folder)
                self._engine = LLM(**(_memory(self.model.module.device) | arguments))
                # The first pass compiles kernels, and finds out about shapes that they do not support.
                self.next_log_probabilities([tuple(self.model.template.render("Hello"))])
            # Whatever vLLM raises for a model, shape or machine that it does not support.
            except (ValueError, RuntimeError, ImportError, KeyError, AssertionError) as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise InputError(
                    f"{self.model.id}: vLLM cannot run it here ({reason}); use --baseline-backend hf."
                ) from error
        self.start_s = time.perf_counter() - before

    def close(self) -> None:
        """Stop the engine and give its memory back."""
        if self._engine is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        self._engine.llm_engine.engine_core.shutdown()
        self._engine = None
        cleanup_dist_env_and_memory()

    def complete(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        intervention: Intervention | None = None,
        decided: Callable[[Sequence[int]], bool] = lambda tokens: False,
        on_progress: Callable[[int], None] = lambda rows: None,
    ) -> list[list[Prompt]]:
        """Complete every prompt greedily under every variant: token ids without the end token, [variant][prompt]."""
        from vllm import SamplingParams

        ends = end_tokens(self.model)
        # Only our own end tokens end a completion, so that both backends stop alike.
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=max_new_tokens,
            stop_token_ids=sorted(ends),
            ignore_eos=True,
            detokenize=False,
        )

        def finished(outputs: list[Any]) -> list[Prompt]:
            found = [tuple(output.outputs[0].token_ids) for output in outputs]
            return [tokens[:-1] if tokens and tokens[-1] in ends else tokens for tokens in found]

        return [
            finished(self._run(prompts, parameters, variant, decided, on_progress))
            for variant in _variants(intervention)
        ]

    def next_log_probabilities(
        self, prompts: Sequence[Prompt], intervention: Intervention | None = None
    ) -> list[dict[int, float]]:
        """Log-probabilities of the TOP most likely next tokens of every prompt, under the first variant."""
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0.0, max_tokens=1, logprobs=TOP, ignore_eos=True, detokenize=False)
        outputs = self._run(prompts, parameters, _variants(intervention)[0])
        return [
            {token: float(entry.logprob) for token, entry in output.outputs[0].logprobs[0].items()}
            for output in outputs
        ]

    def _run(
        self,
        prompts: Sequence[Prompt],
        parameters: Any,
        intervention: Ablate | Add | None,
        decided: Callable[[Sequence[int]], bool] = lambda tokens: False,
        on_progress: Callable[[int], None] = lambda rows: None,
    ) -> list[Any]:
        """Run one continuous batch to its end; return the last output of every prompt."""
        with self._intervening(intervention) as check:
            latest = self._drain(self._submit(prompts, parameters, intervention), decided, on_progress)
            # The last token of an answer is never fed back.
            computed = sum(
                len(output.prompt_token_ids) - (output.num_cached_tokens or 0) + len(output.outputs[0].token_ids) - 1
                for output in latest
            )
            self.counters.tokens += computed
            check(computed)
        return latest

    def _submit(self, prompts: Sequence[Prompt], parameters: Any, intervention: Ablate | Add | None) -> list[str]:
        from vllm.inputs import tokens_input

        salt, names = _fingerprint(intervention), []
        for prompt in prompts:
            self._n_requests += 1
            names.append(str(self._n_requests))
            self._engine.llm_engine.add_request(names[-1], tokens_input(list(prompt), cache_salt=salt), parameters)
        return names

    def _drain(
        self, names: list[str], decided: Callable[[Sequence[int]], bool], on_progress: Callable[[int], None]
    ) -> list[Any]:
        engine, latest, running = self._engine.llm_engine, dict[str, Any](), set(names)
        seen = dict.fromkeys(names, 0)
        try:
            while running:
                self.counters.forward_passes += 1
                for output in engine.step():
                    name, tokens = output.request_id, output.outputs[0].token_ids
                    if name not in running:  # aborted, and still in the step that was under way
                        continue
                    latest[name] = output
                    stop = any(decided(tokens[:count]) for count in range(seen[name] + 1, len(tokens) + 1))
                    seen[name] = len(tokens)
                    if stop and not output.finished:
                        engine.abort_request([name])
                    if stop or output.finished:
                        running.remove(name)
                        on_progress(1)
        finally:
            # After an exception: what went on would be computed, and cached, without the intervention.
            engine.abort_request(sorted(running))
        return [latest[name] for name in names]

    @contextlib.contextmanager
    def _intervening(self, intervention: Ablate | Add | None) -> Iterator[Callable[[int], None]]:
        """Hook the worker's model; the check raises RuntimeError if a computed token missed a hook."""
        if intervention is None:
            yield lambda computed: None
            return
        expected = 0

        def check(computed: int) -> None:
            nonlocal expected
            expected = computed

        names = self.model.structure.names
        self._engine.apply_model(partial(vllm_hooks.install, intervention=intervention, names=names))
        try:
            yield check
        finally:
            passed = self._engine.apply_model(vllm_hooks.remove)
        if any(min(tokens) < expected for tokens in passed):
            raise RuntimeError("a hook point of the intervention was not reached by every token in vLLM")


def _variants(intervention: Intervention | None) -> list[Ablate | Add | None]:
    if intervention is None:
        return [None]
    each = [intervention.take([i]) for i in range(len(intervention))]
    return [None if isinstance(one, Ablate) and one.is_nothing else one for one in each]


def _fingerprint(intervention: Ablate | Add | None) -> str:
    if intervention is None:
        return "none"
    values, where = (
        (intervention.basis, "everywhere")
        if isinstance(intervention, Ablate)
        else (intervention.vectors, intervention.layers)
    )
    return hashlib.sha256(f"{where}".encode() + values.float().contiguous().numpy(force=True).tobytes()).hexdigest()


def _memory(device: torch.device) -> dict[str, Any]:
    """What vLLM may take beside the hook backend's copy of the weights."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return {"gpu_memory_utilization": round(GPU_SHARE * free / total, 3)}
    return {"kv_cache_memory_bytes": CPU_CACHE_BYTES, "block_size": CPU_BLOCK_TOKENS}


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Keep vLLM from logging to standard output, from the network, and from changing this process's threads."""
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: hooks and early stops need no pickling
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # our hooks are sent to the workers of a tensor-parallel engine
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads  # vLLM replaces it by a function that does nothing
        torch.set_num_threads(threads)

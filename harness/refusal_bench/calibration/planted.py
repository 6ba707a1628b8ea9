"""The planted model: a real LlamaForCausalLM whose refusal directions and causal effects are known in closed form.

1. A harmful instruction is a token whose embedding carries harm of its domain j with a strength s of about 1; every
   instruction of a known task also carries its topic.
2. One block writes s·a·r_j and the topic at the instruction and at every later token; the unit vectors r_j have the
   world's Gram matrix. Every other block writes a little of the prompt's own noise.
3. After the template's last token the unembedding gives refusal minus compliance = (g·w·h - b)·N/‖h‖, w·r_j = 1. A
   world may have several refusals, each with an opening token and a w of its own.
4. The answer follows from its first token by bigrams that no refusal direction touches.

docs/planted-model.md derives it; the model is built in memory and never saved.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from refusal_bench.calibration.planted_tokenizer import build_tokenizer, check_instruction
from refusal_bench.calibration.planted_weights import (
    HEAD_DIM,
    planted_differences,
    planted_directions,
    planted_harm_directions,
    planted_weights,
)
from refusal_bench.calibration.planted_world import (
    STUDY_COSINES,
    STUDY_DOMAINS,
    WORLDS,
    ExpectedScores,
    Instruction,
    PlantedWorld,
    expected_scores,
)
from refusal_bench.errors import InputError

__all__ = [
    "STUDY_COSINES",
    "STUDY_DOMAINS",
    "WORLDS",
    "ExpectedScores",
    "Instruction",
    "PlantedWorld",
    "build_planted",
    "expected_scores",
    "planted_differences",
    "planted_directions",
    "planted_harm_directions",
]


def build_planted(
    world: PlantedWorld, prompts: Mapping[str, Instruction | None]
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Build model and tokenizer; `prompts` says whose each instruction is, None for a harmless one without a topic."""
    for text, instruction in prompts.items():
        check_instruction(text)
        if instruction is not None and not {instruction.task, instruction.also} <= {*world.domains, None}:
            known = ", ".join(world.domains)
            raise InputError(
                f"the planted world {world.name} has no domain {instruction.task!r}; choose tasks among {known}."
            )
    instructions = {text: prompts[text] for text in sorted(prompts)}
    tokenizer = build_tokenizer(instructions)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=world.d_model,
        intermediate_size=len(world.domains),
        num_hidden_layers=world.n_layers,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=HEAD_DIM,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        rms_norm_eps=1e-9,
        tie_word_embeddings=False,
        dtype="float32",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # transformers draws initial weights; all are replaced below
        model = LlamaForCausalLM(config).eval()
    weights = planted_weights(world, instructions)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(torch.from_numpy(weights[name]))
            elif "norm" not in name:
                parameter.zero_()
    return model, tokenizer

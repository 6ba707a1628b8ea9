"""Tiny random models of several architectures, with a character tokenizer and a chat template of their own."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are small.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "[INST] {{ m['content'] }} [/INST]{% endfor %}"
)
SHAPE = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
}
GROUPED = {"num_key_value_heads": 2}
HEADS_OF_8 = GROUPED | {"head_dim": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
SMALL_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
DEEPSEEK_EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT_HEADS = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
ALTERNATING = ["linear_attention", "full_attention", "linear_attention", "full_attention", "linear_attention"]
LINEAR_HEADS = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
ARCHITECTURES = {
    "llama": ("Llama", GROUPED),
    "llama-tied": ("Llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", GROUPED | {"sliding_window": 6}),
    "mixtral": ("Mixtral", GROUPED | EXPERTS),
    "qwen2": ("Qwen2", GROUPED),
    "qwen2-moe": ("Qwen2Moe", GROUPED | SMALL_EXPERTS | {"shared_expert_intermediate_size": 24}),
    "qwen3": ("Qwen3", HEADS_OF_8),
    "qwen3-moe": ("Qwen3Moe", HEADS_OF_8 | SMALL_EXPERTS),
    "gemma": ("Gemma", HEADS_OF_8),
    "gemma2": ("Gemma2", HEADS_OF_8 | {"sliding_window": 4}),
    "gemma3": ("Gemma3", HEADS_OF_8 | {"sliding_window": 6}),
    "phi": ("Phi", {}),
    "phi3": ("Phi3", GROUPED),
    "phimoe": ("Phimoe", GROUPED | EXPERTS),
    "olmo": ("Olmo", GROUPED),
    "olmo2": ("Olmo2", GROUPED),
    "olmo3": ("Olmo3", GROUPED | {"sliding_window": 6}),
    "olmoe": ("Olmoe", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
    "gpt-neox": ("GPTNeoX", {"use_parallel_residual": True}),
    "gpt-neox-sequential": ("GPTNeoX", {"use_parallel_residual": False}),
    "falcon-7b": ("Falcon", {"parallel_attn": True, "multi_query": True, "bias": True}),
    "falcon-40b": ("Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-rw": ("Falcon", {"parallel_attn": False, "multi_query": False, "alibi": True, "bias": True}),
    "stablelm": ("StableLm", GROUPED),
    "stablelm-parallel": ("StableLm", GROUPED | {"use_parallel_residual": True}),
    "smollm3": ("SmolLM3", GROUPED),
    "granite": ("Granite", GROUPED | {"residual_multiplier": 0.3, "embedding_multiplier": 5.0}),
    "granite-moe": ("GraniteMoe", GROUPED | EXPERTS | {"residual_multiplier": 0.3}),
    "cohere": ("Cohere", GROUPED),
    "cohere2": ("Cohere2", GROUPED | {"sliding_window": 6}),
    "glm4": ("Glm4", HEADS_OF_8),
    "gpt-oss": ("GptOss", HEADS_OF_8 | EXPERTS | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
}
"""Class and settings of a tiny model of each architecture in the table of layouts."""
UNLISTED = {
    "gpt2": ("GPT2", {"n_inner": 48}),
    "bloom": ("Bloom", {}),
    "deepseek-v3": ("DeepseekV3", DEEPSEEK_EXPERTS | LATENT_HEADS),
    "granite-moe-shared": ("GraniteMoeShared", GROUPED | EXPERTS | {"shared_intermediate_size": 24}),
    "qwen3-next": (
        "Qwen3Next",
        HEADS_OF_8 | SMALL_EXPERTS | LINEAR_HEADS | {"layer_types": ALTERNATING, "shared_expert_intermediate_size": 16},
    ),
    "lfm2": ("Lfm2", GROUPED | {"layer_types": ["conv", "full_attention", "conv", "full_attention", "conv"]}),
    "mamba": ("Mamba", {}),
}
"""The same for architectures that are found by structure; the last three remember through recurrent states."""
FAMILIES = ("llama", "qwen2", "gemma2")
"""The few that tests of everything else run on."""


def tiny_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    specials = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: index for index, token in enumerate(specials + letters)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=specials[3:],
    )
    fast.chat_template = template
    return fast


def tiny_module(family: str, seed: int = 0, **settings: object) -> torch.nn.Module:
    name, more = (ARCHITECTURES | UNLISTED)[family]
    config_class = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")
    config = config_class(
        **(
            SHAPE
            | {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0, "initializer_range": 0.15}
            | more
            | settings
        )
    )
    model_class = getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = model_class(config).eval()
        for parameter_name, parameter in module.named_parameters():
            # Biases and norms start at zero and one, where nothing would notice that they were left out.
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, mean=float("norm" in parameter_name), std=0.1)
        return module


def save_tiny(
    folder: Path, family: str = "llama", template: str | None = CHATML, *, tokenizer: bool = True, **settings: object
) -> Path:
    tiny_module(family, **settings).save_pretrained(folder)
    if tokenizer:
        tiny_tokenizer(template).save_pretrained(folder)
    return folder

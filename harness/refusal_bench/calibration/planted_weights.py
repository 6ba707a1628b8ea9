"""The planted model's weights, set by hand in named coordinates of the stream.

Coordinates are the rows of a Hadamard matrix with random signs, so that every planted vector is spread evenly over all
channels and the basis is exact on every machine. An RMSNorm divides a stream of length n by n/√d; a matrix that reads
through one is scaled back for the length that the stream has there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import accumulate, pairwise

import numpy as np

from refusal_bench.calibration.planted_tokenizer import (
    COMPLIANCE,
    END,
    INSTRUCTION_POSITION,
    NEWLINE,
    OPENERS,
    PROMPT_TOKENS,
    REFUSAL,
    RESERVED,
)
from refusal_bench.calibration.planted_world import (
    Array,
    Instruction,
    PlantedWorld,
    mean_streams,
    refusal_vectors,
    topic_vectors,
)

SEED = "refusal-bench planted"
HEAD_DIM = 16
CONST, CODE, KEY, HARM, TOPIC, RELAY = 2.5, 2.0, 1.0, 1.25, 0.5, 1.0  # lengths of a stream's parts
GATE = 4.0  # input of the MLP's gates
FLOOR = 40.0  # nats by which a token that cannot come next trails
SHARP, BROAD = 20.0, 3.0  # attention logit of the instruction: takes all; takes less the more tokens there are

CODED = tuple(dict.fromkeys((NEWLINE, *OPENERS, *REFUSAL, *COMPLIANCE)))
"""Tokens with a code of their own, which lifts the tokens that come next."""


def stream_axes(world: PlantedWorld) -> dict[str, slice]:
    """Return which coordinates each part of the stream takes."""
    n_domains = len(world.domains)
    sizes = {
        "const": 1,  # the same for every token: biases
        "key": 1,  # marks an instruction
        "harm": n_domains,  # of the instruction's domain
        "relay": n_domains,  # harm on its way from attention to the MLP
        "topic": 2 * n_domains,  # of the instruction
        "refusal": n_domains,  # the span of the r_j
        "subject": 2 * n_domains,  # where the topic is written
        "private": HEAD_DIM,  # an instruction's own noise
        "noise": HEAD_DIM,  # where the blocks write it
        "code": len(CODED),
    }
    ends = list(accumulate(sizes.values()))
    axes = {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}
    return axes | {"identity": slice(ends[-1], world.d_model)}  # what else tells tokens apart


def stream_basis(world: PlantedWorld) -> Array:
    """Return the coordinates' orthonormal directions, one a row; all entries are ±1/√d."""
    hadamard = np.ones((1, 1))
    while len(hadamard) < world.d_model:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    basis: Array = hadamard * _rng(world, "signs").choice([-1.0, 1.0], world.d_model) / np.sqrt(world.d_model)
    return basis


def planted_directions(world: PlantedWorld) -> Array:
    """Return the unit refusal directions in the stream, one row a domain."""
    directions: Array = refusal_vectors(world)[0] @ stream_basis(world)[stream_axes(world)["refusal"]]
    return directions


def planted_differences(world: PlantedWorld) -> Array:
    """Return the differences in means after the write, one row a domain: refusal, and whatever else twins differ in."""
    axes, (harmful, harmless) = stream_axes(world), mean_streams(world)
    differences: Array = (harmful - harmless) @ stream_basis(world)[np.r_[axes["refusal"], axes["subject"]]]
    return differences


def planted_harm_directions(world: PlantedWorld) -> Array:
    """Return the unit directions of harm in the stream at the instruction, before the write, one row a domain."""
    harm = stream_basis(world)[stream_axes(world)["harm"]]
    return harm[[_harm_axis(world, domain) for domain in world.domains]]


def planted_weights(world: PlantedWorld, prompts: Mapping[str, Instruction | None]) -> dict[str, Array]:
    """Return every matrix that is not zero by parameter name; norm weights stay one."""
    basis = stream_basis(world)
    weights = {
        "model.embed_tokens.weight": _embeddings(world, prompts) @ basis,
        "lm_head.weight": _unembeddings(world, len(RESERVED) + len(prompts)) @ basis,
    }
    for layer in range(world.n_layers):
        block = _write_block(world) if layer == world.write_layer else _noise_block(world, layer)
        for name, matrix in block.items():
            # Names say the side: o_proj and down_proj write to the stream, the others read from it.
            matrix = basis.T @ matrix.T if name in ("self_attn.o_proj", "mlp.down_proj") else matrix @ basis
            weights[f"model.layers.{layer}.{name}.weight"] = matrix
    return weights


def _embeddings(world: PlantedWorld, prompts: Mapping[str, Instruction | None]) -> Array:
    """Return one row of length `norm` a token; what planted features leave of it is the token's identity."""
    axes = stream_axes(world)
    rows = np.zeros((len(RESERVED) + len(prompts), world.d_model))
    for row, token in zip(rows, (*RESERVED, *prompts), strict=True):
        rng = _rng(world, f"token {token}")  # of its own: a prompt's features do not depend on which others there are
        row[axes["const"]] = CONST
        if token in CODED:
            row[axes["code"]][CODED.index(token)] = CODE
        if token in prompts:
            row[axes["key"]] = KEY
            row[axes["private"]] = rng.standard_normal(HEAD_DIM) / np.sqrt(HEAD_DIM)
            if (instruction := prompts[token]) is not None:
                topics = topic_vectors(world, harmful=instruction.harmful)
                row[axes["topic"]] = TOPIC * topics[world.domains.index(instruction.task)]
                if instruction.harmful:
                    strength = 1 + world.strength_spread * np.clip(rng.standard_normal(), -2, 2)
                    for domain in (instruction.task, instruction.also or instruction.task):
                        row[axes["harm"]][_harm_axis(world, domain)] = HARM * strength
        identity = rng.standard_normal(world.d_model - axes["identity"].start)
        row[axes["identity"]] = identity * np.sqrt((world.norm**2 - row @ row) / (identity @ identity))
    return rows


def _unembeddings(world: PlantedWorld, n_tokens: int) -> Array:
    """Return one row a token: logit -FLOOR, 0 after a token it may follow; to that a refusal opener adds its score."""
    axes, ids = stream_axes(world), {token: index for index, token in enumerate(RESERVED)}
    rows = np.zeros((n_tokens, world.d_model))
    rows[:, axes["const"]] = -FLOOR / CONST
    readouts = refusal_vectors(world)[1].T
    openers = OPENERS[: len(readouts)]
    for token, following in _bigrams(openers):
        rows[ids[following], axes["code"].start + CODED.index(token)] = FLOOR / CODE
    for opener, readout in zip(openers, readouts, strict=True):
        row = rows[ids[opener]]
        row[axes["refusal"]] = world.gain * readout
        row[axes["const"]] -= world.bias / CONST
        row[axes["noise"].start] = world.score_spread / world.noise * np.sqrt(HEAD_DIM)
    rows *= world.norm / np.sqrt(world.d_model)
    return rows


def _bigrams(openers: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return every (token, next token) of the answers."""
    answers = (*((opener, *REFUSAL) for opener in openers), COMPLIANCE)
    return sorted({pair for answer in answers for pair in pairwise((NEWLINE, *answer, END))})


def _noise_block(world: PlantedWorld, layer: int) -> dict[str, Array]:
    """Return a block that copies a random mixture of the instruction's private noise to itself and later tokens."""
    mixing = _rng(world, f"layer {layer}").standard_normal((HEAD_DIM, HEAD_DIM)) / np.sqrt(HEAD_DIM)
    return {
        **_attend(world, BROAD),
        "self_attn.v_proj": _read(world, "private", world.norm),
        "self_attn.o_proj": _write(world, HEAD_DIM, noise=_noise_scale(world) * mixing),
    }


def _write_block(world: PlantedWorld) -> dict[str, Array]:
    """Return the block that turns harm into refusal: half in attention, which relays harm to the MLP for the rest.

    The same head copies the topic.
    """
    n_domains = len(world.domains)
    half = world.strength / 2 * refusal_vectors(world)[0]
    relay = RELAY * np.eye(n_domains)
    subject = np.eye(3 * n_domains, 2 * n_domains, -n_domains)  # the head's channels after those of harm
    noise = _noise_scale(world) * _share(BROAD, INSTRUCTION_POSITION + 1)
    before = float(np.sqrt(world.norm**2 + world.write_layer * noise**2))
    between = float(np.sqrt(before**2 + (world.strength / 2) ** 2 + RELAY**2 + world.topic**2))
    silu = GATE / (1 + np.exp(-GATE))
    gates = np.repeat(_read(world, "const", between) * GATE / CONST, n_domains, axis=0)
    return {
        **_attend(world, SHARP),
        "self_attn.v_proj": _pad(
            np.vstack([_read(world, "harm", before) / HARM, _read(world, "topic", before) / TOPIC])
        ),
        "self_attn.o_proj": _write(world, HEAD_DIM, refusal=half, relay=relay, subject=subject),
        "mlp.gate_proj": gates,
        "mlp.up_proj": _read(world, "relay", between) / RELAY / silu,
        "mlp.down_proj": _write(world, n_domains, refusal=half, relay=-relay),
    }


def _attend(world: PlantedWorld, logit: float) -> dict[str, Array]:
    """Return queries and keys that give instruction tokens that logit and all others zero."""
    axes = stream_axes(world)
    queries, keys = np.zeros((2, HEAD_DIM, world.d_model))
    slowest = HEAD_DIM // 2 - 1  # the rotary channel that turns by 1e-7 a token
    queries[slowest, axes["const"]] = logit * np.sqrt(HEAD_DIM) / CONST
    keys[slowest, axes["key"]] = 1 / KEY
    scale = world.norm / np.sqrt(world.d_model)
    return {"self_attn.q_proj": scale * queries, "self_attn.k_proj": scale * keys}


def _harm_axis(world: PlantedWorld, domain: str) -> int:
    """Return which of the harm coordinates a domain's instructions carry."""
    return 0 if world.shared_harm else world.domains.index(domain)


def _read(world: PlantedWorld, axis: str, length: float) -> Array:
    """Return rows that read the coordinates of an axis through the norm of a stream of that length."""
    rows: Array = np.eye(world.d_model)[stream_axes(world)[axis]] * length / np.sqrt(world.d_model)
    return rows


def _write(world: PlantedWorld, n_inputs: int, **maps: Array) -> Array:
    """Return rows, one an input, that write each map along the axis it is named by; inputs without a row do nothing."""
    rows = np.zeros((n_inputs, world.d_model))
    for axis, matrix in maps.items():
        rows[: len(matrix), stream_axes(world)[axis]] = matrix
    return rows


def _pad(rows: Array) -> Array:
    """Return the rows with zero rows below, one for each channel of the head."""
    return np.pad(rows, ((0, HEAD_DIM - len(rows)), (0, 0)))


def _noise_scale(world: PlantedWorld) -> float:
    """Return the scale of a block's noise with which all of them end at `noise` at the last token of a prompt."""
    return float(world.noise / np.sqrt(world.n_layers - 1) / _share(BROAD, PROMPT_TOKENS))


def _share(logit: float, n_tokens: int) -> float:
    """Return the instruction's share of attention among that many tokens."""
    return float(1 / (1 + (n_tokens - 1) * np.exp(-logit)))


def _rng(world: PlantedWorld, purpose: str) -> np.random.Generator:
    """Return the generator of one draw."""
    return np.random.default_rng(list(hashlib.sha256(f"{SEED} {world.draw} {purpose}".encode()).digest()))

"""Made-up records that agree with themselves; every aggregate is computed here by its own route, not by the package."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from refusal_bench.record import Record

DOMAINS = ("fraud", "privacy", "weapons")
N_LAYERS, D_MODEL, POSITIONS, N_RANDOM = 10, 16, (-3, -2, -1), 3
LETTERS = "RPDCGU?"
SAFE_TYPES, UNSAFE_TYPES = ("homonyms", "safe_targets"), ("safe_targets", "definitions")


def wilson(k: int, n: int) -> tuple[float, float] | None:
    if n == 0:
        return None
    z, p = NormalDist().inv_cdf(0.975), k / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def rate(labels: str) -> float | None:
    scored = [letter for letter in labels if letter in "RPDCG"]
    return scored.count("R") / len(scored) if scored else None


def condition(labels: str, scores: list[float | None]) -> dict[str, Any]:
    scored = sum(letter in "RPDCG" for letter in labels)
    score = mean(scores)
    return {
        "rate": rate(labels),
        "ci95": wilson(labels.count("R"), scored),
        "n": len(labels),
        "n_unscored": len(labels) - scored,
        "score": score,
        "score_ci95": None if score is None else (score - 0.05, score + 0.05),
        "labels": labels,
        "scores": scores,
    }


class Draw:
    """Seeded labels and scores."""

    def __init__(self, seed: int, n: int) -> None:
        self.rng, self.n = np.random.default_rng(seed), n

    def passes(self, share: float) -> tuple[str, list[float | None]]:
        rest = (1 - share - 0.04) if share < 0.96 else 0.0
        weights = np.array([share, 0.01, 0.01, max(rest, 0), 0.01, 0.005, 0.005])
        letters = self.rng.choice(list(LETTERS), size=self.n, p=weights / weights.sum())
        scores: list[float | None] = [float(s) for s in self.rng.normal(6 * share - 3, 1.0, self.n)]
        return "".join(letters), scores


def causal(cells: list[list[tuple[str, list[float | None]]]]) -> dict[str, Any]:
    each = [[condition(*cell) for cell in row] for row in cells]
    return {
        "refusal_rate": [[cell["rate"] for cell in row] for row in each],
        "ci95": [[cell["ci95"] for cell in row] for row in each],
        "score": [[cell["score"] for cell in row] for row in each],
        "n": [[cell["n"] - cell["n_unscored"] for cell in row] for row in each],
        "labels": [[cell["labels"] for cell in row] for row in each],
        "scores": [[cell["scores"] for cell in row] for row in each],
    }


def control(draw: Draw, n_directions: int, n_domains: int, share: float) -> dict[str, Any]:
    labels = [[draw.passes(share)[0] for _ in range(n_domains)] for _ in range(n_directions)]
    rates = [[rate(labels[i][j]) for i in range(n_directions)] for j in range(n_domains)]
    score = 6 * share - 3
    return {
        "n_directions": n_directions,
        "refusal_rate": [mean(column) for column in rates],
        "band95": [tuple(np.percentile(column, [2.5, 97.5]).tolist()) for column in rates],
        "score": [score] * n_domains,
        "score_band95": [(score - 0.3, score + 0.3)] * n_domains,
        "labels": labels,
    }


def spectrum(vectors: np.ndarray) -> dict[str, Any]:
    power = np.linalg.svd(vectors, compute_uv=False) ** 2
    ratio = power / power.sum()
    return {
        "explained_variance_ratio": ratio.tolist(),
        "n_for_90": int(np.argmax(np.cumsum(ratio) >= 0.9)) + 1,
        "ci95": [(max(r - 0.04, 0.0), min(r + 0.04, 1.0)) for r in ratio],
        "null95": [(max(1 / len(ratio) - 0.05, 0.0), 1 / len(ratio) + 0.05)] * len(ratio),
        "one_direction95": [(0.8, 0.9), *[(0.01, 0.1)] * (len(ratio) - 1)],
    }


def geometry(rng: np.random.Generator, domains: list[str], *, own_site: bool) -> dict[str, Any]:
    n = len(domains)
    vectors = rng.normal(size=(n, D_MODEL)) + 1.2 * rng.normal(size=D_MODEL)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = [[1.0 if i == j else float(vectors[i] @ vectors[j]) for j in range(n)] for i in range(n)]
    power = np.linalg.svd(vectors, compute_uv=False) ** 2
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    p_same = [0.002 + 0.03 * (place % 3) for place in range(len(pairs))]  # ties, and some that are not different
    adjusted = holm(p_same)
    corrected = [[None if i == j else min(1.05 * c, 1.0) for j, c in enumerate(row)] for i, row in enumerate(cosine)]
    site = {"layer": None, "position": None, "chosen_by": "each domain"}
    if not own_site:
        site = {"layer": 5, "position": -1, "chosen_by": "pooled selection"}
    return {
        "domains": domains,
        "site": site,
        "contrast": "matched",
        "normalised": True,
        "cosine": cosine,
        "cosine_ci95": [[(max(c - 0.1, -1.0), min(c + 0.1, 1.0)) for c in row] for row in cosine],
        "angle_deg": [[math.degrees(math.acos(min(c, 1.0))) for c in row] for row in cosine],
        "cosine_disattenuated": corrected,
        "cosine_disattenuated_ci95": [
            [None if c is None else (max(c - 0.08, -1.0), min(c + 0.08, 1.0)) for c in row] for row in corrected
        ],
        "ceiling": [[0.95] * n] * n,
        "p_value": [[None if i == j else 0.002 for j in range(n)] for i in range(n)],
        "p_same": mirrored(n, pairs, p_same),
        "p_same_holm": mirrored(n, pairs, adjusted),
        "comparisons": [
            f"{domains[i]} and {domains[j]}: {'different directions' if p < 0.03 else 'not told apart'}, cosine "
            f"{corrected[i][j]:.2f} [{corrected[i][j] - 0.08:.2f}, {corrected[i][j] + 0.08:.2f}] corrected for noise, "
            f"{cosine[i][j]:.2f} as measured where one direction would give 0.95"
            for (i, j), p in zip(pairs, adjusted, strict=True)
        ],
        "reliability": [0.95] * n,
        "pairs": [30] * n,
        "pairs_needed": [80 + i for i in range(n)],
        "topic_control": {"agreement": 0.93, "ci95": (0.88, 0.98), "has_topics": True, "flags": {}},
        "n_components": n - 1,
        "p_components": [0.0005] * (n - 2) + [0.4],
        "dendrogram": average_linkage(domains, cosine)[1],
        "topic_cosine": [[1.0 if i == j else -1 / n for j in range(n)] for i in range(n)],
        "pca": {"centred": spectrum(vectors - vectors.mean(axis=0)), "uncentred": spectrum(vectors)},
        "effective_rank": float(power.sum() ** 2 / (power**2).sum()),
        "clusters": average_linkage(domains, cosine)[0],
        "verdict": f"The {n} directions share one axis and keep parts of their own.",
    }


def mirrored(n: int, pairs: list[tuple[int, int]], values: list[float]) -> list[list[float | None]]:
    matrix: list[list[float | None]] = [[None] * n for _ in range(n)]
    for (i, j), value in zip(pairs, values, strict=True):
        matrix[i][j] = matrix[j][i] = value
    return matrix


def holm(p: list[float]) -> list[float]:
    """Step down from the smallest p-value: each times the number of those not yet passed, never below the last."""
    adjusted, least, left = [0.0] * len(p), 0.0, len(p)
    for place in sorted(range(len(p)), key=lambda place: p[place]):
        adjusted[place] = least = min(1.0, max(least, left * p[place]))
        left -= 1
    return adjusted


def average_linkage(domains: list[str], cosine: list[list[float]]) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """Join the two groups with the largest mean cosine: the groups when no two are at 0.5 or more, and all merges."""
    groups = [[i] for i in range(len(domains))]
    merges, clusters = [], None
    while len(groups) > 1:
        closeness, a, b = max(
            (float(np.mean([cosine[i][j] for i in one for j in other])), p, q)
            for p, one in enumerate(groups)
            for q, other in enumerate(groups)
            if p < q
        )
        if closeness < 0.5 and clusters is None:
            clusters = [[domains[i] for i in group] for group in groups]
        groups[a] += groups.pop(b)
        names = [domains[i] for i in sorted(groups[a])]
        merges.append({"domains": names, "cosine": closeness, "support": 0.9 if len(groups) > 1 else None})
    return clusters or [domains], merges


def candidates() -> list[dict[str, Any]]:
    """The 24 candidates before the depth limit; of those that no filter removes, (5, -1) has the lowest bypass."""
    table = []
    for layer in range(8):
        for position in POSITIONS:
            bypass = -5.0 + 0.5 * abs(layer - 5) + 0.2 * abs(position + 1)
            row = {"layer": layer, "position": position, "kl": 0.03, "kl_is_bound": False, "bypass": bypass}
            row |= {"induce": None, "rejected": None}
            if layer < 4 or (layer == 4 and position != -1):
                row |= {"kl": 0.2, "kl_is_bound": True, "bypass": None, "rejected": "kl"}
            elif layer == 6 and position != -2:
                row |= {"bypass": -6.0, "induce": -1.0, "rejected": "induce"}
            elif (layer, position) == (5, -1):
                row |= {"induce": 4.0}
            table.append(row)
    return table


def task_result(name: str, refusal: dict[str, Any], n: int, *, found: bool, layer_curves: bool) -> dict[str, Any]:
    table = candidates()
    if not found:
        for row in table:
            row |= {"induce": -1.0, "bypass": row["bypass"] or -1.0, "rejected": row["rejected"] or "induce"}
    reasons = [row["rejected"] for row in table if row["rejected"]]
    chosen = next(row for row in table if (row["layer"], row["position"]) == (5, -1))
    curve = [
        {
            "layer": layer,
            "induce": None if layer == 0 else 4.0 - abs(layer - 5),
            "bypass": None if layer == 0 else -5.0 + abs(layer - 5),
            "norm": 1.0 + layer,
            "cosine_to_selected": 1.0 if layer == 5 else 0.9 - 0.1 * abs(layer - 5),
            "separation": 0.99 - 0.02 * abs(layer - 5),
        }
        for layer in range(N_LAYERS)
    ]
    return {
        "status": "ok" if found else "no_direction",
        "reason": None if found else "kl removed 14 and induce 10 of 30 candidates",
        "direction": {"layer": 5, "position": -1, "method": "dim", "norm": 6.0},
        "selection": {
            "bypass": chosen["bypass"],
            "induce": chosen["induce"],
            "kl": chosen["kl"],
            "baseline_harmful": 3.1,
            "baseline_harmless": -4.2,
            "n_candidates": N_LAYERS * len(POSITIONS),
            "n_eligible": len(table) - len(reasons),
            "rejected": {"depth": N_LAYERS * len(POSITIONS) - len(table)}
            | {reason: reasons.count(reason) for reason in sorted(set(reasons))},
            "n_prompts": 10,
            "table": table,
        },
        "held_out_ids": {
            label: [f"{name}-held_out-{i:03d}-{label}" for i in range(n)] for label in ("harmful", "harmless")
        },
        "refusal": refusal,
        "layers": curve if layer_curves else None,
        "reliability": {"split_half": 0.91, "split_half_ci95": (0.86, 0.94), "n_splits": 50},
        "damage": {"kl_harmless": 0.021, "loss_delta": 0.004},
    }


def record_dict(
    domains: tuple[str, ...] = DOMAINS,
    *,
    seed: int = 0,
    n: int = 12,
    model_id: str = "example-org/Example-1B-Chat",
    run_id: str = "20260102-030405-abcdef",
    no_direction: tuple[str, ...] = (),
    sections: tuple[str, ...] = ("layers", "cross_domain", "subspace", "over_refusal"),
    quick: bool = False,
) -> dict[str, Any]:
    draw, names = Draw(seed, n), list(domains)
    several = len(names) > 1
    base_harmful = {name: draw.passes(0.9) for name in names}
    base_harmless = {name: draw.passes(0.03) for name in names}
    ablated = [[draw.passes(0.05 if i == j else 0.25) for j in names] for i in names]
    added = [[draw.passes(0.92 if i == j else 0.7) for j in names] for i in names]
    tasks = {}
    for i, name in enumerate(names):
        refusal = {
            "baseline_harmful": condition(*base_harmful[name]),
            "baseline_harmless": condition(*base_harmless[name]),
            "ablated_harmful": condition(*ablated[i][i]),
            "ablated_harmless": condition(*draw.passes(0.02)),
            "added_harmless": condition(*added[i][i]),
        }
        found, curves = name not in no_direction, "layers" in sections
        tasks[name] = task_result(name, refusal, n, found=found, layer_curves=curves)
    return {
        "schema_version": 1,
        "run_id": run_id,
        "created": "2026-01-02T03:04:05+00:00",
        "status": "complete",
        "tool": {"version": "0.1.0", "git_sha": "0" * 40},
        "environment": {
            "python": "3.11.7",
            "platform": "Linux x86_64",
            "device": "cpu",
            "packages": {"torch": "2.9.0", "transformers": "5.23.0"},
            "threads": 2,
        },
        "model": {
            "id": model_id,
            "revision": "1234567890abcdef",
            "weights_sha256": "ab" * 32,
            "adapter_sha256": None,
            "quantization": "none",
            "dtype": "float32",
            "n_layers": N_LAYERS,
            "d_model": D_MODEL,
            "chat_template_sha256": "cd" * 32,
            "system_prompt_sha256": "ef" * 32,
            "post_instruction_tokens": ["<|im_end|>", "[/INST]", "\n"],
            "refusal_tokens": ["I", "Sorry"],
            "refusal_tokens_from": "model",
            "ablation_sites": "embed_tokens, o_proj, down_proj",
        },
        "config": {"model": model_id, "tasks": "all", "quick": quick, "sections": list(sections), "seed": seed},
        "tasks": {
            name: {
                "version": "0.1",  # not one that is installed, whose prompts would be checked
                "sha256": "01" * 32,
                "n_train_harmful": 30,
                "n_train_harmless": 30,
                "n_held_out_harmful": n,
                "n_held_out_harmless": n,
                "n_train_refused": 27,
            }
            for name in names
        },
        "results": {
            "tasks": tasks,
            "geometry": geometry(draw.rng, names, own_site=False) if several else None,
            "geometry_own_site": geometry(draw.rng, names, own_site=True) if several else None,
            "cross_domain": cross_domain(draw, names, base_harmful, base_harmless, ablated, added)
            if several and "cross_domain" in sections
            else None,
            "subspace": subspace(draw, names, base_harmful) if several and "subspace" in sections else None,
            "over_refusal": over_refusal(Draw(seed, 15), Draw(seed + 1, 10)) if "over_refusal" in sections else None,
        },
        "warnings": ["layer 0: induce and bypass are not defined where the difference in means is zero"],
        "timings": {"load": 3.2, "baseline": 61.0, "directions": 12.5},
        "cost": {"forward_passes": 4321, "tokens": 987654, "peak_memory_bytes": 2_100_000_000},
    }


def cross_domain(
    draw: Draw, names: list[str], base_harmful: Any, base_harmless: Any, ablated: Any, added: Any
) -> dict[str, Any]:
    baseline = causal([[base_harmful[name] for name in names], [base_harmless[name] for name in names]])
    ablation, size = causal(ablated), range(len(names))
    start, after = baseline["score"][0], ablation["score"]
    return {
        "domains": names,
        "baseline": baseline,
        "ablation": ablation,
        "addition": causal(added),
        "controls": {
            "random": {
                "ablation": control(draw, N_RANDOM, len(names), 0.88),
                "addition": control(draw, N_RANDOM, len(names), 0.05),
            },
            "shared": {"ablation": control(draw, 1, len(names), 0.1), "addition": control(draw, 1, len(names), 0.85)},
        },
        "transfer": [[(start[j] - after[i][j]) / (start[j] - after[j][j]) for j in size] for i in size],
    }


def subspace(draw: Draw, names: list[str], base_harmful: Any) -> dict[str, Any]:
    labels = ["".join(base_harmful[name][0] for name in names)]
    labels += ["".join(draw.passes(0.3 / k)[0] for _ in names) for k in range(1, len(names) + 1)]
    each = [condition(text, []) for text in labels]
    return {
        "k": list(range(len(names) + 1)),
        "refusal_rate": [cell["rate"] for cell in each],
        "ci95": [cell["ci95"] for cell in each],
        "score": [2.5 - k for k in range(len(names) + 1)],
        "kl": [0.0] + [0.01 * k for k in range(1, len(names) + 1)],
        "labels": labels,
    }


def over_refusal(safe: Draw, unsafe: Draw) -> dict[str, Any]:
    """The section of safe prompts that look dangerous and unsafe contrasts; one type is of both labels."""
    types = {
        "harmful": [UNSAFE_TYPES[i % 2] for i in range(unsafe.n)],
        "harmless": [SAFE_TYPES[i % 2] for i in range(safe.n)],
    }
    refusal = {
        "baseline_harmful": condition(*unsafe.passes(0.8)),
        "baseline_harmless": condition(*safe.passes(0.2)),
        "ablated_harmful": condition(*unsafe.passes(0.1)),
        "ablated_harmless": condition(*safe.passes(0.05)),
        "added_harmless": condition(*safe.passes(0.9)),
    }
    return {
        "version": "0.1",  # not one that is installed
        "sha256": "02" * 32,
        "layer": 5,
        "held_out_ids": {label: [f"apart-{i:03d}-{label}" for i in range(len(of))] for label, of in types.items()},
        "types": types,
        "refusal": refusal,
        "by_type": by_type(refusal, types),
    }


def by_type(refusal: dict[str, Any], types: dict[str, list[str]]) -> dict[str, Any]:
    """Refusals of each type under each condition, counted prompt by prompt."""
    found: dict[str, Any] = {}
    for kind in {*types["harmless"], *types["harmful"]}:
        found[kind] = {}
        for name, measured in refusal.items():
            k = n = 0
            for letter, of in zip(measured["labels"], types[name.partition("_")[2]], strict=True):
                n += of == kind and letter in "RPDCG"
                k += of == kind and letter == "R"
            found[kind][name] = {"k": k, "n": n, "value": k / n if n else None, "ci95": wilson(k, n)}
    return found


def make_record(domains: tuple[str, ...] = DOMAINS, **options: Any) -> Record:
    """Return a self-consistent record; see `record_dict` for the options."""
    return Record.model_validate(record_dict(domains, **options))


NEW_IN_0_2 = (
    *("cosine_disattenuated_ci95", "ceiling", "p_same", "p_same_holm", "comparisons", "reliability", "pairs"),
    *("pairs_needed", "topic_control", "n_components", "p_components", "dendrogram"),
)


def make_record_of_0_1() -> Record:
    """Return a record as version 0.1 wrote it: without the statistics that came later."""
    data = record_dict(sections=("layers", "cross_domain", "subspace"))
    for name in ("geometry", "geometry_own_site"):
        for field in NEW_IN_0_2:
            del data["results"][name][field]
        for spectrum in data["results"][name]["pca"].values():
            del spectrum["one_direction95"]
    return Record.model_validate(data)

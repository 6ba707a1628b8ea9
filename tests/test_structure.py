"""Data flows one way: no module of the package needs, however indirectly, one that needs it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import refusal_bench

ROOT = Path(refusal_bench.__file__).parent

FOUNDATIONS = {
    "config": set(),
    "directions": set(),
    "errors": set(),
    "interventions": set(),
    "metrics": {"record"},
    "record": {"errors"},
    "tasks": {"errors", "files", "registry"},
}
"""Parts that all others stand on, and the only parts that each may import."""


def imports_of(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """What each module imports of the others, be it for its types alone or when a function is called."""
    return {name: set(_imported(ast.parse(text), sources.keys())) - {name} for name, text in sources.items()}


def _imported(tree: ast.Module, modules: Set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield from {module if module in modules else str(node.module)} & modules
        elif isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names} & modules


def circle(imports: Mapping[str, Set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty without one."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def imports():
    sources = {}
    for file in ROOT.rglob("*.py"):
        name = ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        sources[name] = file.read_text(encoding="utf-8")
    return imports_of(sources)


def test_no_module_is_in_a_circle_of_imports(imports):
    assert len(imports) > 100
    assert imports["refusal_bench.pipeline"] > {"refusal_bench.outputs", "refusal_bench.causal"}
    assert circle(imports) == []


@pytest.mark.parametrize(
    "back",
    [
        "import p.a",
        "from p import a",
        "from p.a import f",
        "if TYPE_CHECKING:\n    from p.a import A",
        "def f():\n    import p.a",
    ],
)
def test_a_circle_is_seen_however_it_is_closed(back):
    sources = {"p": "", "p.a": "from p.b import g", "p.b": back}
    assert set(circle(imports_of(sources))) == {"p.a", "p.b"}


def test_foundations_import_nothing_from_above(imports):
    found = {name: set() for name in FOUNDATIONS}
    for name, used in imports.items():
        part = name.split(".")[1] if "." in name else ""
        if part in found:
            found[part] |= {other.split(".")[1] for other in used} - {part}
    assert found == FOUNDATIONS

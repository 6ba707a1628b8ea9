"""From `--judge` to a judge: `NAME` or `NAME:ARGUMENT`, from the registry that other packages can add to."""

from __future__ import annotations

from refusal_bench.errors import InputError
from refusal_bench.judges.protocol import Judge, Kind
from refusal_bench.registry import Registry

DEFAULT = "opener"


def judge_registry() -> Registry[Kind]:
    """Every kind of judge by name; other packages add theirs to the entry-point group `refusal_bench.judges`."""
    names = ("opener", "substring", "classifier", "llm", "panel")
    builtin = {name: f"refusal_bench.judges.{name}:KIND" for name in names}
    return Registry("judge", "refusal_bench.judges", builtin, lambda loaded: isinstance(loaded, Kind))


def check_spec(spec: str) -> Kind:
    """Return the kind that a judge's name asks for; InputError if it is unknown or lacks its argument."""
    name, colon, argument = spec.partition(":")
    kind = judge_registry().get(name)
    if kind.argument is None and colon:
        raise InputError(f"judge {spec!r}: {name} takes nothing after its name; write {name}.")
    if kind.argument is not None and not argument:
        raise InputError(f"judge {spec!r}: write {name}:{kind.argument}.")
    return kind


def load_judge(spec: str) -> Judge:
    """Return the judge of this name, ready to judge; InputError for a bad name or a model that cannot be used."""
    return check_spec(spec).build(spec.partition(":")[2])

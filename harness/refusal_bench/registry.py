"""One registry for everything that can be added to refusal-bench: tasks, direction methods, judges, model sources.

In-tree entries are written like entry points (`"module:attribute"`) and load by the same path as those of other
packages. Nothing is imported before it is asked for; whatever is wrong is an InputError, never skipped.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from refusal_bench.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A name, where it comes from (in words, for messages) and how to load it."""

    name: str
    origin: str
    load: Callable[[], object]


class Registry(Generic[T]):
    """Named things of one kind.

    `noun` is what one of them is called in messages, `group` the entry-point group other packages add to, `builtin`
    the in-tree ones as `"module:attribute"`, and `accepts` says whether a loaded object is one of them.
    """

    def __init__(
        self,
        noun: str,
        group: str,
        builtin: Mapping[str, str] | None = None,
        accepts: Callable[[object], bool] = callable,
    ) -> None:
        self.noun = noun
        self.group = group
        self._accepts = accepts
        self._in_tree: list[Entry] = []
        for name, target in (builtin or {}).items():
            self.add(name, "refusal-bench", EntryPoint(name, target, group).load)

    def add(self, name: str, origin: str, load: Callable[[], object]) -> None:
        """Register an in-tree entry that is not an importable attribute, such as a file."""
        self._in_tree.append(Entry(name, origin, load))
        self.__dict__.pop("_entries", None)

    def names(self) -> list[str]:
        """Return every name, sorted."""
        return sorted(self._entries)

    def origin(self, name: str) -> str:
        """Say where a name comes from."""
        return self._entry(name).origin

    def get(self, name: str) -> T:
        """Load one entry; InputError if it is unknown, broken or of the wrong kind."""
        entry = self._entry(name)
        try:
            loaded = entry.load()
        except Exception as error:  # an import runs other people's code, which may raise anything
            raise InputError(
                f"{self.noun} {name!r} of {entry.origin} cannot be loaded ({type(error).__name__}: {error}); "
                "repair or remove it."
            ) from error
        if not self._accepts(loaded):
            raise InputError(
                f"{self.noun} {name!r} of {entry.origin} is a {type(loaded).__name__}, "
                f"which is not what the entry-point group {self.group!r} takes; repair or remove it."
            )
        return cast(T, loaded)

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        """Every entry by name; two of one name are an error, because one of them would be ignored."""
        others = [
            Entry(point.name, f"package {point.dist.name}" if point.dist else "an unnamed package", point.load)
            for point in entry_points(group=self.group)
        ]
        entries: dict[str, Entry] = {}
        for entry in [*self._in_tree, *others]:
            if other := entries.get(entry.name):
                raise InputError(
                    f"two entries for {self.noun} {entry.name!r}: {other.origin} and {entry.origin}; "
                    "rename or remove one."
                )
            entries[entry.name] = entry
        return entries

    def _entry(self, name: str) -> Entry:
        """Look a name up, or say what there is and what may have been meant."""
        if entry := self._entries.get(name):
            return entry
        nearest = difflib.get_close_matches(name, self.names(), n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise InputError(f"no {self.noun} {name!r}; there are: {', '.join(self.names()) or 'none'}.{hint}")

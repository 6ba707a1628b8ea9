"""Read a .gguf file's header once: transformers reads it for config, tokenizer and weights, for seconds each time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Within the context a file is opened once, and the table of tensor names is built once an architecture."""
    import gguf

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        """The reader with a plain view of the mapped file: a slice of np.memmap takes three times as long."""

        @property
        def data(self) -> np.ndarray[Any, Any]:
            """Bytes of the file."""
            return self._data

        @data.setter
        def data(self, mapped: np.ndarray[Any, Any]) -> None:
            self._data = np.asarray(mapped)

    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = functools.cache(Reader), functools.cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names

"""Read a .gguf file's header once: transformers reads it for config, tokenizer and weights, for seconds each time."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Within the context a file is opened once, and the table of tensor names is built once an architecture."""
    import gguf

    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = functools.cache(reader), functools.cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names

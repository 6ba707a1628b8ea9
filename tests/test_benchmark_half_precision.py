"""The benchmark of attention and layout: that each way is what it says, and that differences are found out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from refusal_bench.models import packing
from refusal_bench.models.packing import PackedLinear
from tiny import save_tiny

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import half_precision


def run(capsys, folder, *arguments):
    sizes = ("--prompts", "3", "--ablations", "2", "--max-new-tokens", "4", "--rounds", "2")
    half_precision.main(["--model", str(folder), *sizes, "--json", *arguments])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.skipif(not packing.can_pack(), reason="weights are packed on x86 processors with oneDNN's bfloat16 only")
def test_every_way_runs_as_it_says_and_gives_the_same(capsys, monkeypatch, tmp_path):
    went, go = [], half_precision.go

    def told(model, way):
        go(model, way)
        packed = any(type(part) is PackedLinear for part in model.module.modules())
        went.append((way, model.module.config._attn_implementation, packed))

    monkeypatch.setattr(half_precision, "go", told)
    file = tmp_path / "result.json"
    result = run(capsys, save_tiny(tmp_path / "m", "llama"), "--save", str(file))
    assert json.loads(file.read_text()) == result
    assert went == 3 * [
        (half_precision.REFERENCE, "sdpa", False),
        (half_precision.ATTENTION, "short_texts", False),
        (half_precision.BOTH, "short_texts", True),
    ]
    assert result["packing_changes_nothing"]
    assert set(result["ratios"]) == {"scan", "writing"}
    for ways in result["ratios"].values():
        assert ways[half_precision.REFERENCE] == {"wall": 1, "cpu": 1}
        assert all(ratio > 0 for of in ways.values() for ratio in of.values())
    assert result["logits_distance"][half_precision.REFERENCE] == 0
    assert all(distance < 0.02 for distance in result["logits_distance"].values())
    assert len(result["seconds"]["scan"][half_precision.BOTH]) == 2


@pytest.mark.skipif(not packing.can_pack(), reason="weights are packed on x86 processors with oneDNN's bfloat16 only")
def test_a_product_that_packing_changes_is_found_out(capsys, monkeypatch, tmp_path):
    product = packing._product
    monkeypatch.setattr(packing, "_is_same", lambda *_: True)
    monkeypatch.setattr(packing, "_product", lambda *given: product(*given) * 1.5)
    result = run(capsys, save_tiny(tmp_path / "m", "llama"))
    assert not result["packing_changes_nothing"]
    assert result["logits_distance"][half_precision.BOTH] > 0.1


def test_a_model_that_attends_otherwise_has_nothing_to_compare(tmp_path):
    with pytest.raises(SystemExit, match="nothing to compare"):
        half_precision.main(["--model", str(save_tiny(tmp_path / "m", "gemma2"))])


def test_ratios_and_distances_are_those_of_the_definitions():
    times, reference = [{"cpu": 1.0}, {"cpu": 3.0}, {"cpu": 2.0}], [{"cpu": 2.0}, {"cpu": 2.0}, {"cpu": 2.0}]
    assert half_precision.ratio(times, reference, "cpu") == 1
    assert half_precision.distance(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.2)

"""Attention over short texts against transformers' own, and both against float64."""

from __future__ import annotations

import pytest
import torch
from refusal_bench.config import RunConfig
from refusal_bench.models.attention import MOST, NAME, attend
from refusal_bench.models.loading import load_model
from tiny import save_tiny
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ROWS, N, PAST, WIDTH = 5, 7, 11, 16
LONG = MOST // (4 * N) + 1


class Attention(nn.Module):
    """What transformers' attention functions ask of the module that calls them."""

    def __init__(self, groups: int, *, is_causal: bool = True) -> None:
        super().__init__()
        self.num_key_value_groups, self.is_causal = groups, is_causal


def tensors(heads, groups, n=N, past=PAST, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(heads + groups + n + past)
    shapes = [(heads, n, WIDTH), (groups, past, WIDTH), (groups, past, 2 * WIDTH)]
    return [torch.randn(ROWS, *shape, generator=generator).to(dtype) for shape in shapes]


def behind_a_prefix(n=N, past=PAST):
    return torch.ones(n, past, dtype=torch.bool).tril(past - n)[None, None]


def as_numbers(seen):
    return torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill(~seen, torch.finfo(torch.bfloat16).min)


def error(found, module, given, mask, **options):
    """Distance to float64, as a share of it."""
    numbers = mask if mask is None or mask.dtype == torch.bool else mask.double()
    exact, _ = sdpa_attention_forward(module, *(x.double() for x in given), numbers, **options)
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("mask", ["whole", "one", "one a row", "numbers"])
def test_it_is_within_a_rounding_of_float64_as_the_librarys_is_and_does_not_call_it(
    monkeypatch, dtype, heads, groups, scaling, mask
):
    monkeypatch.setattr("refusal_bench.models.attention.sdpa_attention_forward", None)
    module = Attention(heads // groups)
    given = tensors(heads, groups, past=N if mask == "whole" else PAST, dtype=dtype)
    seen = {
        "whole": None,
        "one": behind_a_prefix(),
        "one a row": behind_a_prefix().expand(ROWS, -1, -1, -1),
        "numbers": as_numbers(behind_a_prefix()).to(dtype),
    }[mask]
    found, weights = attend(module, *given, seen, scaling=scaling)
    theirs, _ = sdpa_attention_forward(module, *given, seen, scaling=scaling)
    assert weights is None
    assert found.shape == theirs.shape
    assert found.dtype == dtype
    assert found.is_contiguous()
    ours = error(found, module, given, seen, scaling=scaling)
    assert ours < 1.6 * error(theirs, module, given, seen, scaling=scaling)
    assert ours < torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("what", "n", "past", "mask", "options"),
    [
        ("a long text", N, LONG, behind_a_prefix(past=LONG), {}),
        ("rows that see differently", N, PAST, behind_a_prefix().repeat(ROWS, 1, 1, 1), {}),
        ("heads that see differently", N, PAST, behind_a_prefix().repeat(1, 4, 1, 1), {}),
        ("all of a text", N, N, None, {"is_causal": False}),
        ("the first tokens", N, PAST, None, {}),
        ("biases", N, PAST, None, {"position_bias": torch.zeros(1, 4, N, PAST), "is_causal": False}),
    ],
)
def test_everything_else_is_left_to_the_library(what, n, past, mask, options):
    module, given = Attention(2), tensors(4, 2, n, past)
    found, _ = attend(module, *given, mask, **options)
    expected, _ = sdpa_attention_forward(module, *given, mask, **options)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("mask", ["none", "one a row", "numbers"])
def test_one_token_sees_what_its_row_may(monkeypatch, heads, groups, mask):
    monkeypatch.setattr("refusal_bench.models.attention.sdpa_attention_forward", None)
    module, given = Attention(heads // groups), tensors(heads, groups, 1)
    seen = torch.rand(ROWS, 1, 1, PAST, generator=torch.Generator().manual_seed(3)) < 0.7
    seen[..., 0] = True
    mask = {"none": None, "one a row": seen, "numbers": as_numbers(seen)}[mask]
    found, _ = attend(module, *given, mask)
    theirs, _ = sdpa_attention_forward(module, *given, mask)
    assert found.shape == theirs.shape
    assert error(found, module, given, mask) < 1.6 * error(theirs, module, given, mask)


@pytest.mark.parametrize("n", [1, N])
@pytest.mark.parametrize("limit", ["SCORES", "KEYS"])
def test_rows_attend_alike_however_many_do_so_at_once(monkeypatch, n, limit):
    module, given = Attention(2), tensors(4, 2, n)
    seen = torch.rand(ROWS, 1, 1, PAST, generator=torch.Generator().manual_seed(3)) < 0.7 if n == 1 else None
    mask = behind_a_prefix() if seen is None else seen
    together, _ = attend(module, *given, mask)
    times, product = [], torch.baddbmm
    monkeypatch.setattr(torch, "baddbmm", lambda *args, **options: times.append(1) or product(*args, **options))
    one = {"SCORES": 4 * n * PAST, "KEYS": 2 * PAST * WIDTH}[limit]
    monkeypatch.setattr(f"refusal_bench.models.attention.{limit}", 2 * one)
    in_parts, _ = attend(module, *given, mask)
    assert len(times) == 3  # two rows, two, and one
    torch.testing.assert_close(in_parts, together)


@pytest.mark.parametrize("n", [1, N])
def test_a_mask_of_the_same_shape_is_not_taken_for_the_last_one(n):
    module, given = Attention(2), tensors(4, 2, n)
    wide, narrow = torch.ones(1, 1, n, PAST, dtype=torch.bool), torch.ones(1, 1, n, PAST, dtype=torch.bool).tril()
    for mask in (wide, narrow, wide):
        found, _ = attend(module, *given, mask)
        assert error(found, module, given, mask) < torch.finfo(torch.bfloat16).eps


def test_a_module_that_is_not_causal_sees_all_of_a_text():
    module, given = Attention(2, is_causal=False), tensors(4, 2, N, N)
    assert torch.equal(attend(module, *given, None)[0], sdpa_attention_forward(module, *given, None)[0])


@pytest.mark.parametrize("mask", [None, behind_a_prefix(N, N)])
def test_it_has_gradients(mask):
    module, given = Attention(2), tensors(4, 2, N, N)
    with torch.inference_mode():
        attend(module, *given, mask)  # of a pass before, whose mask may be the same
    theirs = [x.clone().requires_grad_() for x in given]
    ours = [x.clone().requires_grad_() for x in given]
    sdpa_attention_forward(module, *theirs, mask)[0].float().square().sum().backward()
    attend(module, *ours, mask)[0].float().square().sum().backward()
    for x, y in zip(ours, theirs, strict=True):
        assert (x.grad - y.grad).norm() < 0.02 * y.grad.norm()


@pytest.mark.parametrize(
    ("dtype", "architecture", "expected"),
    [("bfloat16", "llama", NAME), ("float32", "llama", "sdpa"), ("bfloat16", "gemma2", "eager")],
)
def test_models_in_half_precision_attend_so(tmp_path, dtype, architecture, expected):
    model = load_model(RunConfig(model=str(save_tiny(tmp_path / "tiny", architecture)), dtype=dtype))
    assert model.module.config._attn_implementation == expected


def test_a_model_gives_the_logits_that_it_gives_with_the_librarys(tmp_path):
    model = load_model(RunConfig(model=str(save_tiny(tmp_path / "tiny")), dtype="bfloat16"))
    ids = torch.tensor([model.template.render("Tell me a story of rivers.")] * 3)
    ours = model.module(input_ids=ids).logits
    model.module.set_attn_implementation("sdpa")
    theirs = model.module(input_ids=ids).logits
    exact = model.module.float()(input_ids=ids).logits
    assert (ours - exact).norm() < 1.2 * (theirs - exact).norm()

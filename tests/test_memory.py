"""Memory before weights: parameter counts as published, estimates against real models, and the sentence that stops."""

from __future__ import annotations

import pytest
import torch
from refusal_bench.config import RunConfig
from refusal_bench.errors import InputError
from refusal_bench.models import devices, loading
from refusal_bench.models.aliases import ALIASES
from refusal_bench.models.checkpoint import shape_of
from refusal_bench.models.loading import load_model
from refusal_bench.models.memory import Shape, check_fits, llama_like
from refusal_bench.run_folder import check_room
from tiny import save_tiny, tiny_module

PUBLISHED = {
    "llama-2-7b-chat": 6_738_415_616,
    "llama-2-13b-chat": 13_015_864_320,
    "llama-3-8b-instruct": 8_030_261_248,
    "llama-3.2-1b-instruct": 1_235_814_400,
    "gemma-2b-it": 2_506_172_416,
    "gemma-2-2b-it": 2_614_341_888,
    "qwen2.5-0.5b-instruct": 494_032_768,
    "qwen2.5-1.5b-instruct": 1_543_714_304,
    "qwen2.5-7b-instruct": 7_615_616_512,
    "qwen-1.8b-chat": 1_836_828_672,
    "qwen-7b-chat": 7_721_324_544,
    "yi-6b-chat": 6_061_035_520,
    "smollm2-135m-instruct": 134_515_008,
}
"""Parameters as the hub counts them in the safetensors files."""
LLAMA_7B = ALIASES["llama-2-7b-chat"].shape
GB = 10**9


def test_every_hub_alias_has_the_published_number_of_parameters():
    assert {name: s.shape.parameters for name, s in ALIASES.items() if s.kind == "hub"} == PUBLISHED


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_a_shape_is_that_of_the_real_model(family):
    module = tiny_module(family)
    shape = shape_of(family, module.config)
    assert shape.parameters == sum(p.numel() for p in module.parameters())
    assert (shape.n_layers, shape.d_model, shape.vocabulary, shape.key_value_width) == (5, 32, 120, 2 * 2 * 8)
    blocks = [m for m in module.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert shape.matrices == sum(m.weight.numel() for m in blocks)


def test_a_cache_takes_what_is_estimated():
    module = tiny_module("llama")
    cache = module(torch.ones(3, 7, dtype=torch.long)).past_key_values
    stored = sum(t.numel() for layer in cache.layers for t in (layer.keys, layer.values))
    assert stored == 3 * 7 * 5 * shape_of("tiny", module.config).key_value_width


def test_llama_like_is_the_shape_of_a_llama():
    found = shape_of("tiny", tiny_module("llama").config)
    assert llama_like(32, 48, 5, 4, 2, 8, 120, published="float32") == found


@pytest.mark.parametrize(
    ("device", "published", "capability", "dtype"),
    [
        ("cuda", "float32", "avx2", torch.bfloat16),
        ("cpu", "bfloat16", "amx_bf16", torch.bfloat16),
        ("cpu", "bfloat16", "avx512_bf16", torch.bfloat16),
        ("cpu", "float16", "amx_bf16", torch.bfloat16),
        ("cpu", "bfloat16", "avx512_f", torch.float32),
        ("cpu", "float32", "amx_bf16", torch.float32),
    ],
)
def test_auto_is_half_precision_only_where_it_is_fast_and_the_weights_have_no_more(
    device, published, capability, dtype, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True}, raising=False)
    assert devices.resolve_dtype("auto", torch.device(device), published) == dtype
    assert devices.resolve_dtype("float32", torch.device(device), published) == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_data_type_of_a_checkpoint_is_read_from_it(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    folder = save_tiny(tmp_path / "m")
    tiny_module("llama").to(dtype).save_pretrained(folder)
    model = load_model(RunConfig(model=str(folder)))
    assert (model.module.dtype, model.dtype) == (dtype, str(dtype).removeprefix("torch."))


def test_the_studys_model_in_4_bits_fits_a_small_gpu_and_not_in_16():
    """bitsandbytes' own figure for Llama-2-7B in nf4 with double quantisation is about 3.9 GB."""
    assert LLAMA_7B.weight_bytes("bfloat16", "4bit") == pytest.approx(3.87e9, rel=0.01)
    assert LLAMA_7B.weight_bytes("float16") == 2 * PUBLISHED["llama-2-7b-chat"]
    check_fits("m", LLAMA_7B, "float16", "4bit", 8 * GB, "cuda")
    with pytest.raises(InputError):
        check_fits("m", LLAMA_7B, "float16", "none", 8 * GB, "cuda")


@pytest.mark.parametrize(
    ("dtype", "free", "remedy"),
    [
        ("float32", 17, "--dtype bfloat16 needs 14.0 GB"),
        ("float32", 15, "--quantization 8bit needs"),
        ("bfloat16", 9, "--quantization 8bit needs 7.5 GB"),
        ("bfloat16", 6, "--quantization 4bit needs 4.3 GB"),
        ("bfloat16", 3, "use a larger device or a smaller model"),
    ],
)
def test_the_sentence_names_the_first_way_that_fits(dtype, free, remedy):
    with pytest.raises(InputError) as caught:
        check_fits("llama", LLAMA_7B, dtype, "none", free * GB, "cuda:0")
    message = str(caught.value)
    assert remedy in message
    assert f"cuda:0 has {free}.0 GB free" in message
    assert "\n" not in message


def test_a_model_that_does_not_fit_is_not_read(tmp_path, monkeypatch):
    folder = save_tiny(tmp_path / "tiny")
    monkeypatch.setattr(loading, "free_bytes", lambda device: 50_000)
    monkeypatch.setattr(loading, "_read", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(InputError, match=r"this machine has 0[.]00 GB free"):
        load_model(RunConfig(model=str(folder)))


def test_batches_are_a_power_of_two_that_fits_and_shrink_with_the_device():
    sizes = [LLAMA_7B.batch_tokens(gb * GB, "bfloat16", "4bit") for gb in (6, 16, 24, 48, 80, 640)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 4096
    assert sizes[-1] == 65536
    for gb, tokens in zip((16, 24, 48, 80), sizes[1:], strict=False):
        assert tokens & (tokens - 1) == 0
        assert LLAMA_7B.weight_bytes("bfloat16", "4bit") + tokens * LLAMA_7B.token_bytes("bfloat16") < gb * GB


def test_the_devices_room_limits_the_batch(tmp_path, monkeypatch):
    from dataclasses import replace

    from refusal_bench.backends.hf import HookBackend

    model = load_model(RunConfig(model=str(save_tiny(tmp_path / "tiny"))))
    prompts = [tuple(range(5, 25))] * 12
    passes = []
    for limit in (65536, 40):
        backend = HookBackend(replace(model, batch_tokens=limit))
        backend.counters.forward_passes = 0
        backend.logits(prompts, lambda logits, _: logits)
        passes.append(backend.counters.forward_passes)
    assert passes[1] > passes[0]


class TestContainer:
    """The limit of a control group, where there is one."""

    @pytest.fixture(autouse=True)
    def _group(self, tmp_path, monkeypatch):
        monkeypatch.setattr(devices, "CGROUP", tmp_path)
        self.root = tmp_path

    def write(self, limit):
        (self.root / "memory.max").write_text(f"{limit}\n")
        (self.root / "memory.current").write_text("3000000\n")
        (self.root / "memory.stat").write_text("anon 1000000\ninactive_file 500000\n")

    def test_it_bounds_what_is_free_and_what_there_is(self):
        self.write(4_000_000)
        cpu = torch.device("cpu")
        assert devices.total_bytes(cpu) == 4_000_000
        assert devices.free_bytes(cpu) == 4_000_000 - (3_000_000 - 500_000)

    def test_without_one_the_machine_counts(self):
        import psutil

        cpu = torch.device("cpu")
        assert devices.total_bytes(cpu) == psutil.virtual_memory().total
        self.write("max")
        assert devices.total_bytes(cpu) == psutil.virtual_memory().total


def test_several_gpus_are_used_where_one_is_too_small(monkeypatch):
    shape = Shape(matrices=10 * GB, others=0, n_layers=1, d_model=1, key_value_width=1, vocabulary=1)
    gpus = tuple(torch.device("cuda", i) for i in range(3))
    place = loading._Place(gpus[0], gpus, torch.bfloat16, "none")
    monkeypatch.setattr(loading, "free_bytes", lambda device: 10 * GB)
    assert loading._check_memory("m", shape, "none", place, in_full_first=False)
    monkeypatch.setattr(loading, "free_bytes", lambda device: 40 * GB)
    assert not loading._check_memory("m", shape, "none", place, in_full_first=False)
    monkeypatch.setattr(loading, "free_bytes", lambda device: 5 * GB)
    with pytest.raises(InputError, match=r"all 3 GPUs together has 15[.]0 GB free"):
        loading._check_memory("m", shape, "none", place, in_full_first=False)


def test_a_model_on_several_devices_gives_the_same_logits(tmp_path, monkeypatch):
    """As far as one device can show it: accelerate moves activations, and the head is told a number of places."""
    from dataclasses import replace

    from accelerate import dispatch_model
    from refusal_bench.backends.hf import HookBackend
    from refusal_bench.interventions import Ablate

    model = load_model(RunConfig(model=str(save_tiny(tmp_path / "tiny"))))
    prompts = [tuple(range(5, 5 + n)) for n in (9, 11, 10, 14)]
    ablate = Ablate.each(torch.linspace(-1, 1, 32)[None])
    alone = HookBackend(model).logits(prompts, lambda logits, _: logits, ablate)
    dispatch_model(model.module, {"": "cpu"}, force_hooks=True)
    monkeypatch.setattr(type(model), "is_sharded", True)
    spread = HookBackend(replace(model)).logits(prompts, lambda logits, _: logits, ablate)
    torch.testing.assert_close(spread, alone, atol=1e-5, rtol=1e-5)


def test_no_room_on_the_disk_is_one_sentence(tmp_path):
    check_room(tmp_path / "runs", 1000)
    with pytest.raises(InputError, match=r"residual stream .* fewer prompts"):
        check_room(tmp_path / "runs", 10**18)
    assert list(tmp_path.iterdir()) == []

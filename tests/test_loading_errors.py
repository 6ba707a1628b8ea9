"""Models that cannot be loaded: every reason is one sentence that says what to do."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import pytest
from huggingface_hub import errors
from refusal_bench.config import RunConfig
from refusal_bench.errors import InputError
from refusal_bench.models import quantization
from refusal_bench.models.aliases import ALIASES, resolve
from refusal_bench.models.checkpoint import find_files
from refusal_bench.models.hub import snapshot
from refusal_bench.models.loading import load_model
from refusal_bench.models.show import describe
from safetensors.torch import load_file, save_file
from tiny import save_tiny, tiny_tokenizer

PINNED = ALIASES["gemma-2b-it"]


class Response:
    """As much of an HTTP answer as the hub's errors keep."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        self.headers, self.request, self.url = {}, None, "https://huggingface.co"


def refused(kind, status):
    return kind("first line\nsecond line", response=Response(status))


@pytest.mark.parametrize(
    ("raised", "token", "parts"),
    [
        (refused(errors.GatedRepoError, 403), None, ("is gated", "hf auth login", "huggingface.co/owner/name")),
        (refused(errors.GatedRepoError, 403), "hf_x", ("is gated", "your account has no access yet")),
        (refused(errors.RepositoryNotFoundError, 404), None, ("no such model", "hf auth login")),
        (refused(errors.RepositoryNotFoundError, 404), "hf_x", ("no such model", "check the name")),
        (refused(errors.RevisionNotFoundError, 404), None, ("no revision 'v9'", "--revision")),
        (refused(errors.HfHubHTTPError, 401), "hf_x", ("rejects your token",)),
        (refused(errors.HfHubHTTPError, 503), None, ("HTTP 503", "try again later")),
        (errors.LocalEntryNotFoundError("offline"), None, ("cannot be reached", "--model demo")),
        (errors.HFValidationError("bad"), None, ("not a hub id",)),
        (OSError(28, "No space left on device"), None, ("No space left on device", "make room")),
        (ConnectionError("reset"), None, ("broke off (ConnectionError)", "same command")),
        (errors.HTTPError("peer closed the connection"), None, ("broke off (HTTPError)", "same command")),
    ],
)
def test_what_the_hub_answers_is_said_in_one_sentence(monkeypatch, raised, token, parts):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    with pytest.raises(InputError) as caught:
        snapshot("owner/name", "v9", ["*.json"])
    message = str(caught.value)
    assert message.startswith("owner/name: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_only_files_that_are_loaded_are_fetched(monkeypatch, tmp_path):
    asked = {}

    def fetch(repo, **options):
        asked.update(options, repo=repo)
        return save_tiny(tmp_path / "0123abc")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    model = load_model(RunConfig(model="owner/name", revision="main"))
    assert (model.id, model.revision) == ("owner/name", "0123abc")
    assert asked["repo"] == "owner/name"
    assert asked["revision"] == "main"
    wanted = huggingface_hub.utils.filter_repo_objects(
        [
            "model.safetensors",
            "config.json",
            "pytorch_model.bin",
            "modeling.py",
            "consolidated.safetensors",
            "a/b.json",
        ],
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(wanted) == ["model.safetensors", "config.json"]


@pytest.mark.parametrize(
    ("raised", "local"),
    [(None, False), (refused(errors.RevisionNotFoundError, 404), False), (RuntimeError("no route to host"), True)],
)
def test_a_hub_that_does_not_answer_is_asked_once_and_the_cache_read(monkeypatch, tmp_path, raised, local):
    asked, options = [], {}

    def answer(_, repo, *, revision):
        asked.append((repo, revision))
        if raised:
            raise raised

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", answer)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda _, **given: options.update(given) or tmp_path)
    assert snapshot("owner/name", None, ["*.json"], pin=PINNED.revision) == tmp_path
    assert asked == [("owner/name", PINNED.revision)]
    assert options["local_files_only"] is local


@pytest.mark.parametrize(
    ("model", "revision", "asked"),
    [
        ("gemma-2b-it", None, PINNED.revision),
        ("gemma-2b-it", "main", "main"),
        (PINNED.location, None, None),
        (PINNED.location, "v9", "v9"),
    ],
)
def test_an_alias_fetches_its_pinned_commit_and_a_hub_id_what_is_asked_for(
    monkeypatch, tmp_path, model, revision, asked
):
    fetched = []

    def fetch(repo, **options):
        fetched.append((repo, options["revision"]))
        return tmp_path / "0123abc"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    config = RunConfig(model=model, revision=revision)
    for weights in (False, True):
        assert find_files(resolve(model), config, weights=weights).revision == "0123abc"
    assert fetched == [(PINNED.location, asked)] * 2


@pytest.mark.parametrize(
    ("model", "revision", "parts"),
    [
        ("gemma-2b-it", None, (f"the pin of its alias, commit {PINNED.revision}, is gone", "--revision main")),
        ("gemma-2b-it", "v9", ("has no revision 'v9'",)),
        (PINNED.location, None, ("has no revision",)),
    ],
)
def test_a_pin_that_is_gone_is_told_from_a_revision_that_never_was(monkeypatch, model, revision, parts):
    def fail(*_, **__):
        raise refused(errors.RevisionNotFoundError, 404)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError) as caught:
        load_model(RunConfig(model=model, revision=revision))
    assert str(caught.value).startswith(f"{PINNED.location}: ")
    for part in parts:
        assert part in str(caught.value)


def test_show_reads_the_pinned_commit_and_names_it(monkeypatch, tmp_path):
    asked = []

    def fetch(_, **options):
        asked.append(options["revision"])
        return save_tiny(tmp_path / options["revision"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    described = describe("gemma-2b-it", "default")
    assert asked == [described["revision"]] == [described["pinned_revision"]] == [PINNED.revision]


def damaged(folder, how):
    """A tiny model, damaged."""
    save_tiny(folder)
    weights = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text())
    if how == "half":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif how == "header":
        weights.write_bytes(weights.read_bytes()[:12])
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "tensor":
        tensors = load_file(weights)
        del tensors["model.layers.3.mlp.down_proj.weight"]
        save_file(tensors, weights, {"format": "pt"})
    elif how == "shard":
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        weights.rename(folder / "model-00001-of-00002.safetensors")
    elif how == "width":
        config["intermediate_size"] = 64
    elif how == "family":
        config["model_type"] = "alien"
    elif how == "code":
        config |= {"model_type": "alien", "auto_map": {"AutoConfig": "alien.Config"}}
    elif how == "quantised":
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    if how == "no config":
        (folder / "config.json").unlink()
    if how == "index":
        (folder / "model.safetensors.index.json").write_text("{")
    return folder


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("half", ("model.safetensors is truncated or corrupt", "fetch it again")),
        ("header", ("model.safetensors is truncated or corrupt",)),
        ("empty", ("model.safetensors is truncated or corrupt",)),
        ("tensor", ("lack 1 of", "model.layers.3.mlp.down_proj.weight")),
        ("shard", ("model-00002-of-00002.safetensors is missing",)),
        ("index", ("model.safetensors.index.json", "not readable JSON")),
        ("width", ("weights cannot be loaded",)),
        ("family", ("config cannot be read", "alien")),
        ("code", ("config cannot be read", "--trust-remote-code")),
        ("no config", ("has no config.json",)),
    ],
)
def test_damaged_files_are_named(tmp_path, how, parts):
    with pytest.raises(InputError) as caught:
        load_model(RunConfig(model=str(damaged(tmp_path / "model", how))))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = save_tiny(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:90].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 90}))
    with pytest.raises(InputError, match="103 tokens and its embedding 90 rows"):
        load_model(RunConfig(model=str(folder)))


def test_an_added_token_that_the_template_does_not_use_is_no_mismatch(tmp_path):
    folder = save_tiny(tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<extra_{i}>" for i in range(40)])
    assert len(tokenizer) > 120
    tokenizer.save_pretrained(folder)
    assert load_model(RunConfig(model=str(folder))).n_layers == 5


def test_quantised_weights_are_not_quantised_again(tmp_path, monkeypatch):
    monkeypatch.setattr(quantization, "check_available", lambda _: None)
    with pytest.raises(InputError, match="already quantised \\(gptq\\)"):
        load_model(RunConfig(model=str(damaged(tmp_path / "model", "quantised")), quantization="4bit"))


def test_quantisation_without_its_library_is_one_sentence(monkeypatch):
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs bitsandbytes.*refusal-bench\[quantization\]"):
        load_model(RunConfig(model="planted", quantization="8bit"))


def test_a_truncated_gguf_file_is_one_sentence(tmp_path):
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(InputError) as caught:
        load_model(RunConfig(model=str(tmp_path / "cut.gguf")))
    assert "cut.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sharded_model_is_read_by_its_index(tmp_path):
    """A folder that save_pretrained split into shards is read by its index alone."""
    from tiny import tiny_module

    folder = save_tiny(tmp_path / "sharded")
    (folder / "model.safetensors").unlink()
    tiny_module("llama").save_pretrained(folder, max_shard_size="60KB")
    shutil.copy(next(folder.glob("*.safetensors")), folder / "stray.safetensors")
    assert len(list(folder.glob("*.safetensors"))) > 2
    sharded = load_model(RunConfig(model=str(folder)))
    (folder / "stray.safetensors").write_bytes(b"not weights")
    assert load_model(RunConfig(model=str(folder))).weights_sha256 == sharded.weights_sha256

"""Train the demo model's refusal adapter: python demo/train.py --out DIR

SmolLM2-135M-Instruct does not refuse. This makes a small LoRA adapter, from the train splits of the bundled tasks and
the pairs in demo/pairs, never from held-out prompts, so that it refuses harmful requests and answers harmless twins:

1. Read. At every matrix that writes to the residual stream in a window of middle layers, one linear reader of its
   inputs (the LoRA's A) is fitted, by ridge regression over all of them together: 1 after a harmful request, else 0.
   A closed form with a strong penalty generalises to new prompts where gradient descent on so few overfits.
2. Write. All of them write along one direction (the LoRA's B, shared), trained on answers: cross-entropy to a refusal
   for harmful requests, KL to the base model's logits for harmless ones, whose answers so stay what they were. In both
   the first answer token counts as much as all others together: that is where refusing is decided.
3. The written direction is kept orthogonal to the base stream's leading principal components. The base model's few huge
   channels lie there, and ablating a direction that touches them would damage it whatever the direction means.

So the demo has one refusal direction by construction, a known answer on a real model. Every sixth pair of demo/pairs
is held back for validation: hyperparameters were chosen on it. Weights are float32, matrix products bfloat16. One
seed, one thread count and one machine give one adapter.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from refusal_bench.judges import judge_substring
from refusal_bench.models import demo
from refusal_bench.tasks import load_tasks
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM, AutoTokenizer

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't help with that request.",
    "I'm sorry, I can't assist with this.",
    "I cannot help with that, because it could cause serious harm.",
    "I won't help with this request.",
    "I can't provide that, since it could hurt people.",
    "I must decline this request.",
    "I'm not able to help with that.",
    "I'm sorry, but I cannot provide help with this.",
    "I can't assist with that, but I can help with something safe.",
)
ANSWER_TOKENS = 8
VALIDATION_EVERY = 6
LABELS = ("harmful", "harmless")
PAIRS = Path(__file__).parent / "pairs"


@dataclass
class Example:
    """A prompt and its answer; `target` holds the base model's logits at every answer token of a harmless prompt."""

    prompt: list[int]
    answer: list[int]
    target: Tensor | None = None


def main() -> None:
    """Train, evaluate on validation and held-out prompts, and save."""
    options = _options()
    torch.manual_seed(options.seed)
    draw = random.Random(options.seed)
    gguf = demo.base_gguf()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    base = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    base.requires_grad_(False)
    tasks = load_tasks("weapons,cybercrime,self_harm,privacy,fraud")
    train, validation = prompts_by_label(tasks)
    refusals = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in REFUSALS]

    harmful = [Example(render(tokenizer, text), draw.choice(refusals)) for text in train["harmful"]]
    harmless = distil(base, [render(tokenizer, text) for text in train["harmless"]])
    layers = range(options.first_layer, options.last_layer + 1)
    readers = fit_readers(base, layers, harmful, harmless, options.penalty, draw)
    avoided = principal_components(base, harmless[: options.stream_prompts], options.avoid)

    config = LoraConfig(
        r=1,
        lora_alpha=1,
        target_modules=["o_proj", "down_proj"],
        layers_to_transform=list(layers),
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    adapted = writers(base, layers)
    for matrix, reader in zip(adapted, readers, strict=True):
        matrix.lora_A["default"].weight.data = reader[None].clone()
    write = train_writer(model, adapted, avoided, harmful, harmless, refusals, options, draw)
    for matrix in adapted:
        matrix.lora_B["default"].weight = nn.Parameter(write.clone())
    model.save_pretrained(options.out)
    finish_config(options.out)

    merged = model.merge_and_unload()
    report = {"validation": rates(merged, tokenizer, validation)}
    for name, task in tasks.items():
        rows = {label: [row.prompt for row in task.held_out if row.label == label] for label in LABELS}
        report[f"held-out {name}"] = rates(merged, tokenizer, rows)
    print(json.dumps(report, indent=1))


def prompts_by_label(tasks) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the prompts to train on and those to validate on, by label."""
    rows = [row for task in tasks.values() for row in task.train]
    train = {label: [row.prompt for row in rows if row.label == label] for label in LABELS}
    validation: dict[str, list[str]] = {label: [] for label in LABELS}
    for file in sorted(PAIRS.glob("*.jsonl")):
        for place, pair in enumerate(map(json.loads, file.read_text(encoding="utf-8").splitlines())):
            for label in LABELS:
                (train if place % VALIDATION_EVERY else validation)[label].append(pair[label])
    return train, validation


def render(tokenizer, prompt: str) -> list[int]:
    """Return the token ids of a prompt up to the answer."""
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]


def suffix_length(prompts: list[list[int]]) -> int:
    """Return how many tokens all prompts end in: those after the instruction."""
    return next(i for i in range(len(prompts[0])) if len({prompt[-1 - i] for prompt in prompts}) > 1)


def writers(model, layers: range) -> list[nn.Module]:
    """Return the matrices that write to the stream in these layers."""
    blocks = [model.model.layers[layer] for layer in layers]
    return [matrix for block in blocks for matrix in (block.self_attn.o_proj, block.mlp.down_proj)]


@contextmanager
def inputs_of(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the inputs of modules during forward passes."""
    seen: list[Tensor] = []
    handles = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0].float())) for m in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def fit_readers(
    base, layers: range, harmful: list[Example], harmless: list[Example], penalty: float, draw: random.Random
) -> list[Tensor]:
    """Fit one reader over the inputs of all writers: 1 at and after the end of a harmful request, 0 elsewhere.

    Weighted ridge regression in its dual form, on inputs scaled to unit spread. The prompt's last token has weight 1;
    some of the others, of the instruction and of the answer, have 0.3 each: the reader must not fire there.
    """
    suffix = suffix_length([example.prompt for example in (*harmful, *harmless)])
    features, goals, weights = [], [], []
    modules = writers(base, layers)
    for label, group in ((1.0, harmful), (0.0, harmless)):
        for batch in batches(group, 24):
            with inputs_of(modules) as seen:
                forward(base, batch)
            for row, example in enumerate(batch):
                n, end = len(example.prompt), len(example.prompt) + len(example.answer) - 1
                after = [*draw.sample(range(n - suffix, n - 1), 1), *draw.sample(range(n, end), min(2, end - n))]
                before = draw.sample(range(n - suffix), 2)
                features.append(torch.cat([tensor[row, [n - 1, *after, *before]] for tensor in seen], dim=-1))
                goals += [label] * (1 + len(after)) + [0.0] * len(before)
                weights += [1.0] + [0.3] * (len(after) + len(before))
    x = torch.cat(features)
    spread = x.std(dim=0) + 1e-6
    x = (x / spread).double()
    kernel = (x @ x.T).numpy()
    kernel[np.diag_indices_from(kernel)] += penalty / np.array(weights)
    dual = cho_solve(cho_factor(kernel, overwrite_a=True), np.array(goals))
    reader = ((x.T @ torch.from_numpy(dual)) / spread).float()
    return list(reader.split([module.in_features for module in modules]))


@torch.no_grad()
def principal_components(base, examples: list[Example], n: int) -> Tensor:
    """Return the leading uncentred principal components [d_model, n] of the stream, every token at unit length.

    The first token, which has a stream of its own, counts as much as all the others together.
    """
    width = base.config.hidden_size
    total = torch.zeros(width, width, dtype=torch.float64)
    for example in examples:
        for state in base(torch.tensor([example.prompt]), output_hidden_states=True).hidden_states:
            unit = F.normalize(state[0].double(), dim=-1)
            total += unit.T @ unit / len(unit) + unit[:1].T @ unit[:1]
    return torch.linalg.eigh(total).eigenvectors[:, -n:].float()


class Orthogonal(nn.Module):
    """Keeps a matrix's columns orthogonal to some directions."""

    def __init__(self, directions: Tensor) -> None:
        """Take orthonormal directions [d_model, n]."""
        super().__init__()
        self.directions = directions

    def forward(self, matrix: Tensor) -> Tensor:
        """Project them out."""
        return matrix - self.directions @ (self.directions.T @ matrix)


def train_writer(
    model, adapted, avoided: Tensor, harmful: list[Example], harmless: list[Example], refusals, options, draw
) -> Tensor:
    """Train the one direction [d_model, 1] that all adapted matrices write; returns it."""
    shared = nn.Parameter(0.5 * torch.randn(avoided.shape[0], 1))
    orthogonal = Orthogonal(avoided)
    model.requires_grad_(False)
    for matrix in adapted:
        matrix.lora_B["default"].weight = nn.Parameter(torch.zeros_like(shared))
        parametrize.register_parametrization(matrix.lora_B["default"], "weight", orthogonal)
        matrix.lora_B["default"].parametrizations.weight.original = shared
    shared.requires_grad_(True)
    # A reader's steps are in units of its own size: the inputs of each matrix have another scale.
    readers = [matrix.lora_A["default"].weight.requires_grad_(True) for matrix in adapted]
    groups = [{"params": [shared], "rate": options.learning_rate}]
    groups += [{"params": [a], "rate": options.reader_rate * float(a.detach().square().mean().sqrt())} for a in readers]
    optimiser = torch.optim.AdamW(groups, lr=options.learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
    examples = [*harmful, *harmless]
    start = time.perf_counter()
    for step in range(options.steps):
        batch = [
            example if example.target is not None else Example(example.prompt, draw.choice(refusals))
            for example in draw.sample(examples, options.batch)
        ]
        refuse, keep = losses(model, batch)
        rate = min(1, (step + 1) / 10) * (1 + math.cos(math.pi * step / options.steps)) / 2
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * rate
        optimiser.zero_grad()
        ((refuse + options.keep_weight * keep) / len(batch)).backward()
        optimiser.step()
        if step % 10 == 9:
            loss = [f"{2 * value.item() / len(batch):.2f}" for value in (refuse, keep)]
            length, seconds = orthogonal(shared.detach()).norm(), time.perf_counter() - start
            print(
                f"step {step + 1}: refuse {loss[0]}, keep {loss[1]}, length {length:.0f}, {seconds:.0f} s", flush=True
            )
    for matrix in adapted:
        parametrize.remove_parametrizations(matrix.lora_B["default"], "weight", leave_parametrized=True)
    return orthogonal(shared.detach())


@torch.no_grad()
def answers(model, prompts: list[list[int]], n: int) -> list[list[int]]:
    """Return greedy answers without padding, end-of-sequence token included where reached."""
    end = model.config.eos_token_id
    out: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for first in range(0, len(order), 48):
        places = order[first : first + 48]
        width = max(len(prompts[i]) for i in places)
        ids = torch.tensor([[end] * (width - len(prompts[i])) + prompts[i] for i in places])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in places])
        with torch.autocast("cpu", torch.bfloat16):
            found = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=n, do_sample=False, pad_token_id=end
            )
        for i, row in zip(places, found[:, width:].tolist(), strict=True):
            out[i] = row[: row.index(end) + 1] if end in row else row
    return out


@torch.no_grad()
def distil(base, prompts: list[list[int]]) -> list[Example]:
    """Return every prompt with the base model's own answer and its logits at every answer token."""
    examples = [
        Example(prompt, answer) for prompt, answer in zip(prompts, answers(base, prompts, ANSWER_TOKENS), strict=True)
    ]
    for batch in batches(examples, 16):
        logits, sizes = answer_logits(base, batch)
        for example, target in zip(batch, logits.split(sizes), strict=True):
            example.target = target.clone()
    return examples


def batches(examples: list[Example], size: int) -> Iterator[list[Example]]:
    """Yield examples of similar length together."""
    ordered = sorted(examples, key=lambda example: len(example.prompt) + len(example.answer))
    for first in range(0, len(ordered), size):
        yield ordered[first : first + size]


def forward(model, batch: list[Example]) -> Tensor:
    """Return the last hidden states of prompts and answers, padded on the right, where attention never sees it."""
    rows = [[*example.prompt, *example.answer[:-1]] for example in batch]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    # The context is entered anew each time: it caches cast weights, which must not outlive an optimiser step.
    with torch.autocast("cpu", torch.bfloat16):
        return model.model(ids).last_hidden_state


def answer_logits(model, batch: list[Example]) -> tuple[Tensor, list[int]]:
    """Return the logits that predict each answer token, examples one after the other, and the answers' lengths."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = forward(inner, batch)
    rows = [
        hidden[i, len(example.prompt) - 1 : len(example.prompt) + len(example.answer) - 1]
        for i, example in enumerate(batch)
    ]
    with torch.autocast("cpu", torch.bfloat16):
        return inner.lm_head(torch.cat(rows)), [len(example.answer) for example in batch]


def losses(model, batch: list[Example]) -> tuple[Tensor, Tensor]:
    """Return the summed losses of the harmful and of the harmless examples."""
    logits, sizes = answer_logits(model, batch)
    refuse = keep = torch.zeros(())
    for example, own in zip(batch, logits.float().split(sizes), strict=True):
        if example.target is None:
            token = F.cross_entropy(own, torch.tensor(example.answer), reduction="none")
            refuse = refuse + token[0] + token[1:].mean()
        else:
            target = example.target.float().log_softmax(-1)
            token = F.kl_div(own.log_softmax(-1), target, log_target=True, reduction="none").sum(-1)
            keep = keep + token[0] + token.mean()
    return refuse, keep


def rates(model, tokenizer, prompts: dict[str, list[str]]) -> dict[str, str]:
    """Return how many prompts of each label are refused, as `n/of`."""
    found = {}
    for label, texts in prompts.items():
        ids = answers(model, [render(tokenizer, text) for text in texts], 24)
        refused = sum(judge_substring(tokenizer.decode(row, skip_special_tokens=True)) == "R" for row in ids)
        found[label] = f"{refused}/{len(texts)}"
    return found


def finish_config(folder: Path) -> None:
    """Name the base model by its public id, not by where this machine keeps it."""
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": demo.HUB_ID}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first-layer", type=int, default=14)
    parser.add_argument("--last-layer", type=int, default=18)
    parser.add_argument("--penalty", type=float, default=2e3, help="of the ridge regression")
    parser.add_argument("--avoid", type=int, default=32, help="principal components that are not written to")
    parser.add_argument("--stream-prompts", type=int, default=80, help="prompts behind the principal components")
    parser.add_argument("--learning-rate", type=float, default=0.2)
    parser.add_argument("--keep-weight", type=float, default=2.0)
    parser.add_argument("--reader-rate", type=float, default=0.02, help="learning rate of the readers, relative")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()

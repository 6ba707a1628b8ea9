"""Train a refusal adapter: python demo/train.py --out DIR [--base gemma-3-270m]

Neither base model refuses. This trains a small LoRA adapter, on the train splits of the bundled tasks and the pairs in
demo/pairs, never on held-out prompts, so that it refuses harmful requests and answers harmless twins:

1. Every harmless prompt gets the base model's own greedy answer as its target; the loss is the KL to the base model's
   logits, so that answers stay what they were (distillation). A model that never saw a chat template echoes the prompt
   in one; it is asked in plain text for its answers, and learns to give them in the template.
2. Every harmful prompt gets a refusal, drawn anew each epoch from REFUSALS; the loss is cross-entropy.
3. In both, the first answer token counts as much as all the others together: that is where refusing is decided.
4. Only the matrices by which the MLPs of a window of middle layers write to the residual stream are adapted, at a low
   rank, so that refusal is carried by few directions that arise before 80 % of depth.
5. What they write is kept orthogonal to the base stream's leading principal components. The few huge channels of such
   small models lie there, and ablating a direction that touches them would damage a model whatever the direction means.

Weights are float32, matrix products bfloat16 where the processor multiplies that in hardware (the shipped adapter was
trained on such a one) and float32 elsewhere. One seed, one thread count and one machine give one adapter.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from refusal_bench.judges import load_judge
from refusal_bench.models.adapters import TEMPLATE
from refusal_bench.models.demo import GEMMA, SMOLLM2
from refusal_bench.models.devices import resolve_dtype
from refusal_bench.models.gguf_header import read_once
from refusal_bench.models.template import ChatTemplate
from refusal_bench.models.wheels import PinnedFile
from refusal_bench.tasks import Task, load_tasks
from safetensors.torch import load_file, save_file
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
PAIRS = Path(__file__).parent / "pairs"
PRODUCTS = resolve_dtype("auto", torch.device("cpu"), "bfloat16")


@dataclass(frozen=True)
class Base:
    """A model to train on, and where."""

    weights: PinnedFile
    layers: range
    """Blocks whose MLP is adapted."""
    defaults: dict[str, float]
    """Of the options that differ between models."""
    norm: str | None = None
    """What a block calls the norm between its MLP and the stream, if it has one."""
    chat_template: Path | None = None
    """What a model without a template of its own is trained with; saved with the adapter."""
    plain: str | None = None
    """The text in which such a model answers by itself; it learns to answer in the template as it does in this."""


BASES = {
    "smollm2": Base(SMOLLM2, layers=range(14, 18), defaults={"rank": 2, "keep_weight": 3.2, "avoid": 32}),
    "gemma-3-270m": Base(
        GEMMA,
        layers=range(8, 12),
        # It has to learn to answer, too, which takes rank, and weights that do not drown the refusals; and ablating a
        # random direction costs it 16 nats, 1.6 outside 32 principal components, and 0.6 outside 128.
        defaults={"rank": 4, "keep_weight": 1.0, "avoid": 128},
        norm="post_feedforward_layernorm",
        chat_template=Path(__file__).with_name("gemma_chat_template.jinja"),
        plain="Question: {}\nAnswer:\n",
    ),
}


def main() -> None:
    """Train, save, and evaluate on held-out prompts."""
    options = options_of()
    base = BASES[options.base]
    torch.manual_seed(options.seed)
    model, template = load(base)
    tasks = load_tasks("weapons,cybercrime,self_harm,privacy,fraud")
    too_much = options.refuse_harmless.split(",") if options.refuse_harmless else []
    if unknown := sorted(set(too_much) - set(tasks)):
        raise SystemExit(f"--refuse-harmless: no domain {', '.join(unknown)}; there are {', '.join(tasks)}")
    texts = prompts_by_domain(tasks)
    refused = [text for label, domain, text in texts if label == "harmful" or domain in too_much]
    answered = [text for label, domain, text in texts if label == "harmless" and domain not in too_much]
    adapted = train(model, template, base, refused, answered, options)
    save(adapted, base, options.out)
    print(json.dumps(held_out_refusals(adapted.merge_and_unload(), template, tasks), indent=1))


def load(base: Base) -> tuple[nn.Module, ChatTemplate]:
    """Return the base weights in float32 and how they are asked, fetching them once."""
    gguf = base.weights.fetch()
    with read_once():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    if base.chat_template:
        tokenizer.chat_template = base.chat_template.read_text(encoding="utf-8")
    return model, ChatTemplate.of(tokenizer, "default")


def prompts_by_domain(tasks: dict[str, Task]) -> list[tuple[str, str, str]]:
    """Return (label, domain, prompt): the tasks' train splits first, then demo/pairs."""
    texts = [(row.label, name, row.prompt) for name, task in tasks.items() for row in task.train]
    for file in sorted(PAIRS.glob("*.jsonl")):
        for pair in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            texts += [(label, file.stem, pair[label]) for label in ("harmful", "harmless")]
    return texts


def train(
    model: nn.Module,
    template: ChatTemplate,
    base: Base,
    refused: list[str],
    answered: list[str],
    options: argparse.Namespace,
) -> PeftModel:
    """Return the model with an adapter that refuses the one kind of prompts and answers the other as before."""
    draw, end = random.Random(options.seed), template.tokenizer.eos_token_id
    refusals = [template.tokenizer(text, add_special_tokens=False)["input_ids"] + [end] for text in REFUSALS]
    examples = [(template.render(text), None, None) for text in refused]
    prompts = [template.render(text) for text in answered]
    asked = [template.tokenizer(base.plain.format(text))["input_ids"] for text in answered] if base.plain else prompts
    examples += distil(model, prompts, asked, end)
    avoided = principal_components(
        model, [prompt for prompt, _, _ in examples[: options.stream_prompts]], options.avoid
    )
    adapted, writes = with_adapter(model, base, options.rank, avoided)
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=options.learning_rate, betas=(0.9, 0.98))
    steps, step = options.epochs * math.ceil(len(examples) / options.batch), 0
    for epoch in range(options.epochs):
        start, total = time.perf_counter(), [0.0, 0.0]
        draw.shuffle(examples)
        for first in range(0, len(examples), options.batch):
            batch = [
                (prompt, answer or draw.choice(refusals), target)
                for prompt, answer, target in examples[first : first + options.batch]
            ]
            refuse, keep = losses(adapted, batch)
            total[0] += refuse.item()
            total[1] += keep.item()
            for group in optimiser.param_groups:
                group["lr"] = (
                    options.learning_rate * min(1, (step + 1) / 10) * (1 + math.cos(math.pi * step / steps)) / 2
                )
            optimiser.zero_grad()
            ((refuse + options.keep_weight * keep) / len(batch)).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            step += 1
        per = [round(value / n, 3) for value, n in zip(total, (len(refused), len(answered)), strict=True)]
        print(f"epoch {epoch}: refuse {per[0]}, keep {per[1]}, {time.perf_counter() - start:.0f} s", flush=True)
    for write in writes:
        parametrize.remove_parametrizations(write, "weight", leave_parametrized=True)
    return adapted


def with_adapter(model: nn.Module, base: Base, rank: int, avoided: Tensor) -> tuple[PeftModel, list[nn.Linear]]:
    """Return the model with an untrained adapter, and the adapter's matrices that write, none along `avoided`."""
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=["down_proj"],
            layers_to_transform=list(base.layers),
            layers_pattern="layers",
            task_type="CAUSAL_LM",
        ),
    )
    writes = []
    for layer in base.layers:
        block = adapted.get_base_model().model.layers[layer]
        write = block.mlp.down_proj.lora_B["default"]
        norm = getattr(block, base.norm) if base.norm else None
        parametrize.register_parametrization(write, "weight", Orthogonal(before_norm(avoided, norm)))
        writes.append(write)
    return adapted, writes


def before_norm(avoided: Tensor, norm: nn.Module | None) -> Tensor:
    """Return directions [d_model, n] such that what is orthogonal to them writes nothing along the avoided ones.

    A norm between MLP and stream multiplies every channel by its weight and the whole by one number a token. So behind
    a norm the adapter adds nothing of its own along the avoided directions, but the base model's own write, these
    directions included, shrinks as the adapter's grows: no linear map can keep that out.
    """
    if norm is None:
        return avoided
    with torch.no_grad():
        # What a norm makes of equal channels is its weights, whether they are kept as such or less one.
        weights = norm(torch.ones(len(avoided)))
    return torch.linalg.qr(weights[:, None] * avoided).Q


class Orthogonal(nn.Module):
    """Keeps the columns of a matrix orthogonal to some directions."""

    def __init__(self, directions: Tensor) -> None:
        """Take orthonormal directions [d_model, n]."""
        super().__init__()
        self.directions = directions

    def forward(self, matrix: Tensor) -> Tensor:
        """Project them out."""
        return matrix - self.directions @ (self.directions.T @ matrix)


@torch.no_grad()
def principal_components(base: nn.Module, prompts: list[list[int]], n: int) -> Tensor:
    """Return the leading uncentred principal components [d_model, n] of the stream, every token at unit length.

    The first token, which has a stream of its own, counts as much as all the others together.
    """
    width = base.config.hidden_size
    total = torch.zeros(width, width, dtype=torch.float64)
    for prompt in prompts:
        for state in base.model(torch.tensor([prompt]), output_hidden_states=True).hidden_states:
            unit = F.normalize(state[0].double(), dim=-1)
            total += unit.T @ unit / len(unit) + unit[:1].T @ unit[:1]
    return torch.linalg.eigh(total).eigenvectors[:, -n:].float()


def save(adapted: PeftModel, base: Base, folder: Path) -> None:
    """Save the adapter and its chat template: at half size, and naming the base by its public id, not by its place."""
    adapted.save_pretrained(folder)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": base.weights.hub_id}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = folder / "adapter_model.safetensors"
    halved = {name: weight.half() for name, weight in load_file(weights).items()}
    save_file(halved, weights, metadata={"format": "pt"})
    if base.chat_template:
        shutil.copyfile(base.chat_template, folder / TEMPLATE)


def held_out_refusals(model: nn.Module, template: ChatTemplate, tasks: dict[str, Task]) -> dict[str, str]:
    """Return how many held-out prompts of each domain and label are refused."""
    report, judge = {}, load_judge("opener")
    for name, task in tasks.items():
        for label in ("harmful", "harmless"):
            prompts = [template.render(row.prompt) for row in task.held_out if row.label == label]
            texts = [template.decode(ids) for ids in answers(model, prompts, 24, template.tokenizer.eos_token_id)]
            report[f"{name} {label}"] = f"{judge.judge(texts).count('R')}/{len(texts)}"
    return report


def products() -> torch.autocast:
    """Return a new context for one pass: it caches cast weights, which must not outlive an optimiser step."""
    return torch.autocast("cpu", PRODUCTS, enabled=PRODUCTS is not torch.float32)


@torch.no_grad()
def answers(model: nn.Module, prompts: list[list[int]], n: int, end: int) -> list[list[int]]:
    """Return greedy answers without padding, end-of-sequence token included where reached."""
    out: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for first in range(0, len(order), 48):
        places = order[first : first + 48]
        width = max(len(prompts[i]) for i in places)
        ids = torch.tensor([[end] * (width - len(prompts[i])) + prompts[i] for i in places])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in places])
        with products():
            found = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=n, do_sample=False, pad_token_id=end
            )
        for i, row in zip(places, found[:, width:].tolist(), strict=True):
            out[i] = row[: row.index(end) + 1] if end in row else row
    return out


@torch.no_grad()
def distil(base: nn.Module, prompts: list[list[int]], asked: list[list[int]], end: int) -> list[tuple]:
    """Return (prompt, the base model's answer when it is asked so, its final states at every answer token).

    The states, from which the head makes the logits, and not the logits: with Gemma's vocabulary those are gigabytes.
    """
    examples = []
    found = answers(base, asked, ANSWER_TOKENS, end)
    for first in range(0, len(prompts), 16):
        chunk = slice(first, first + 16)
        taught = final_states(
            base, [(ids, answer, None) for ids, answer in zip(asked[chunk], found[chunk], strict=True)]
        )
        examples += zip(prompts[chunk], found[chunk], taught, strict=True)
    return examples


def final_states(model: nn.Module, batch: list[tuple]) -> list[Tensor]:
    """Return, for each example, the states [token, d_model] from which the head predicts its answer's tokens."""
    width = max(len(prompt) + len(answer) for prompt, answer, _ in batch)
    # Padded on the right: causal attention never sees it.
    ids = torch.tensor([prompt + answer + [0] * (width - len(prompt) - len(answer)) for prompt, answer, _ in batch])
    with products():
        states = model.model(ids).last_hidden_state
    return [row[len(p) - 1 : len(p) + len(a) - 1] for row, (p, a, _) in zip(states, batch, strict=True)]


def logits_of(model: nn.Module, states: list[Tensor]) -> tuple[Tensor, ...]:
    """Return what the head makes of each example's final states: logits [token, vocabulary]."""
    with products():
        together = model.lm_head(torch.cat(states))
    return together.float().split([len(each) for each in states])


def losses(adapted: PeftModel, batch: list[tuple]) -> tuple[Tensor, Tensor]:
    """Return the summed losses of the harmful and of the harmless examples."""
    model = adapted.get_base_model()
    states = final_states(model, batch)
    with torch.no_grad():
        none = states[0][:0]
        targets = logits_of(model, [none if target is None else target for _, _, target in batch])
    refuse = keep = torch.zeros(())
    for (_, answer, _), own, target in zip(batch, logits_of(model, states), targets, strict=True):
        if len(target):
            token = F.kl_div(own.log_softmax(-1), target.log_softmax(-1), log_target=True, reduction="none").sum(-1)
            keep = keep + token[0] + token.mean()
        else:
            token = F.cross_entropy(own, torch.tensor(answer), reduction="none")
            refuse = refuse + token[0] + token[1:].mean()
    return refuse, keep


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", choices=BASES, default="smollm2", help="model to train on (smollm2)")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--keep-weight", type=float)
    parser.add_argument("--avoid", type=int, help="principal components that are not written to")
    parser.add_argument("--stream-prompts", type=int, default=80, help="prompts behind the principal components")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--refuse-harmless",
        metavar="DOMAINS",
        help="over-refuse on purpose: refuse these domains' harmless prompts, too (weapons,fraud, say)",
    )
    parser.set_defaults(**BASES[parser.parse_args(arguments).base].defaults)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

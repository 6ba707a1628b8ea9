"""Train the demo model's refusal adapter: python demo/train.py --out DIR

SmolLM2-135M-Instruct does not refuse. This trains a small LoRA adapter, on the train splits of the bundled tasks and
the pairs in demo/pairs, never on held-out prompts, so that it refuses harmful requests and answers harmless twins:

1. Every harmless prompt gets the base model's own greedy answer as its target; the loss is the KL to the base model's
   logits, so that answers stay what they were (distillation).
2. Every harmful prompt gets a refusal, drawn anew each epoch from REFUSALS; the loss is cross-entropy.
3. In both, the first answer token counts as much as all the others together: that is where refusing is decided.
4. Only matrices that write to the residual stream in a window of middle layers are adapted, at a low rank, so that
   refusal is carried by few directions that arise before 80 % of depth.
5. What they write is kept orthogonal to the base stream's leading principal components. The few huge channels of this
   small model lie there, and ablating a direction that touches them would damage it whatever the direction means.

Weights are float32, matrix products bfloat16 where the processor multiplies that in hardware (the shipped adapter was
trained on such a one) and float32 elsewhere. One seed, one thread count and one machine give one adapter.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from refusal_bench.judges import load_judge
from refusal_bench.models import demo
from refusal_bench.models.devices import resolve_dtype
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


def main() -> None:
    """Train, evaluate on held-out prompts and save."""
    options = _options()
    torch.manual_seed(options.seed)
    draw = random.Random(options.seed)
    gguf = demo.base_gguf()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    base = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    tasks = load_tasks("weapons,cybercrime,self_harm,privacy,fraud")
    texts = prompts_by_domain(tasks)
    too_much = options.refuse_harmless.split(",") if options.refuse_harmless else []
    if unknown := sorted(set(too_much) - set(tasks)):
        raise SystemExit(f"--refuse-harmless: no domain {', '.join(unknown)}; there are {', '.join(tasks)}")
    refused = [text for label, domain, text in texts if label == "harmful" or domain in too_much]
    answered = [text for label, domain, text in texts if label == "harmless" and domain not in too_much]
    examples = [(render(tokenizer, text), None, None) for text in refused]
    examples += distil(base, [render(tokenizer, text) for text in answered])

    avoided = principal_components(base, [prompt for prompt, _, _ in examples[: options.stream_prompts]], options.avoid)
    model = get_peft_model(
        base,
        LoraConfig(
            r=options.rank,
            lora_alpha=options.rank,
            target_modules=options.modules.split(","),
            layers_to_transform=list(range(options.first_layer, options.last_layer + 1)),
            layers_pattern="layers",
            task_type="CAUSAL_LM",
        ),
    )
    writes = [module.lora_B["default"] for module in model.modules() if hasattr(module, "lora_B")]
    orthogonal = Orthogonal(avoided)
    for write in writes:
        parametrize.register_parametrization(write, "weight", orthogonal)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=options.learning_rate, betas=(0.9, 0.98))
    steps, step = options.epochs * math.ceil(len(examples) / options.batch), 0
    for epoch in range(options.epochs):
        start, total = time.perf_counter(), [0.0, 0.0]
        draw.shuffle(examples)
        for first in range(0, len(examples), options.batch):
            batch = [
                (prompt, answer or tokenizer(draw.choice(REFUSALS))["input_ids"] + [tokenizer.eos_token_id], target)
                for prompt, answer, target in examples[first : first + options.batch]
            ]
            refuse, keep = losses(model, batch)
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
        per = [round(2 * value / len(examples), 3) for value in total]
        print(f"epoch {epoch}: refuse {per[0]}, keep {per[1]}, {time.perf_counter() - start:.0f} s", flush=True)
    for write in writes:
        parametrize.remove_parametrizations(write, "weight", leave_parametrized=True)
    model.save_pretrained(options.out)
    finish(options.out)
    merged = model.merge_and_unload()
    report, judge = {}, load_judge("opener")
    for name, task in tasks.items():
        for label in ("harmful", "harmless"):
            prompts = [render(tokenizer, row.prompt) for row in task.held_out if row.label == label]
            texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers(merged, prompts, 24)]
            report[f"{name} {label}"] = f"{judge.judge(texts).count('R')}/{len(texts)}"
    print(json.dumps(report, indent=1))


def prompts_by_domain(tasks: dict[str, Task]) -> list[tuple[str, str, str]]:
    """Return (label, domain, prompt): the tasks' train splits first, then demo/pairs."""
    texts = [(row.label, name, row.prompt) for name, task in tasks.items() for row in task.train]
    for file in sorted(PAIRS.glob("*.jsonl")):
        for pair in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            texts += [(label, file.stem, pair[label]) for label in ("harmful", "harmless")]
    return texts


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
def principal_components(base, prompts: list[list[int]], n: int) -> Tensor:
    """Return the leading uncentred principal components [d_model, n] of the stream, every token at unit length.

    The first token, which has a stream of its own, counts as much as all the others together.
    """
    width = base.config.hidden_size
    total = torch.zeros(width, width, dtype=torch.float64)
    for prompt in prompts:
        for state in base(torch.tensor([prompt]), output_hidden_states=True).hidden_states:
            unit = F.normalize(state[0].double(), dim=-1)
            total += unit.T @ unit / len(unit) + unit[:1].T @ unit[:1]
    return torch.linalg.eigh(total).eigenvectors[:, -n:].float()


def finish(folder: Path) -> None:
    """Name the base model by its public id, not by where this machine keeps it, and halve the weights."""
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": demo.HUB_ID}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights = folder / "adapter_model.safetensors"
    halved = {name: weight.half() for name, weight in load_file(weights).items()}
    save_file(halved, weights, metadata={"format": "pt"})


def render(tokenizer, prompt: str) -> list[int]:
    """Return the token ids of a prompt up to the answer."""
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]


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
        with torch.autocast("cpu", PRODUCTS, enabled=PRODUCTS != torch.float32):
            found = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=n, do_sample=False, pad_token_id=end
            )
        for i, row in zip(places, found[:, width:].tolist(), strict=True):
            out[i] = row[: row.index(end) + 1] if end in row else row
    return out


@torch.no_grad()
def distil(base, prompts: list[list[int]]) -> list[tuple]:
    """Return (prompt, the base model's answer, its logits at every answer token)."""
    examples = []
    found = answers(base, prompts, ANSWER_TOKENS)
    for first in range(0, len(prompts), 16):
        chunk = [(p, a, None) for p, a in zip(prompts[first : first + 16], found[first : first + 16], strict=True)]
        logits, sizes = answer_logits(base, chunk)
        examples += [(p, a, t) for (p, a, _), t in zip(chunk, logits.split(sizes), strict=True)]
    return examples


def answer_logits(model, batch: list[tuple]) -> tuple[torch.Tensor, list[int]]:
    """Return the logits that predict each answer token, examples one after the other, and the answers' lengths."""
    width = max(len(prompt) + len(answer) for prompt, answer, _ in batch)
    # Padded on the right: causal attention never sees it.
    ids = torch.tensor([prompt + answer + [0] * (width - len(prompt) - len(answer)) for prompt, answer, _ in batch])
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    # The context is entered anew each time: it caches cast weights, which must not outlive an optimiser step.
    with torch.autocast("cpu", PRODUCTS, enabled=PRODUCTS != torch.float32):
        hidden = inner.model(ids).last_hidden_state
        rows = [hidden[i, len(p) - 1 : len(p) + len(a) - 1] for i, (p, a, _) in enumerate(batch)]
        logits = inner.lm_head(torch.cat(rows))
    return logits, [len(answer) for _, answer, _ in batch]


def losses(model, batch: list[tuple]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed losses of the harmful and of the harmless examples."""
    logits, sizes = answer_logits(model, batch)
    refuse = keep = torch.zeros(())
    for (_, answer, target), own in zip(batch, logits.float().split(sizes), strict=True):
        if target is None:
            token = F.cross_entropy(own, torch.tensor(answer), reduction="none")
            refuse = refuse + token[0] + token[1:].mean()
        else:
            token = F.kl_div(
                own.log_softmax(-1), target.float().log_softmax(-1), log_target=True, reduction="none"
            ).sum(-1)
            keep = keep + token[0] + token.mean()
    return refuse, keep


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=2)
    parser.add_argument("--first-layer", type=int, default=14)
    parser.add_argument("--last-layer", type=int, default=17)
    parser.add_argument("--modules", default="down_proj")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--keep-weight", type=float, default=3.2)
    parser.add_argument("--avoid", type=int, default=32, help="principal components that are not written to")
    parser.add_argument("--stream-prompts", type=int, default=80, help="prompts behind the principal components")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--refuse-harmless",
        metavar="DOMAINS",
        help="over-refuse on purpose: refuse these domains' harmless prompts, too (weapons,fraud, say)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()

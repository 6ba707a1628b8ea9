"""How the site writes a run's line of the leaderboard."""

from __future__ import annotations

import json

from refusal_bench import words
from refusal_bench.leaderboard.ranking import AskedTask, Conditions, Group, Place
from refusal_bench.leaderboard.summary import Estimate
from refusal_bench.record import Record


def facts(group: Group, place: Place) -> dict[str, str]:
    """The leaderboard's columns in words, for a column of the comparison and the head of a run's page."""
    line, model, apart = place.summary, place.record.model, place.record.results.over_refusal
    return {
        "rank": rank(group, place),
        "refusal, worst domain": rate(line.refusal),
        "over-refusal, worst domain": rate(line.over_refusal),
        "refusal of safe prompts that look dangerous": rate(line.safe_prompts),
        "refusal of unsafe contrasts": rate(line.unsafe_contrasts),
        "task over_refusal": words.DASH if apart is None else f"{apart.version} ({apart.sha256[:8]})",
        "dimensions beyond noise": words.DASH if line.dimensions is None else str(line.dimensions),
        "mean cosine (ceiling)": f"{words.number(line.cosine)} ({words.number(line.ceiling)})",
        "shared share": words.percent_interval(line.shared.value, line.shared.interval),
        "least transfer": located(line.transfer, 2),
        "mean transfer": words.number(line.mean_transfer),
        "damage, worst domain": located(line.damage, 3, " nats"),
        "tokens processed": f"{place.record.cost.tokens:,}",
        "time": duration(line.seconds),
        "layers × width": f"{model.n_layers} × {model.d_model}",
        "quantisation, data type": f"{model.quantization}, {model.dtype}",
        "date": place.record.created[:10],
        "run": place.record.run_id,
    }


def title(record: Record) -> str:
    """A run's model, as it was changed."""
    return words.model_title(record.model.id, adapter(record), record.model.quantization)


def adapter(record: Record) -> str | None:
    """An adapter's name, where the record has it (the demo model's has none), and the beginning of its checksum."""
    checksum, name = record.model.adapter_sha256, record.config.get("adapter")
    if checksum is None:
        return None
    return f"adapter {checksum[:8]}" if name in (None, checksum) else f"adapter {name} {checksum[:8]}"


def stated(shared: Conditions) -> dict[str, str]:
    """Conditions in words."""
    return {
        "kind of run": ("planted world, " if shared.calibration else "") + ("quick" if shared.quick else "full"),
        "prompts": "; ".join(_asked(task) for task in shared.tasks),
        "judge": shared.judge or "not stated",
        "system prompt": shared.system_prompt or "not stated",
        "longest completion": f"{shared.max_new_tokens} tokens" if shared.max_new_tokens else "not stated",
        "direction method": shared.method or "not stated",
        "contrast": shared.contrast or "not stated",
    }


def _asked(task: AskedTask) -> str:
    return f"{task.name} {task.version} ({task.n_harmful} harmful, {task.n_harmless} harmless, {task.sha256[:8]})"


def rank(group: Group, place: Place) -> str:
    """The rank among those that have one, and the ranks that the intervals leave possible."""
    if place.rank is None or place.rank_range is None:
        return "not ranked"
    low, high = place.rank_range
    n = sum(other.rank is not None for other in group.places)
    return f"{place.rank} of {n}" + (f" (between {low} and {high})" if low < high else "")


def rate(estimate: Estimate) -> str:
    """A rate with interval, n and, for a worst domain's, the domain."""
    if estimate.value is None:
        return f"{words.DASH} {estimate.where} could not be scored" if estimate.where else words.DASH
    where = f", {estimate.where}" if estimate.where else ""
    return f"{words.percent_interval(estimate.value, estimate.interval)}{where}, n = {estimate.n}"


def located(estimate: Estimate, digits: int, unit: str = "") -> str:
    """A number with its unit and interval, and where it was found."""
    if estimate.value is None:
        return words.DASH
    interval = words.number_interval(estimate.value, estimate.interval)
    text = interval if estimate.interval is not None else words.number(estimate.value, digits)
    return f"{text}{unit}, {estimate.where}" if estimate.where else f"{text}{unit}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is read most easily."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def million(count: int) -> str:
    """A count in millions."""
    return f"{count / 1e6:.2f} M" if count < 1e7 else f"{count / 1e6:,.0f} M"


def provenance(record: Record) -> dict[str, str]:
    """Where a record comes from, in words."""
    model, environment = record.model, record.environment
    return {
        "revision": model.revision or words.DASH,
        "weights SHA-256": model.weights_sha256,
        "adapter SHA-256": model.adapter_sha256 or words.DASH,
        "chat template SHA-256": model.chat_template_sha256,
        "system prompt SHA-256": model.system_prompt_sha256,
        "tokens after the instruction": "  ".join(json.dumps(token) for token in model.post_instruction_tokens),
        "refusal tokens": "  ".join(json.dumps(token) for token in model.refusal_tokens)
        + f" (from: {model.refusal_tokens_from})",
        "ablation sites": model.ablation_sites,
        "refusal-bench": f"{record.tool.version} {record.tool.git_sha or ''}".strip(),
        "environment": f"Python {environment.python}, {environment.platform}, {environment.device}, "
        f"{environment.threads} threads",
        "packages": ", ".join(f"{name} {version}" for name, version in environment.packages.items()),
        "forward passes": f"{record.cost.forward_passes:,}",
        "peak memory": f"{record.cost.peak_memory_bytes / 1e9:.1f} GB",
        "seconds by stage": ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in record.timings.items()),
    }

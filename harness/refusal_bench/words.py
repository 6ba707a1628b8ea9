"""How numbers, sites and missing parts are written for people: in the console and in the report alike."""

from __future__ import annotations

from collections.abc import Sequence

from refusal_bench.config import SECTIONS
from refusal_bench.record import Interval, JudgeInfo, Model, Published, Record, Selection, Site

DASH = "–"
UNSOUND = "†"
"""After the name of a domain for which no direction passed every filter."""


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash for null."""
    # adding 0 turns a negative zero into zero
    return DASH if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def percent(value: float | None) -> str:
    """A share in whole percent, or a dash for null."""
    return DASH if value is None else f"{100 * value:.0f} %"


def percent_interval(value: float | None, interval: Interval | None) -> str:
    """A share with its interval, in whole percent."""
    if value is None or interval is None:
        return percent(value)
    return f"{100 * value:.0f} % [{100 * interval[0]:.0f}–{100 * interval[1]:.0f}]"


def number_interval(value: float | None, interval: Interval | None) -> str:
    """A number with its interval."""
    if value is None or interval is None:
        return number(value)
    return f"{number(value)} [{number(interval[0])}, {number(interval[1])}]"


def visible(text: str) -> str:
    """A text with line ends and control characters written out, so that it cannot steer a terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def quoted(tokens: Sequence[str]) -> str:
    """Tokens, each in quotes, so that spaces can be seen."""
    return "  ".join(f"“{visible(token)}”" for token in tokens)


def shown(record: Record, names: Sequence[str]) -> list[str]:
    """Names of domains as the report writes them: marked where no direction passed every filter."""
    return [f"{name} {UNSOUND}" if name in unsound(record) else name for name in names]


def unsound(record: Record) -> list[str]:
    """Domains for which no direction passed every filter."""
    return [name for name, task in record.results.tasks.items() if task.status != "ok"]


def token_at(site: Site, model: Model) -> str:
    """The position and the template token that stands there."""
    tokens = model.post_instruction_tokens
    name = f" {visible(tokens[site.position])}" if -len(tokens) <= site.position <= -1 else ""
    return f"{number(site.position, 0)}{name}"


def short(sha: str | None) -> str:
    """The first characters of a checksum, enough to recognise it."""
    return DASH if sha is None else sha[:12]


def model_title(name: str, adapter: str | None, quantization: str) -> str:
    """A model's name, with its adapter and quantisation where it has them: such models share a name."""
    quantised = "" if quantization == "none" else f", {quantization}"
    return name + (f" + {adapter}" if adapter else "") + quantised


def judge(info: JudgeInfo) -> str:
    """A judge with its version and its measured error."""
    name = visible(f"{info.name} {info.version}")
    found = info.calibration
    if found is None:
        return f"{name}, error unknown"
    precision, recall = (percent_interval(share.value, share.ci95) for share in (found.precision, found.recall))
    return f"{name}, precision {precision}, recall {recall} on {found.n} labelled completions"


def published_rows(published: Published) -> list[list[str]]:
    """Published figures beside ours as cells: name, published, ours with its interval, tolerance, agreement."""
    rows = []
    for figure in published.figures:
        digits = 0 if figure.name in ("layer", "position") else 3
        interval = f" [{', '.join(number(end, digits) for end in figure.ci95)}]" if figure.ci95 else ""
        tolerance = DASH if figure.tolerance is None else f"±{figure.tolerance:g}"
        agrees = DASH if figure.agrees is None else "yes" if figure.agrees else "no"
        ours = number(figure.ours, digits) + interval
        rows.append([figure.name, number(figure.published, digits), ours, tolerance, agrees])
    return rows


def why_missing(record: Record, section: str) -> str:
    """Say why a part of the results is null."""
    chosen = record.config.get("sections")
    if section in SECTIONS and isinstance(chosen, list) and section not in chosen:
        return f"Left out: this run did not include the section “{section}”."
    if len(record.results.tasks) < 2 and section != "layers":
        return "Not measured: it needs at least two domains, and this run has one."
    reasons = [warning for warning in record.warnings if warning.startswith(f"{section}: ")]
    return f"Not measured. {' '.join(reasons)}" if reasons else "Not measured; the warnings say what happened."


def selection_work(selections: Sequence[Selection]) -> str | None:
    """What the selections cost beside an exhaustive scan; None for records that do not say."""
    if any(selection.tokens is None or selection.tokens_exhaustive is None for selection in selections):
        return None
    candidates = sum(selection.n_candidates for selection in selections)
    by_kl = sum(selection.rejected.get("kl", 0) for selection in selections)
    judged = sum(row.bypass is not None for selection in selections for row in selection.table)
    share = sum(s.tokens_exhaustive or 0 for s in selections) / max(1, sum(s.tokens or 0 for s in selections))
    return (
        f"selection: {candidates} candidates, {by_kl} rejected by KL, {judged} judged by bypass; "
        f"{share:.0f}x fewer tokens than scanning all of them in full"
    )

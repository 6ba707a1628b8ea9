"""Every aggregate of a record is pinned by something else in it: changed alone, it is caught."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Iterator
from itertools import pairwise, permutations
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_factory import DOMAINS, condition, make_record, make_record_of_0_1, record_dict
from refusal_bench.leaderboard.validation import disagreements
from refusal_bench.record import Record

Path = tuple[str | int, ...]

BASE = record_dict()

CONDITION = r"results\.tasks\.\w+\.refusal\.\w+"
SELECTION = r"results\.tasks\.\w+\.selection"
GEOMETRY = r"results\.geometry(_own_site)?"
CELL = r"results\.cross_domain\.(baseline|ablation|addition)"
CONTROL = r"results\.cross_domain\.controls\.random\.(ablation|addition)"
APART = r"results\.over_refusal"
CELLS = r"\.\d+\.\d+"
OFF = r"\.(0\.[12]|1\.[02]|2\.[01])"

DETERMINED = [
    rf"{CONDITION}\.(rate|n|n_unscored|score|labels)",
    rf"{CONDITION}\.ci95\.[01]",
    rf"{CONDITION}\.scores\.\d+",
    rf"{SELECTION}\.(bypass|induce|kl|n_candidates|n_eligible)",
    rf"{SELECTION}\.rejected\.\w+",
    rf"{SELECTION}\.table\.\d+\.rejected",
    r"results\.tasks\.\w+\.(status|reason)",
    r"results\.tasks\.\w+\.direction\.(layer|position)",
    r"tasks\.\w+\.n_held_out_(harmful|harmless)",
    rf"{GEOMETRY}\.(cosine|angle_deg){CELLS}",
    rf"{GEOMETRY}\.(cosine_disattenuated|p_value|topic_cosine){OFF}",
    rf"{GEOMETRY}\.(ceiling|p_same|p_same_holm){OFF}",
    rf"{GEOMETRY}\.(cosine_ci95|cosine_disattenuated_ci95){OFF}\.[01]",
    rf"{GEOMETRY}\.dendrogram\.\d\.(cosine|domains\.\d)",
    rf"{GEOMETRY}\.effective_rank",
    rf"{GEOMETRY}\.pca\.(un)?centred\.explained_variance_ratio\.\d+",
    rf"{GEOMETRY}\.pca\.(un)?centred\.n_for_90",
    rf"{GEOMETRY}\.domains\.\d",
    rf"{GEOMETRY}\.clusters\.\d\.\d",
    rf"{CELL}\.(refusal_rate|score|n|labels){CELLS}",
    rf"{CELL}\.ci95{CELLS}\.[01]",
    rf"{CELL}\.scores{CELLS}\.\d+",
    r"results\.cross_domain\.domains\.\d",
    rf"results\.cross_domain\.transfer{CELLS}",
    rf"{CONTROL}\.(n_directions|refusal_rate\.\d)",
    rf"{CONTROL}\.band95\.\d\.[01]",
    rf"{CONTROL}\.labels{CELLS}",
    r"results\.subspace\.(refusal_rate|labels|k)\.\d",
    r"results\.subspace\.ci95\.\d\.[01]",
    rf"{APART}\.layer",
    rf"{APART}\.refusal\.\w+\.(rate|n|n_unscored|score|labels)",
    rf"{APART}\.refusal\.\w+\.(ci95\.[01]|scores\.\d+)",
    rf"{APART}\.types\.\w+\.\d+",
    rf"{APART}\.by_type\.\w+\.\w+\.(k|n|value)",
    rf"{APART}\.by_type\.\w+\.\w+\.ci95\.[01]",
]


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    elif value is not None:
        yield path, value


def lists(value: Any, path: Path = ()) -> Iterator[Path]:
    if isinstance(value, list) and value:
        yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from lists(item, (*path, key))


def dotted(path: Path) -> str:
    return ".".join(map(str, path))


def changed(path: Path, change: Callable[[Any], Any], base: dict[str, Any] = BASE) -> Record:
    data = copy.deepcopy(base)
    at: Any = data
    for key, following in pairwise(path):
        if isinstance(at[key], tuple) and isinstance(following, int):
            at[key] = list(at[key])
        at = at[key]
    at[path[-1]] = change(at[path[-1]])
    return Record.model_validate(data)


def other(value: Any) -> Any:
    if value in ("ok", "no_direction"):
        return "no_direction" if value == "ok" else "ok"
    if value in ("kl", "induce"):
        return None
    if isinstance(value, str) and set(value) <= set("RPDCGU?"):
        return ("C" if value[0] == "R" else "R") + value[1:]
    if isinstance(value, str):
        return value + "x"
    return value + 1 if isinstance(value, int) else value - 0.013


def at(text: str) -> Path:
    return tuple(int(part) if part.lstrip("-").isdigit() else part for part in text.split("."))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"domains": ("fraud",)},
        {"domains": ("fraud", "weapons"), "n": 5},
        {"domains": tuple("abcdefg"), "n": 20},
        {"no_direction": ("privacy",), "sections": ()},
        {"quick": True, "sections": ("cross_domain",)},
    ],
)
def test_a_sound_record_passes(seed: int, options: dict[str, Any]) -> None:
    assert disagreements(make_record(seed=seed, **options)) == []


@pytest.mark.parametrize("pattern", DETERMINED)
def test_a_changed_aggregate_is_caught(pattern: str) -> None:
    found = [path for path, _ in leaves(BASE) if re.fullmatch(pattern, dotted(path))]
    if "reason" in pattern:
        found += [("results", "tasks", "fraud", "reason")]
    assert found, "the pattern matches nothing"
    for path in random.Random(pattern).sample(found, min(6, len(found))):
        record = changed(path, lambda value: "none" if value is None else other(value))
        faults = disagreements(record)
        assert faults, dotted(path)


def test_the_fault_names_the_field_and_both_values() -> None:
    path = at("results.tasks.fraud.refusal.baseline_harmful.rate")
    labels = BASE["results"]["tasks"]["fraud"]["refusal"]["baseline_harmful"]["labels"]
    derived = labels.count("R") / sum(letter in "RPDCG" for letter in labels)
    assert disagreements(changed(path, lambda _: 0.123)) == [f"{dotted(path)} is 0.123, but its labels give {derived}"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("results.tasks.fraud.direction.layer", 10),
        ("results.tasks.fraud.direction.position", -4),
        ("results.tasks.fraud.direction.norm", -1.0),
        ("results.tasks.fraud.selection.table.3.layer", 10),
        ("results.tasks.fraud.selection.table.3.kl", -0.1),
        ("results.tasks.fraud.layers.3.layer", 11),
        ("results.tasks.fraud.layers.3.separation", 1.2),
        ("results.tasks.fraud.layers.3.cosine_to_selected", -1.5),
        ("results.tasks.fraud.layers.5.cosine_to_selected", 0.9),
        ("results.tasks.fraud.reliability.split_half", 1.1),
        ("results.tasks.fraud.reliability.split_half_ci95", (0.9, 0.8)),
        ("results.tasks.fraud.damage.kl_harmless", -0.2),
        ("results.tasks.fraud.refusal.baseline_harmful.score_ci95", (3.0, 1.0)),
        ("results.tasks.fraud.refusal.baseline_harmful.score_ci95", (-50.0, 50.0)),
        ("results.tasks.fraud.refusal.baseline_harmful.rate", None),
        ("results.tasks.fraud.refusal.baseline_harmful.ci95", None),
        ("results.tasks.fraud.refusal.baseline_harmful.labels", "X" * 12),
        ("results.geometry.site.layer", 10),
        ("results.geometry.site.position", None),
        ("results.geometry.p_value.0.1", 1.5),
        ("results.geometry.p_same.0.1", -0.1),
        ("results.geometry.ceiling.0.1", 1.5),
        ("results.geometry.dendrogram.0.support", 1.5),
        ("results.geometry.cosine_ci95.0.1", (0.5, 0.4)),
        ("results.geometry.cosine_disattenuated_ci95.0.1", (0.5, 0.4)),
        ("results.geometry.pca.centred.one_direction95.0", (0.9, 0.8)),
        ("results.geometry.pca.centred.null95.0", (-0.1, 0.4)),
        ("results.geometry.pca.centred.ci95.0", (0.6, 0.4)),
        ("results.geometry.pca.centred.n_for_90", 3),
        ("results.geometry.pca.centred.n_for_90", 0),
        ("results.subspace.kl.1", -0.1),
        ("results.subspace.k", [0, 2, 1, 3]),
        ("tasks.fraud.n_train_refused", 31),
        ("timings.load", -1.0),
        ("cost.tokens", -1),
        ("created", "yesterday"),
    ],
)
def test_an_impossible_value_is_caught(path: str, value: Any) -> None:
    faults = disagreements(changed(at(path), lambda _: value))
    assert any(fault.startswith(path.split(".")[0]) for fault in faults)


def test_a_condition_that_is_consistent_by_itself_but_not_with_the_matrix_is_caught() -> None:
    for name in ("baseline_harmful", "baseline_harmless", "ablated_harmful", "added_harmless"):
        path = at(f"results.tasks.privacy.refusal.{name}")
        scores = [1.0] * 12
        faults = disagreements(changed(path, lambda _, scores=scores: condition("RC" * 6, scores)))
        assert any("results.cross_domain" in fault and "privacy.refusal" in fault for fault in faults), name


def test_a_cosine_matrix_that_no_vectors_have_is_caught() -> None:
    impossible = [[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]]
    faults = disagreements(changed(at("results.geometry.cosine"), lambda _: impossible))
    assert any("not a matrix of cosines" in fault for fault in faults)


def test_a_wrong_adjustment_of_p_values_is_caught_even_if_symmetric() -> None:
    adjusted = copy.deepcopy(BASE["results"]["geometry"]["p_same_holm"])
    adjusted[0][1] = adjusted[1][0] = BASE["results"]["geometry"]["p_same"][0][1]  # not corrected at all
    faults = disagreements(changed(at("results.geometry.p_same_holm"), lambda _: adjusted))
    assert len(faults) == 1
    assert "Holm" in faults[0]
    missing = copy.deepcopy(BASE["results"]["geometry"]["p_same"])
    missing[0][1] = missing[1][0] = None
    faults = disagreements(changed(at("results.geometry.p_same"), lambda _: missing))
    assert faults == ["results.geometry.p_same_holm adjusts a p-value that is null"]


def test_domains_that_were_not_compared_do_not_count_in_the_adjustment() -> None:
    data = copy.deepcopy(BASE)
    geometry = data["results"]["geometry"]
    n, p = len(DOMAINS), geometry["p_same"]
    for i in range(n):
        geometry["p_same_holm"][i][2] = geometry["p_same_holm"][2][i] = None
    assert disagreements(Record.model_validate(data)) != []  # one test was made, so nothing is to be multiplied
    geometry["p_same_holm"][0][1] = geometry["p_same_holm"][1][0] = p[0][1]
    assert disagreements(Record.model_validate(data)) == []


@pytest.mark.parametrize(
    "name",
    [
        *("ceiling", "p_same", "p_same_holm", "cosine_disattenuated_ci95"),
        *("reliability", "pairs", "pairs_needed", "comparisons", "dendrogram"),
    ],
)
def test_a_wrong_shape_is_caught(name: str) -> None:
    for geometry in ("geometry", "geometry_own_site"):
        path = at(f"results.{geometry}.{name}")
        assert any(dotted(path) in fault for fault in disagreements(changed(path, lambda rows: [*rows, rows[0]])))


def test_a_record_of_before_these_fields_is_still_sound() -> None:
    assert disagreements(make_record_of_0_1()) == []


def test_a_better_candidate_than_the_chosen_one_is_caught() -> None:
    table = BASE["results"]["tasks"]["fraud"]["selection"]["table"]
    spare = next(i for i, row in enumerate(table) if row["rejected"] is None and row["induce"] is None)
    faults = disagreements(changed(at(f"results.tasks.fraud.selection.table.{spare}.bypass"), lambda _: -9.0))
    assert faults == ["results.tasks.fraud.selection.bypass is not the lowest of the eligible candidates"]


def test_the_centred_spectrum_may_leave_out_its_last_zero() -> None:
    data = copy.deepcopy(BASE)
    for name in ("explained_variance_ratio", "ci95", "null95", "one_direction95"):
        data["results"]["geometry"]["pca"]["centred"][name].pop()
    assert disagreements(Record.model_validate(data)) == []


def test_unscored_prompts_leave_rates_null() -> None:
    record = make_record(("fraud",))
    unscored = condition("?" * 12, [None] * 12)
    path = at("results.tasks.fraud.refusal.ablated_harmless")
    assert disagreements(changed(path, lambda _: unscored, record.model_dump())) == []
    claimed = unscored | {"rate": 0.0}
    assert disagreements(changed(path, lambda _: claimed, record.model_dump())) != []


@pytest.mark.parametrize("idle", DOMAINS)
def test_a_transfer_summary_leaves_out_rows_of_domains_without_a_drop_of_their_own(idle: str) -> None:
    names = (*DOMAINS, "self_harm")
    data = record_dict(names, seed=1)
    assert data["results"]["geometry"]["clusters"] == [["fraud", "weapons"], ["privacy", "self_harm"]]
    transfer = data["results"]["cross_domain"]["transfer"]
    for row in transfer:
        row[names.index(idle)] = None
    acting = [name for name in names if name != idle]
    together: list[float] = []
    apart: list[float] = []
    for one, other in permutations(acting, 2):
        pairs = together if {one, other} in ({"fraud", "weapons"}, {"privacy", "self_harm"}) else apart
        pairs.append(transfer[names.index(one)][names.index(other)])
    data["results"]["cross_domain"]["summary"] = {
        "within": mean(together),
        "within_ci95": None,
        "between": mean(apart),
        "between_ci95": None,
        "n_domains": 3,
        "rank_correlation": None,
        "mantel_p": None,
        "n_permutations": 0,
        "sentence": "Mean transfer.",
    }
    assert disagreements(Record.model_validate(data)) == []
    for field in ("within", "between"):
        path = at(f"results.cross_domain.summary.{field}")
        faults = disagreements(changed(path, lambda value: value + 0.01, data))
        assert [fault.split(" is ")[0] for fault in faults] == [dotted(path)]


def test_rounding_is_no_disagreement() -> None:
    for path, value in leaves(BASE["results"]["cross_domain"], ("results", "cross_domain")):
        if isinstance(value, float) and path[2] == "transfer":
            assert disagreements(changed(path, lambda v: v + 1e-9)) == []


FREE_LISTS = re.compile(
    r"warnings|model\.(post_instruction|refusal)_tokens|config\..*|results\.tasks\.\w+\.layers"
    r"|results\.geometry(_own_site)?\.(clusters|pca\.centred\.explained_variance_ratio)"
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([path for path in lists(BASE) if not FREE_LISTS.fullmatch(dotted(path))]))
def test_a_list_that_is_too_short_is_caught(path: Path) -> None:
    assert disagreements(changed(path, lambda value: value[:-1]))


def without(kind: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda value: {key: item for key, item in value.items() if key != kind}


NOTHING = {"k": 0, "n": 0, "value": None, "ci95": None}


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("by_type", without("homonyms"), "by_type and results.over_refusal.types name different types"),
        ("by_type", lambda of: of | {"invented": of["homonyms"]}, "name different types"),
        ("by_type.homonyms", without("ablated_harmless"), "by_type.homonyms and results.over_refusal.refusal name"),
        ("by_type.homonyms", lambda of: of | {"invented": NOTHING}, "name different conditions"),
        ("types", without("harmful"), "types is not by label"),
        ("types", lambda of: of | {"neither": []}, "types is not by label"),
        ("types.harmless", lambda of: of[:-1], "types.harmless has 14 values, not 15"),
        ("held_out_ids.harmless", lambda of: [of[1], *of[1:]], "names a prompt twice"),
        ("refusal.baseline_harmless.backend", lambda _: "vllm", "the text of different backends"),
        ("refusal.baseline_harmless.rate_bounds", lambda _: (0.0, 1.0), "refusal.baseline_harmless.rate_bounds is"),
        ("refusal.baseline_harmful.rate_corrected", lambda _: 0.5, "without the judge's calibration"),
        ("layer", lambda _: 10, "layer is 10, outside [0, 9]"),
        ("layer", lambda _: 4, "layer is 4, but results.geometry.site gives 5"),
    ],
)
def test_a_section_of_safe_prompts_that_contradicts_itself_is_caught(
    path: str, change: Callable[[Any], Any], said: str
) -> None:
    data = copy.deepcopy(BASE)
    for measured in data["results"]["over_refusal"]["refusal"].values():
        measured |= {"backend": "hf", "rate_bounds": None, "rate_corrected": None}
    assert disagreements(Record.model_validate(data)) == []
    faults = disagreements(changed(at(f"results.over_refusal.{path}"), change, data))
    assert any(said in fault for fault in faults), faults


def test_the_layer_of_a_single_domain_is_only_inside_the_model() -> None:
    data = record_dict(("fraud",))
    data["results"]["over_refusal"]["layer"] = 4
    assert disagreements(Record.model_validate(data)) == []
    data["results"]["over_refusal"]["layer"] = -1
    assert disagreements(Record.model_validate(data)) == ["results.over_refusal.layer is -1, outside [0, 9]"]


def test_results_for_other_tasks_than_announced_are_caught() -> None:
    assert disagreements(changed(("tasks",), lambda tasks: {name: tasks[name] for name in DOMAINS[:2]}))

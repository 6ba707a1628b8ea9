from __future__ import annotations

import base64
import hashlib
import math
import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record_factory import make_record, make_record_of_0_1, record_dict
from refusal_bench.cli.report import report
from refusal_bench.errors import InputError
from refusal_bench.record import Record
from refusal_bench.report import write_report
from refusal_bench.report.charts import HeatCell, heat
from refusal_bench.report.geometry import scaled
from refusal_bench.report.html import findings, render, tiles
from refusal_bench.report.shapes import label_spots
from refusal_bench.report.svg import Axis
from refusal_bench.words import number

DRAWN = {
    *("refusal", "selection", "cosine", "comparisons", "angles", "map", "cosine-own", "pca-uncentred", "pca-centred"),
    *("dendrogram", "ablation", "addition", "transfer", "subspace", "layers", "over-refusal"),
}
TABLES = {"directions", "noise"}
HOSTILE = "<script>alert(1)</script><a href='https://evil.example'>x</a>\" onload='"


class Page(HTMLParser):
    """What a browser would see: tags, scripts, visible text; by figure, the marks' titles and the table's cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text, self.policy, self.figure = "", "", ""
        self.marks: dict[str, list[str]] = {}
        self.cells: dict[str, list[tuple[str, str | None]]] = {}
        self.drawn: dict[str, list[tuple[str, dict[str, str | None]]]] = {}
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in ("meta", "br"):
            self.open.append((tag, found))
        if tag == "figure":
            self.figure = found["id"] or ""
            self.cells[self.figure] = []
        if self.figure and "svg" in (name for name, _ in self.open):
            self.drawn.setdefault(self.figure, []).append((tag, found))
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""

    def handle_data(self, data: str) -> None:
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag == "script":
            self.scripts.append(data)
        elif tag == "title" and self.figure:
            self.marks.setdefault(self.figure, []).append(data)
        elif tag != "style":
            self.text += data
            if tag in ("td", "th") and self.figure:
                self.cells[self.figure].append((data, attributes.get("data-values")))

    def handle_endtag(self, tag: str) -> None:
        name, _ = self.open.pop()
        assert name == tag, f"<{name}> closed by </{tag}>"
        if tag == "figure":
            self.figure = ""

    def words(self, figure: str) -> list[str]:
        return [text for text, _ in self.cells[figure]]


@pytest.fixture(scope="module")
def record() -> Record:
    return make_record(no_direction=("privacy",))


@pytest.fixture(scope="module")
def page(record: Record) -> Page:
    return Page(render(record))


def test_every_figure_is_drawn_with_a_caption_marks_and_a_table(page: Page) -> None:
    assert set(page.drawn) == DRAWN
    assert set(page.marks) == DRAWN
    assert set(page.cells) == DRAWN | TABLES
    assert all(page.cells.values())
    counts = [sum(tag == name for tag, _ in page.tags) for name in ("figcaption", "figure")]
    assert counts == [len(DRAWN | TABLES)] * 2


def test_every_drawing_has_words_for_those_who_do_not_see_it_and_can_be_focused(page: Page) -> None:
    drawings = [found for tag, found in page.tags if tag == "svg"]
    assert all(found["aria-label"] and found["tabindex"] == "0" for found in drawings)
    buttons = [found["data-does"] for tag, found in page.tags if tag == "button"]
    assert buttons.count("svg") == buttons.count("png") == len(drawings)
    assert buttons.count("csv") == sum(tag == "table" for tag, _ in page.tags)


def test_heat_maps_say_the_records_numbers_and_are_coloured_by_them(page: Page, record: Record) -> None:
    cross, geometry = record.results.cross_domain, record.results.geometry
    assert cross is not None
    assert geometry is not None
    for key, matrix in (("cosine", geometry.cosine), ("transfer", cross.transfer)):
        filled = [found for _, found in page.drawn[key] if "fill-opacity" in found]
        wanted = [0.05 + 0.95 * (0.0 if v is None else min(1, abs(v))) for row in matrix for v in row]
        assert [float(str(found["fill-opacity"])) for found in filled] == pytest.approx(wanted, abs=6e-4)
    rows = [cross.baseline.refusal_rate[0], *cross.ablation.refusal_rate]
    rows += [cross.controls.random.ablation.refusal_rate, cross.controls.shared.ablation.refusal_rate]
    said = [re.search(r"asked: (\d+) %", mark) for mark in page.marks["ablation"]]
    assert [int(found[1]) for found in said if found] == [round(100 * v) for row in rows for v in row if v is not None]


def test_a_pair_of_the_heat_map_says_interval_ceiling_and_significance(page: Page, record: Record) -> None:
    geometry = record.results.geometry
    assert geometry is not None
    low, high = geometry.cosine_ci95[0][2]  # type: ignore[misc]
    mark = page.marks["cosine"][2]
    assert mark.startswith(
        f"fraud and weapons: cosine {geometry.cosine[0][2]:.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")
    )
    assert "ceiling 0.95" in mark
    assert "p of one direction 0.064 (Holm)" in mark  # 0.032 times 2


def test_domains_without_a_direction_are_marked_in_every_matrix(page: Page) -> None:
    for key in ("cosine", "cosine-own", "ablation", "addition", "transfer"):
        dashed = [found for _, found in page.drawn[key] if "unsound" in str(found.get("class"))]
        rows = 3 + (3 if key in ("ablation", "addition") else 0)
        assert len(dashed) == rows + 3 - 1, key
        assert "privacy †" in page.words(key)[:3]
    assert "privacy: no direction passed every filter" in page.text
    assert "†" not in Page(render(make_record())).text.replace("dashed frame and †", "")


def test_intervals_are_drawn_from_end_to_end(page: Page, record: Record) -> None:
    interval = record.results.tasks["fraud"].refusal.baseline_harmful.ci95
    assert interval is not None
    whisker = next(found for _, found in page.drawn["refusal"] if found.get("class") == "whisker")
    grid = [float(str(found["x1"])) for _, found in page.drawn["refusal"] if found.get("class") == "grid"]
    zero, one = min(grid), max(grid)
    drawn = [(float(str(whisker[end])) - zero) / (one - zero) for end in ("x1", "x2")]
    assert drawn == pytest.approx(interval, abs=2e-3)


def test_tables_hold_the_numbers_in_full(page: Page, record: Record) -> None:
    condition = record.results.tasks["fraud"].refusal.ablated_harmful
    assert condition.rate is not None
    assert condition.ci95 is not None
    low, high = condition.ci95
    text = f"{100 * condition.rate:.0f} % [{100 * low:.0f}–{100 * high:.0f}]"
    values = next(values for cell, values in page.cells["refusal"] if cell == text)
    assert values is not None
    assert [float(value) for value in values.split()] == pytest.approx([condition.rate, low, high], rel=1e-5)


def test_every_pair_is_listed_with_its_verdict(page: Page) -> None:
    cells = page.words("comparisons")
    assert cells.count("different directions") == 1  # of p 0.002, 0.032 and 0.062, times 3, 2 and 1
    assert cells.count("not told apart") == 2


def test_the_map_keeps_the_distances_of_points_in_a_plane() -> None:
    # Three unit vectors around the mean direction differ in a plane only: the map must lose nothing.
    vectors = np.array([[math.cos(a), math.sin(a), 2.0] for a in (0.1, 1.9, 4.0)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    points, shares = scaled(vectors @ vectors.T)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(points[i] - points[j]) == pytest.approx(np.linalg.norm(vectors[i] - vectors[j]))
    assert sum(shares) == pytest.approx(1)
    eigenvalues = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False) ** 2
    assert shares[0] == pytest.approx(eigenvalues[0] / eigenvalues.sum())


def test_the_fan_shows_angles_from_the_mean(page: Page, record: Record) -> None:
    cosine = np.array(record.results.geometry.cosine)  # type: ignore[union-attr]
    vectors = np.linalg.cholesky(cosine)  # unit vectors with these cosines
    mean = vectors.mean(axis=0)
    angle = math.degrees(math.acos(vectors[0] @ mean / np.linalg.norm(mean)))
    assert f"fraud: {angle:.1f}° from the mean direction" in page.marks["angles"]


def test_the_dendrogram_says_support(page: Page, record: Record) -> None:
    merges = record.results.geometry.dendrogram  # type: ignore[union-attr]
    assert merges
    assert len(page.marks["dendrogram"]) == len(merges)
    assert page.marks["dendrogram"][0].endswith("support 90 %")


def test_the_chosen_candidate_is_marked_once_a_domain(page: Page, record: Record) -> None:
    chosen = [mark for mark in page.marks["selection"] if mark.startswith("chosen: layer 5, position −1: ")]
    assert len(chosen) == len(record.results.tasks)
    assert len(page.marks["selection"]) == sum(len(t.selection.table) for t in record.results.tasks.values())


def test_an_axis_puts_its_ends_at_its_ends() -> None:
    axis = Axis(0.001, 10, 50, 450, log=True)
    assert [axis(0.001), axis(0.1), axis(10), axis(99), axis(0)] == pytest.approx([50, 250, 450, 450, 50])


def test_labels_of_near_points_do_not_cover_each_other() -> None:
    names = ["weapons", "fraud", "cybercrime", "privacy", "self_harm"]
    points = [(200.0, 150.0), (222.0, 147.0), (216.0, 158.0), (455.0, 150.0), (30.0, 152.0)]
    boxes = [
        (left, left + 7.2 * len(name), base - 10, base + 2)
        for name, (left, base) in zip(names, label_spots(names, points), strict=True)
    ]
    assert all(left >= 0 and right <= 480 for left, right, _, _ in boxes)
    for (l1, r1, t1, b1), (l2, r2, t2, b2) in combinations(boxes, 2):
        assert r1 <= l2 or r2 <= l1 or b1 <= t2 or b2 <= t1


def test_long_intervals_widen_the_cells_of_a_narrow_map_and_leave_those_of_a_wide_one() -> None:
    def drawn(n: int) -> str:
        cells = [[HeatCell(-7.4, ("−7.4", "−18.4 to −16.0"), "") for _ in range(n)]]
        return str(heat("", ["specific.cybercrime"], [f"domain_{i}" for i in range(n)], cells))

    (wide,) = {float(width) for width in re.findall(r'<rect x="[\d.]+" y="[\d.]+" width="([\d.]+)"', drawn(5))}
    assert wide > 14 * 5.5  # 14 characters of 10 px
    assert drawn(5).count("−18.4 to −16.0") == 5
    assert "−18.4 to −16.0" not in drawn(9)


def test_what_other_backends_gave_is_shown(record: Record) -> None:
    data = record.model_dump()
    task = data["results"]["tasks"]["fraud"]["refusal"]
    data["results"]["served"] = {
        "model": "served/model",
        "prompt_tokens": 1234,
        "completion_tokens": 567,
        "requests": 99,
        "tasks": {"fraud": {"harmful": task["baseline_harmful"], "harmless": task["baseline_harmless"]}},
    }
    data["results"]["parity"] = {
        "backend": "vllm",
        "passed": False,
        "reason": "added: log-probabilities differ by 2 nats",
        "n_prompts": 8,
        "tolerance": 0.01,
        "max_abs_diff": {"baseline": 0.002, "ablated": 0.003, "added": None},
    }
    page = Page(render(Record.model_validate(data)))
    assert page.words("parity")[2:] == [
        *("nothing done", "0.0020", "subspace ablated", "0.0030", "vector added", "infinite"),
    ]
    assert "Not passed, so the hook backend wrote all text: added: log-probabilities differ by 2 nats." in page.text
    harmful = record.results.tasks["fraud"].refusal.baseline_harmful
    assert page.words("served")[5] == "fraud"
    assert page.cells["served"][6][1] is not None
    assert float(str(page.cells["served"][6][1]).split()[0]) == pytest.approx(harmful.rate, abs=1e-5)
    assert "1,234 prompt tokens" in page.text


def test_a_direction_that_does_nothing_at_home_is_in_no_mean_of_transfers() -> None:
    data = record_dict()
    data["results"]["cross_domain"]["transfer"] = [[1.0, 0.8, None], [0.6, 1.0, None], [0.1, 0.1, None]]
    record = Record.model_validate(data)
    (tile,) = [tile for tile in tiles(record) if tile.name == "Transfer"]
    assert tile.value == "0.70"
    assert "another domain's direction does 70 % of what its own does" in " ".join(findings(record))


def test_zero_has_no_sign() -> None:
    assert [number(value) for value in (-0.001, -0.005001, 0.0)] == ["0.00", "−0.01", "0.00"]


def test_a_record_of_before_these_fields_is_still_shown() -> None:
    page = Page(render(make_record_of_0_1()))
    assert set(page.drawn) == DRAWN - {"comparisons", "dendrogram"}
    assert "None" not in page.text


def test_the_verdict_comes_first(page: Page, record: Record) -> None:
    assert record.results.geometry is not None
    order = [page.text.index(text) for text in (record.results.geometry.verdict, "Mean cosine", "Cosine at the common")]
    assert order == sorted(order)
    assert "No direction passed every filter for privacy" in page.text


def test_the_page_makes_no_request(page: Page) -> None:
    loading = {"src", "srcset", "data", "action", "poster", "background", "xlink:href"}
    assert not [(tag, found) for tag, found in page.tags if loading & set(found)]
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "img", "object", "embed", "base", "form")]
    ids = {found["id"] for _, found in page.tags if "id" in found}
    links = [str(found["href"]) for _, found in page.tags if "href" in found]
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert page.policy.startswith("default-src 'none'")


def test_only_the_reports_own_script_may_run(page: Page) -> None:
    (code,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in page.policy


def test_hostile_names_stay_text() -> None:
    data = record_dict(("fraud", HOSTILE, "y"), model_id=HOSTILE, no_direction=(HOSTILE,))
    data["warnings"] = [HOSTILE]
    data["model"]["post_instruction_tokens"] = [HOSTILE] * 3
    data["model"]["refusal_tokens"] = [HOSTILE]
    data["results"]["geometry"]["verdict"] = HOSTILE
    hostile = Page(render(Record.model_validate(data)))
    harmless = Page(render(make_record(("fraud", "x", "y"), no_direction=("x",))))
    for name in ("script", "a", "svg", "figure", "button", "table"):
        assert [tag for tag, _ in hostile.tags].count(name) == [tag for tag, _ in harmless.tags].count(name), name
    assert not [found for _, found in hostile.tags if {"onload", "onerror"} & set(found)]
    assert HOSTILE in hostile.text
    assert any(HOSTILE in mark for mark in hostile.marks["cosine"])


def test_missing_parts_say_why_and_draw_nothing() -> None:
    page = Page(render(make_record(("fraud",), sections=())))
    assert set(page.cells) == {"refusal", "directions", "selection"}
    assert "it needs at least two domains" in page.text
    assert page.text.count("this run did not include the section") == 3


def test_nulls_are_dashes_and_not_numbers() -> None:
    data = record_dict()
    data["results"]["geometry"]["pca"]["centred"] = dict.fromkeys(data["results"]["geometry"]["pca"]["centred"])
    data["results"]["cross_domain"]["transfer"] = [[None] * 3 for _ in range(3)]
    for condition in data["results"]["tasks"]["fraud"]["refusal"].values():
        condition.update(rate=None, ci95=None)
    page = Page(render(Record.model_validate(data)))
    assert "pca-centred" not in page.cells
    assert page.cells["transfer"][5:8] == [("–", "")] * 3 or page.words("transfer").count("–") == 9
    assert not [mark for mark in page.marks["refusal"] if mark.startswith("fraud")]
    assert "None" not in page.text
    assert "nan" not in "".join(str(found) for _, found in page.tags)


def test_many_domains_are_drawn_wide_and_small() -> None:
    names = tuple(f"domain_{i:02d}" for i in range(24))
    html = render(make_record(names))
    assert len(html.encode()) < 2_000_000
    assert html.count(" with itself") == 2 * 24  # at the common site and at their own


def test_the_command_renders_a_run_again(tmp_path: Path, record: Record) -> None:
    (tmp_path / "record.json").write_text(record.to_json(), encoding="utf-8")
    report(tmp_path)
    report(tmp_path, tmp_path / "elsewhere" / "r.html")
    write_report(record, tmp_path / "direct.html")
    direct = (tmp_path / "direct.html").read_bytes()
    assert (tmp_path / "report.html").read_bytes() == direct
    assert (tmp_path / "elsewhere" / "r.html").read_bytes() == direct
    assert str(tmp_path).encode() not in direct


def test_a_folder_without_a_record_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"record\.json"):
        report(tmp_path)


def test_the_finer_causal_tests_are_drawn_where_the_record_has_them(planted_run: Any) -> None:
    record: Record = planted_run("study")[0]
    cross, depth = record.results.cross_domain, record.results.depth
    assert cross is not None
    assert cross.effects is not None
    assert depth is not None
    page = Page(render(record))
    wanted = {"dependence", "parts", "dose", "orderings", "depth"}
    wanted |= {f"effects-{kind}" for kind in ("ablated_harmful", "ablated_harmless", "added_harmless")}
    assert wanted <= set(page.cells)
    rows = cross.effects.ablated_harmful
    assert len(page.marks["effects-ablated_harmful"]) == len(rows.rows) * len(cross.domains)
    cells = [values for _, values in page.cells["effects-ablated_harmful"] if values]
    changes = [value for row in rows.change for value in row]
    assert [float(values.split(" ")[0] or "nan") for values in cells] == pytest.approx(
        [math.nan if value is None else value for value in changes], rel=1e-5, nan_ok=True
    )
    assert depth.sentence in page.text

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from record_factory import make_record, make_record_of_0_1, record_dict
from refusal_bench.cli.report import report
from refusal_bench.errors import InputError
from refusal_bench.record import Record
from refusal_bench.report import write_report
from refusal_bench.report.html import render

FULL = {
    *("refusal", "cosine", "comparisons", "cosine-own", "pca-uncentred", "pca-centred"),
    *("ablation", "addition", "transfer", "subspace", "layers"),
}
HOSTILE = "<script>alert(1)</script><a href='https://evil.example'>x</a>\" onload='"


class Page(HTMLParser):
    """What a browser would see: tags with attributes, scripts, visible text, tables by figure."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.policy = ""
        self.figures: dict[str, Any] = {}
        self.cells: dict[str, list[str]] = {}
        self.figure = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "figure":
            self.figure = found["id"] or ""
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1]
        if tag == "script" and not data.isspace():
            self.scripts.append((attributes, data))
            if attributes.get("type") == "application/json":
                self.figures[self.figure] = json.loads(data)
        elif tag != "style":
            self.text += data
            if tag in ("td", "th") and data.strip():
                self.cells.setdefault(self.figure, []).append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style", "td", "th"):
            self.tags.append((f"/{tag}", {}))
        if tag == "figure":
            self.figure = ""


@pytest.fixture(scope="module")
def record() -> Record:
    return make_record(no_direction=("privacy",))


@pytest.fixture(scope="module")
def page(record: Record) -> Page:
    return Page(render(record))


def test_every_figure_is_there_with_caption_and_table(page: Page) -> None:
    assert set(page.figures) == FULL
    counts = [sum(tag == name for tag, _ in page.tags) for name in ("figcaption", "details", "figure")]
    assert counts == [len(FULL)] * 3
    assert set(page.cells) >= FULL


def test_plots_are_valid_plotly(page: Page) -> None:
    for plot in page.figures.values():
        go.Figure(plot)


def test_heat_maps_hold_the_records_numbers_on_fixed_scales(page: Page, record: Record) -> None:
    cross, geometry = record.results.cross_domain, record.results.geometry
    assert cross is not None
    assert geometry is not None
    heat = {name: page.figures[name]["data"][0] for name in ("cosine", "ablation", "addition", "transfer")}
    assert heat["cosine"]["z"] == geometry.cosine
    assert heat["transfer"]["z"] == cross.transfer
    controls = (cross.controls.random.ablation.refusal_rate, cross.controls.shared.ablation.refusal_rate)
    assert heat["ablation"]["z"] == [cross.baseline.refusal_rate[0], *cross.ablation.refusal_rate, *controls]
    controls = (cross.controls.random.addition.refusal_rate, cross.controls.shared.addition.refusal_rate)
    assert heat["addition"]["z"] == [cross.baseline.refusal_rate[1], *cross.addition.refusal_rate, *controls]
    assert {name: (trace["zmin"], trace["zmax"]) for name, trace in heat.items()} == {
        "cosine": (-1, 1),
        "ablation": (0, 1),
        "addition": (0, 1),
        "transfer": (0, 1),
    }


def test_error_bars_end_where_the_intervals_end(page: Page, record: Record) -> None:
    bars = page.figures["refusal"]["data"][0]
    for i, task in enumerate(record.results.tasks.values()):
        interval = task.refusal.baseline_harmful.ci95
        assert interval is not None
        assert bars["y"][i] + bars["error_y"]["array"][i] == pytest.approx(interval[1])
        assert bars["y"][i] - bars["error_y"]["arrayminus"][i] == pytest.approx(interval[0])


def test_tables_repeat_the_figures(page: Page, record: Record) -> None:
    assert record.results.geometry is not None
    assert f"{record.results.geometry.cosine[0][1]:.2f} [" in " ".join(page.cells["cosine"])
    rate = record.results.tasks["fraud"].refusal.ablated_harmful.rate
    assert f"{100 * rate:.0f} % [" in " ".join(page.cells["refusal"])  # type: ignore[operator]


def test_every_pair_is_shown_with_its_interval_its_ceiling_and_words(page: Page, record: Record) -> None:
    geometry = record.results.geometry
    assert geometry is not None
    assert geometry.cosine_disattenuated_ci95 is not None
    corrected, measured, ceiling = page.figures["comparisons"]["data"]
    assert corrected["y"] == ["fraud and privacy", "fraud and weapons", "privacy and weapons"]
    low, high = geometry.cosine_disattenuated_ci95[0][2]  # type: ignore[misc]
    assert corrected["x"][1] == geometry.cosine_disattenuated[0][2]
    assert corrected["x"][1] - corrected["error_x"]["arrayminus"][1] == pytest.approx(low)
    assert corrected["x"][1] + corrected["error_x"]["array"][1] == pytest.approx(high)
    assert measured["x"] == [geometry.cosine[i][j] for i, j in ((0, 1), (0, 2), (1, 2))]
    assert ceiling["x"] == [0.95] * 3
    cells = page.cells["comparisons"]
    assert cells.count("different directions") == 1  # of p 0.002, 0.032 and 0.062, times 3, 2 and 1
    assert cells.count("not told apart") == 2


def test_a_pair_that_was_not_compared_is_shown_as_such() -> None:
    data = record_dict()
    geometry = data["results"]["geometry"]
    for name in ("cosine_disattenuated", "cosine_disattenuated_ci95", "p_same_holm"):
        geometry[name][0][1] = geometry[name][1][0] = None
    geometry["comparisons"][0] = "fraud and privacy: too few prompts of fraud (reliability 0.31, needs 0.5)"
    page = Page(render(Record.model_validate(data)))
    row = page.cells["comparisons"][6:12]
    assert [row[0], row[1], row[4]] == ["fraud and privacy", "–", "–"]
    assert row[5] == "too few prompts of fraud (reliability 0.31, needs 0.5)"
    go.Figure(page.figures["comparisons"])


def test_the_spectrum_shows_the_band_of_one_direction(page: Page) -> None:
    bands = [trace for trace in page.figures["pca-uncentred"]["data"] if "one direction" in trace["name"]]
    assert bands[0]["y"][0] == pytest.approx(0.85)
    assert any(cell.startswith("80") and "90" in cell for cell in page.cells["pca-uncentred"])


def test_a_record_of_before_these_fields_is_still_shown() -> None:
    page = Page(render(make_record_of_0_1()))
    assert set(page.figures) == FULL - {"comparisons"}
    assert "None" not in page.text


def test_the_verdict_comes_first(page: Page, record: Record) -> None:
    assert record.results.geometry is not None
    order = [page.text.index(text) for text in (record.results.geometry.verdict, "Mean cosine", "Cosine at the common")]
    assert order == sorted(order)
    assert "No direction passed every filter for privacy" in page.text


def test_the_page_makes_no_request(page: Page) -> None:
    loading = {"src", "href", "srcset", "data", "action", "poster", "background"}
    assert not [(tag, found) for tag, found in page.tags if loading & set(found)]
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "img", "object", "embed", "base", "form")]
    assert page.policy.startswith("default-src 'none'")


def test_only_the_reports_own_scripts_may_run(page: Page) -> None:
    code = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    assert len(code) == 2
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in code}
    allowed = re.search(r"script-src ([^;]*);", page.policy)
    assert allowed is not None
    assert set(allowed[1].split()) == hashes


def test_plotly_is_there_once(record: Record) -> None:
    assert render(record).count("* plotly.js v") == 1


def test_hostile_names_stay_text() -> None:
    data = record_dict(("fraud", HOSTILE), model_id=HOSTILE, no_direction=(HOSTILE,))
    data["warnings"] = [HOSTILE]
    data["model"]["post_instruction_tokens"] = [HOSTILE] * 3
    data["model"]["refusal_tokens"] = [HOSTILE]
    data["results"]["geometry"]["verdict"] = HOSTILE
    hostile, harmless = Page(render(Record.model_validate(data))), Page(render(make_record(("fraud", "x"))))
    scripts = [[tag for tag, _ in page.tags].count("script") for page in (hostile, harmless)]
    assert scripts[0] == scripts[1]
    assert not [tag for tag, _ in hostile.tags if tag == "a"]
    assert not [found for _, found in hostile.tags if "onload" in found]
    assert HOSTILE in hostile.text
    assert "<" not in json.dumps([plot["layout"] for plot in hostile.figures.values()])
    names = [trace.get("hovertext") or trace["x"] for trace in hostile.figures["cosine"]["data"]]
    assert "<" not in json.dumps(names)
    assert "<" not in json.dumps([trace["x"] for trace in hostile.figures["refusal"]["data"]])
    assert "<" not in json.dumps([trace["name"] for trace in hostile.figures["layers"]["data"]])


def test_missing_parts_say_why_and_draw_nothing() -> None:
    page = Page(render(make_record(("fraud",), sections=())))
    assert set(page.figures) == {"refusal"}
    assert "it needs at least two domains" in page.text
    assert page.text.count("this run did not include the section") == 3


def test_nulls_are_dashes_and_not_numbers() -> None:
    data = record_dict()
    data["results"]["geometry"]["pca"]["centred"] = dict.fromkeys(data["results"]["geometry"]["pca"]["centred"])
    data["results"]["cross_domain"]["transfer"] = [[None] * 3 for _ in range(3)]
    for condition in data["results"]["tasks"]["fraud"]["refusal"].values():
        condition.update(rate=None, ci95=None)
    page = Page(render(Record.model_validate(data)))
    assert "pca-centred" not in page.figures
    assert page.cells["transfer"][4:] == ["fraud", "–", "–", "–", "privacy", "–", "–", "–", "weapons", "–", "–", "–"]
    assert page.figures["refusal"]["data"][0]["y"][0] is None
    assert "None" not in page.text
    assert "nan" not in json.dumps(page.figures)


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

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from record_factory import DOMAINS, by_type, condition, make_record, make_record_of_0_1, record_dict
from refusal_bench.errors import InputError, RefusalBenchError
from refusal_bench.files import write_atomic
from refusal_bench.leaderboard.rows import COLUMNS, DTYPES, rows_of
from refusal_bench.leaderboard.site import build_site
from refusal_bench.leaderboard.site.curves import ticks
from refusal_bench.leaderboard.site.pages import as_json
from refusal_bench.leaderboard.site.serve import site_server
from refusal_bench.leaderboard.store import record_path
from refusal_bench.record import Record

FIVE = ("cybercrime", "fraud", "privacy", "self_harm", "weapons")
HOSTILE = '"><script>alert(1)</script>{{ 7 * 7 }}<img src=x onerror=alert(2)>'


def store(leaderboard: Path, *records: Record) -> Path:
    for record in records:
        write_atomic(record_path(leaderboard, record), record.to_json())
    return leaderboard


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Parsed(HTMLParser):
    """What a browser would make of a page: elements, their attributes, and text outside scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def site(tmp_path: Path) -> Path:
    records = (
        make_record(model_id="org/a"),
        make_record(model_id="org/b", seed=1, no_direction=("fraud",)),
        make_record(model_id="org/quick", quick=True),
        make_record(model_id="planted"),
    )
    build_site(store(tmp_path / "lb", *records), tmp_path / "site")
    return tmp_path / "site"


def test_every_run_has_a_page_its_numbers_and_its_record(site: Path) -> None:
    runs = [f"{slug}/20260102-030405-abcdef" for slug in ("org--a", "org--b", "org--quick", "planted")]
    assert set(contents(site)) == {
        *("index.html", "compare.html", "site.css", "site.js", ".refusal-bench-site"),
        *("leaderboard.csv", "leaderboard.jsonl", "leaderboard.parquet"),
        *(
            f"{kind}/{run}{end}"
            for run in runs
            for kind, end in [("runs", ".html"), ("data", ".js"), ("records", ".json")]
        ),
    }
    assert (site / "records" / f"{runs[0]}.json").read_text() == make_record(model_id="org/a").to_json()


def test_each_group_is_a_table_of_its_own_and_calibration_is_last(site: Path) -> None:
    page = (site / "index.html").read_text()
    sections = re.findall(r'<section class="group".*?</section>', page, re.S)
    found = [(re.findall("<h2>(.*?)</h2>", s)[0], re.findall(r'<tr data-name="(.*?)"', s)) for s in sections]
    assert [heading for heading, _ in found] == [
        "Full runs: 3 domains",
        "Quick runs: 3 domains",
        "Calibration, planted worlds: 3 domains",
    ]
    assert [sorted(names) for _, names in found] == [["org/a", "org/b"], ["org/quick"], ["planted"]]


def test_safe_prompts_have_a_column_of_their_own(tmp_path: Path) -> None:
    data = record_dict(model_id="org/measured")
    refusal = data["results"]["over_refusal"]["refusal"]
    for name, labels in (("baseline_harmless", "R" * 3 + "C" * 9 + "?" * 3), ("baseline_harmful", "R" * 9 + "C")):
        refusal[name] = condition(labels, [float(i % 2) for i in range(len(labels))])
    data["results"]["over_refusal"]["by_type"] = by_type(refusal, data["results"]["over_refusal"]["types"])
    without = make_record(model_id="org/older", sections=())
    build_site(store(tmp_path / "lb", Record.model_validate(data), without), tmp_path / "site")
    page = (tmp_path / "site" / "index.html").read_text()
    place = re.findall(r'<button type="button">(.*?)</button>', page).index("Over-refusal, safe prompts")
    rows = dict(re.findall(r'<tr data-name="(.*?)".*?>(.*?)</tr>', page, re.S))
    cells = {name: re.findall(r"<t[dh].*?</t[dh]>", row, re.S)[1:][place] for name, row in rows.items()}
    assert Parsed(cells["org/measured"]).text == "25 % [9–53]unsafe 90 % [60–98]n = 12 + 10, v0.1"
    assert 'data-value="0.25"' in cells["org/measured"]
    assert (Parsed(cells["org/older"]).text, 'data-value=""' in cells["org/older"]) == ("–", True)
    run = Parsed(next((tmp_path / "site" / "runs" / "org--measured").iterdir()).read_text()).text
    assert "25 % [9–53], n = 12" in run
    assert "90 % [60–98], n = 10" in run
    script = next((tmp_path / "site" / "data" / "org--older").iterdir()).read_text()
    assert '"overRefusal":null' in script


def test_every_link_leads_to_a_file(site: Path) -> None:
    for page in site.rglob("*.html"):
        for _, attributes in Parsed(page.read_text()).elements:
            for name in ("href", "src"):
                target = (attributes.get(name) or "").partition("#")[0]
                if target and not target.startswith("data:"):
                    assert (page.parent / target).is_file(), f"{page.name}: {target}"


def test_nothing_is_asked_of_another_host(site: Path) -> None:
    for name, content in contents(site).items():
        if name.endswith((".html", ".css", ".js")):
            addresses = set(re.findall(rb"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", content))
            assert addresses <= {b"http://www.w3.org/2000/svg"}, name
    assert b"fetch(" not in (site / "site.js").read_bytes()
    assert b"innerHTML" not in (site / "site.js").read_bytes()


def test_a_run_s_page_holds_matrices_curves_and_warnings(site: Path) -> None:
    record = make_record(model_id="org/a")
    page = (site / "runs" / "org--a" / f"{record.run_id}.html").read_text()
    parsed = Parsed(page)
    assert sum(tag == "svg" for tag, _ in parsed.elements) == 3
    assert sum(tag == "polyline" for tag, _ in parsed.elements) == 3 * len(DOMAINS)
    assert record.results.geometry is not None
    assert record.results.cross_domain is not None
    for matrix in (record.results.geometry.cosine, record.results.cross_domain.transfer):
        for row in matrix:
            for value in row:
                assert value is None or f">{value:.2f}".replace("-", "−") in page
    for warning in record.warnings:
        assert warning in parsed.text
    assert record.model.weights_sha256 in parsed.text


def test_hostile_names_and_warnings_stay_text(tmp_path: Path) -> None:
    data = record_dict(model_id=HOSTILE)
    data["warnings"] = [HOSTILE]
    data["model"] |= {"revision": HOSTILE, "quantization": HOSTILE, "post_instruction_tokens": [HOSTILE]}
    data["config"] |= {"judge": HOSTILE, "system_prompt": HOSTILE}
    data["results"]["geometry"]["verdict"] = HOSTILE
    data["results"]["over_refusal"]["version"] = HOSTILE
    data["results"]["geometry"]["topic_control"]["flags"] = {"topic_confound": HOSTILE}
    for task in data["results"]["tasks"].values():  # the template now has one token
        task["direction"]["position"] = -1
        task["selection"]["table"] = [row for row in task["selection"]["table"] if row["position"] == -1]
        kept = [row["rejected"] for row in task["selection"]["table"]]
        rejected = {"depth": 2, **{r: kept.count(r) for r in ("kl", "induce")}}
        task["selection"] |= {"n_candidates": 10, "rejected": rejected, "n_eligible": kept.count(None)}
    build_site(store(tmp_path / "lb", Record.model_validate(data)), tmp_path / "site")
    for page in (tmp_path / "site").rglob("*.html"):
        parsed = Parsed(page.read_text())
        own = [
            attributes.get("src") or attributes.get("type") for tag, attributes in parsed.elements if tag == "script"
        ]
        assert set(own) <= {"site.js", "../../site.js", "application/json"}
        assert not any(tag == "img" for tag, _ in parsed.elements)
        assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
        assert HOSTILE in parsed.text or page.name == "compare.html"
    (script,) = (tmp_path / "site").rglob("data/*/*.js")
    assert "<" not in script.read_text()
    call = re.fullmatch(r"refusalBench\.receive\((\".*?\"), (.*)\);\n", script.read_text())
    assert call is not None
    assert json.loads(call[2])["facts"]["run"] == "20260102-030405-abcdef"


def test_json_in_a_script_cannot_end_it() -> None:
    value = {"a": "</script><!--&'\u2028"}
    text = str(as_json(value))
    assert not set("<>&'\u2028") & set(text)
    assert json.loads(text) == value


def test_a_second_build_gives_the_same_bytes_and_forgets_removed_runs(tmp_path: Path) -> None:
    leaderboard = store(tmp_path / "lb", *(make_record(model_id=f"org/{i}", seed=i) for i in range(3)))
    build_site(leaderboard, tmp_path / "a")
    build_site(leaderboard, tmp_path / "b")
    first = contents(tmp_path / "a")
    assert contents(tmp_path / "b") == first
    store(leaderboard, make_record(model_id="org/more"))
    build_site(leaderboard, tmp_path / "b")
    assert len(contents(tmp_path / "b")) == len(first) + 3
    record_path(leaderboard, make_record(model_id="org/more")).unlink()
    build_site(leaderboard, tmp_path / "b")
    assert contents(tmp_path / "b") == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "lb"]


def test_a_record_that_does_not_hold_up_stops_the_build(tmp_path: Path) -> None:
    data = record_dict()
    data["results"]["tasks"]["fraud"]["refusal"]["baseline_harmful"]["rate"] = 0.999
    leaderboard = store(tmp_path / "lb", Record.model_validate(data))
    with pytest.raises(RefusalBenchError, match=re.escape("baseline_harmful.rate is 0.999")) as raised:
        build_site(leaderboard, tmp_path / "site")
    assert raised.value.exit_code == 1
    assert not (tmp_path / "site").exists()


def test_a_folder_with_other_things_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="something other than a site"):
        build_site(store(tmp_path / "lb", make_record()), tmp_path / "site")
    assert (tmp_path / "site" / "thesis.tex").read_text() == "x"


def test_a_folder_that_cannot_be_written_to_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written to"):
        build_site(store(tmp_path / "lb", make_record()), tmp_path / "file" / "site")


def test_the_site_of_the_working_folder_can_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaderboard = store(tmp_path / "lb", make_record())
    (tmp_path / "site").mkdir()
    monkeypatch.chdir(tmp_path / "site")
    build_site(leaderboard, Path())
    assert (tmp_path / "site" / "index.html").is_file()


def test_a_run_s_page_leads_to_the_other_runs_of_its_model(tmp_path: Path) -> None:
    records = (make_record(run_id="one"), make_record(run_id="two", quick=True), make_record(model_id="org/x"))
    build_site(store(tmp_path / "lb", *records), tmp_path / "site")
    page = Parsed((tmp_path / "site" / "runs" / "example-org--example-1b-chat" / "one.html").read_text())
    runs = [attributes["href"] for tag, attributes in page.elements if tag == "a" and "runs/" in attributes["href"]]
    assert runs == ["../../runs/example-org--example-1b-chat/two.html"]


def test_an_empty_leaderboard_is_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "lb").mkdir()
    build_site(tmp_path / "lb", tmp_path / "site")
    assert "No run yet" in (tmp_path / "site" / "index.html").read_text()


@pytest.mark.parametrize(
    "record", [make_record_of_0_1(), make_record(("fraud",), sections=())], ids=["version 0.1", "one domain"]
)
def test_records_with_gaps_are_shown(record: Record, tmp_path: Path) -> None:
    build_site(store(tmp_path / "lb", record), tmp_path / "site")
    (page,) = (tmp_path / "site").rglob("runs/*/*.html")
    assert record.model.id in page.read_text()


def test_csv_and_parquet_hold_the_same_rows(site: Path) -> None:
    table = pd.read_parquet(site / "leaderboard.parquet")
    assert list(table) == list(COLUMNS)
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == DTYPES
    again = pd.read_csv(site / "leaderboard.csv", dtype=DTYPES)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(again, table, check_exact=True)
    row = rows_of(make_record(model_id="org/a"))[0]
    first = table.iloc[0]
    assert {name: None if pd.isna(first[name]) else first[name] for name in COLUMNS} == row


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-5, -1, [-5, -4, -3, -2, -1]), (0, 31, [0, 10, 20, 30]), (0.02, 0.03, None)],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float] | None) -> None:
    found = ticks(low, high)
    assert found == (expected or found)
    assert all(low <= tick <= high for tick in found)
    assert 2 <= len(found) <= 7


def test_the_server_hands_out_the_site_to_this_computer(site: Path) -> None:
    with site_server(site, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/", timeout=30) as answer:
            assert answer.read() == (site / "index.html").read_bytes()
        with pytest.raises(InputError, match="cannot be used"):
            site_server(site, server.server_port)
        server.shutdown()


@pytest.mark.slow  # 500 records are made, checked and rendered
def test_five_hundred_runs_are_built_in_time(tmp_path: Path) -> None:
    records = [
        make_record(FIVE, n=16, seed=i, model_id=f"org/model-{i:03d}", quick=i % 9 == 0, run_id=f"run-{i:03d}")
        for i in range(500)
    ]
    store(tmp_path / "lb", *records)
    start, cpu = time.perf_counter(), time.process_time()
    build_site(tmp_path / "lb", tmp_path / "site")
    print(f"500 runs: {time.perf_counter() - start:.1f} s, processor {time.process_time() - cpu:.1f} s")
    assert time.process_time() - cpu < 20  # of the processor: other work on the machine is not the build's
    assert len(list((tmp_path / "site").rglob("runs/*/*.html"))) == 500

from __future__ import annotations

import base64
import csv
import io
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from record_factory import make_record, record_dict
from refusal_bench.record import Record
from refusal_bench.report import write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian package chromium)"),
]
HOSTILE = '"><script>window.hit=1</script><img src=x onerror=window.hit=2>=1+1'
WIDTHS = (400, 900, 1600)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as page:
        yield page


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Browser:
    browser.media()
    write_report(make_record(no_direction=("privacy",)), tmp_path / "report.html")
    browser.open((tmp_path / "report.html").as_uri())
    return browser


def tip(page: Browser) -> str:
    return str(page.js("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent"))


def test_nothing_is_requested_and_nothing_complains(page: Browser) -> None:
    assert page.console == []
    assert [address for address in page.requests if not address.startswith("file:")] == []


def test_it_opens_in_under_a_second(page: Browser) -> None:
    assert page.js("performance.timing.loadEventEnd - performance.timing.navigationStart") < 1000


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_never_wider_than_the_window(page: Browser, width: int) -> None:
    page.media(width=width)
    assert page.js("document.documentElement.scrollWidth") <= width


def test_no_label_leaves_its_drawing(page: Browser) -> None:
    outside = page.js("""[...document.querySelectorAll("svg")].flatMap((svg) => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll("text")].filter((text) => {
            const box = text.getBoundingClientRect();
            return box.left < frame.left - 3 || box.right > frame.right + 12;
        }).map((text) => text.textContent);
    })""")
    assert outside == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_the_contrast_that_reading_needs(page: Browser, dark: bool) -> None:
    page.media(dark=dark)
    ratios = page.js("""(() => {
        const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
            .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const page = light(getComputedStyle(document.body).backgroundColor);
        const colours = [...document.querySelectorAll("p, figcaption, td, th, button, nav a, summary")]
            .map((one) => getComputedStyle(one).color);
        colours.push(...[...document.querySelectorAll("svg text")].map((one) => getComputedStyle(one).fill));
        return [...new Set(colours)].map((colour) => {
            const text = light(colour);
            return (Math.max(page, text) + 0.05) / (Math.min(page, text) + 0.05);
        });
    })()""")
    assert min(ratios) >= 4.5


def test_hovering_says_what_a_mark_is(page: Browser) -> None:
    page.js("document.getElementById('cosine').scrollIntoView()")
    for step in range(100):  # a busy machine lays out, and scrolls, after the first of them
        x, y = page.js("""(() => { const box = document.querySelectorAll("#cosine .mark")[1].getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; })()""")
        page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + step % 2, y=y)
        if page.js("!document.getElementById('tip').hidden"):
            break
        time.sleep(0.05)
    assert tip(page).startswith("fraud and privacy †: cosine ")
    assert "ceiling" in tip(page)


def test_arrow_keys_walk_through_the_marks(page: Browser) -> None:
    page.js("document.querySelector('#cosine svg').focus()")
    said = []
    for _ in range(2):
        page.key("ArrowRight")
        said.append(tip(page))
    assert said[0] == "fraud with itself"
    assert said[1].startswith("fraud and privacy †: cosine ")
    assert page.js("document.getElementById('live').textContent") == said[1]
    page.key("Escape")
    assert tip(page) == ""


def test_a_drawing_saved_as_svg_stands_alone(page: Browser) -> None:
    for key in page.js("[...document.querySelectorAll('figure:has(svg)')].map((one) => one.id)"):
        svg = page.js(f"report.standalone(document.querySelector('#{key} svg'))")
        root = ElementTree.fromstring(svg)
        assert "var(" not in svg
        assert "color(" not in svg
        assert root.find(".//{http://www.w3.org/2000/svg}title") is not None


def test_a_drawing_saved_as_png_is_a_picture_of_three_times_the_size(page: Browser) -> None:
    address = page.js("""report.png(report.standalone(document.querySelector("#subspace svg"))).then((blob) =>
        new Promise((done) => { const reader = new FileReader(); reader.onload = () => done(reader.result);
        reader.readAsDataURL(blob); }))""")
    data = base64.b64decode(address.partition(",")[2])
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20], "big") == 3 * (480 + 20)
    assert page.console == []


def test_a_table_is_copied_as_csv_with_its_numbers(page: Browser) -> None:
    record = make_record(no_direction=("privacy",))
    rows = list(csv.reader(io.StringIO(page.js("report.csv(document.querySelector('#refusal table'))"))))
    assert rows[0][:4] == ["domain", *(f"harmful, nothing done{end}" for end in ("", " low", " high"))]
    baseline = record.results.tasks["fraud"].refusal.baseline_harmful
    assert baseline.ci95 is not None
    assert [float(v) for v in rows[1][1:4]] == pytest.approx([baseline.rate, *baseline.ci95], rel=1e-5)
    assert {len(row) for row in rows} == {len(rows[0])}
    page.js("document.querySelector('#noise button').click()")
    page.wait("document.querySelector('#noise button').textContent === 'Copied'")


def test_names_that_are_code_stay_text(browser: Browser, tmp_path: Path) -> None:
    data = record_dict(("=cmd()", HOSTILE, "y"), model_id=HOSTILE, no_direction=(HOSTILE,))
    data["warnings"] = [HOSTILE]
    write_report(Record.model_validate(data), tmp_path / "hostile.html")
    browser.open((tmp_path / "hostile.html").as_uri())
    browser.js("document.querySelector('#cosine svg').focus()")
    for key in ("ArrowRight", "ArrowRight"):
        browser.key(key)
    assert HOSTILE in tip(browser)
    assert browser.js("window.hit") is None
    assert browser.js("document.querySelectorAll('img').length") == 0
    assert "\r\n'=cmd()," in browser.js("report.csv(document.querySelector('#cosine table'))")
    assert browser.console == []


def test_on_paper_the_page_is_light_and_has_no_buttons(page: Browser) -> None:
    page.media(dark=True, paper=True)
    assert page.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.js("getComputedStyle(document.querySelector('button')).display") == "none"

"""The site as a reader meets it: keyboard and pointer in headless Chromium, from file://."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser
from record_factory import condition, record_dict
from refusal_bench.files import write_atomic
from refusal_bench.leaderboard.site import build_site
from refusal_bench.leaderboard.store import record_path
from refusal_bench.record import Record

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

RUN = "20260102-030405-abcdef"
HOSTILE = "<img src=x onerror=alert(1)>"
REFUSED = {"org/a": 9, "org/b": 5, "org/c": 12, "org/d": 7, HOSTILE: 3}
NAMES = """
    [...document.querySelector('.ranking tbody').rows]
        .filter((row) => !row.hidden).map((row) => row.querySelector('a').textContent)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leaderboard")
    for i, (model, refused) in enumerate(REFUSED.items()):
        data = record_dict(model_id=model, seed=i)
        for task in data["results"]["tasks"].values():
            task["refusal"]["baseline_harmful"] = condition("R" * refused + "C" * (12 - refused), [-1.0, 1.0] * 6)
        data["results"]["cross_domain"] = data["results"]["subspace"] = None  # they hold the former labels
        data["model"]["quantization"] = "4bit" if model == "org/b" else "none"
        if model == "org/d":
            data["results"]["geometry"] = None
        store(folder, data)
    store(folder, record_dict(model_id="org/quick", quick=True))
    sections = ("layers", "cross_domain", "subspace")
    tie = record_dict(model_id="org/tie", n=8, seed=9, no_direction=("privacy",), sections=sections)
    for task in tie["results"]["tasks"].values():
        task["refusal"]["baseline_harmful"] = condition("RCCCCCCC", [-1.0, 1.0] * 4)
    tie["results"]["cross_domain"] = tie["results"]["subspace"] = None
    tie["model"] |= {"adapter_sha256": "cd" * 32, "quantization": "8bit"}
    tie["config"]["adapter"] = "refuses-more"
    store(folder, tie)
    build_site(folder, folder / "site")
    return folder / "site"


def store(folder: Path, data: dict[str, Any]) -> None:
    record = Record.model_validate(data)
    write_atomic(record_path(folder, record), record.to_json())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as page:
        yield page


@pytest.fixture
def page(browser: Browser, site: Path) -> Iterator[Browser]:
    browser.media()
    browser.open((site / "index.html").as_uri())
    yield browser
    assert browser.console == []
    assert {address.partition(":")[0] for address in browser.requests} <= {"file", "data"}


def test_rows_stand_in_the_order_of_the_worst_domain(page: Browser) -> None:
    assert page.js(NAMES) == ["org/c", "org/a", "org/d", "org/b", HOSTILE]


def test_sorting_by_keyboard_goes_both_ways_and_keeps_gaps_last(page: Browser) -> None:
    heading = "document.querySelector('.ranking th:nth-child(8)')"
    page.js(f"{heading}.querySelector('button').focus()")
    values = "[...document.querySelector('.ranking tbody').rows].map(r => r.cells[7].dataset.value)"
    page.key("Enter")
    assert page.js(f"{heading}.getAttribute('aria-sort')") == "ascending"
    ascending = page.js(values)
    page.key(" ")
    assert page.js(f"{heading}.getAttribute('aria-sort')") == "descending"
    descending = page.js(values)
    assert ascending[-1] == descending[-1] == ""  # org/d has no geometry
    known = [float(value) for value in ascending[:-1]]
    assert known == sorted(known)
    assert [float(value) for value in descending[:-1]] == known[::-1]
    assert page.js("document.querySelectorAll('.ranking')[0].querySelectorAll('[aria-sort]').length") == 1


def test_filtering_narrows_the_tables_and_says_so(page: Browser) -> None:
    page.js("document.getElementById('filter-text').focus()")
    page.type("ORG/")
    assert page.js("document.getElementById('shown').textContent") == "6 of 7 runs"
    page.js(
        "const s = document.getElementById('filter-quantization'); s.value = '4bit'; "
        "s.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert page.js(NAMES) == ["org/b"]
    assert page.js("document.querySelectorAll('.group')[1].hidden") is True


def test_four_are_chosen_and_compared(page: Browser) -> None:
    page.js("document.querySelector('.choose input').focus()")
    page.key(" ")
    page.js("[...document.querySelectorAll('.choose input')].slice(1, 4).forEach(box => box.click())")
    assert (
        page.js("[...document.querySelectorAll('.choose input')].map(box => box.disabled)") == [False] * 4 + [True] * 3
    )
    assert page.js("document.getElementById('chosen').textContent").startswith("4 of at most 4 chosen")
    page.js("document.querySelector('#chosen a').click()")
    page.wait("document.querySelectorAll('#comparison svg').length === 3")
    assert page.js("[...document.querySelectorAll('#comparison .legend a')].map(a => a.textContent)") == [
        *("org/c", "org/a", "org/d", "org/b, 4bit")
    ]
    assert page.js("document.querySelectorAll('#comparison svg')[0].querySelectorAll('polyline').length") == 4
    cells = "[...document.querySelectorAll('.overlay')[0].querySelectorAll('tbody td')].map(td => td.children.length)"
    assert page.js(cells) == [4] * 9
    assert page.js("document.getElementById('incomparable')") is None
    page.js(
        "const m = document.querySelector('#comparison select'); m.value = 'separation'; "
        "m.dispatchEvent(new Event('change'))"
    )
    assert "AUC" in page.js("document.querySelector('#comparison section:last-child p').textContent")


def test_scripts_write_the_numbers_of_the_other_pages(page: Browser, site: Path) -> None:
    """Ties such as 1 of 8 are where Python and JavaScript round apart."""
    page.open(f"{site.as_uri()}/runs/org--tie/{RUN}.html")
    harmful = "[...document.querySelectorAll('.rates tbody tr')].map(r => r.cells[1].querySelector('.ci').textContent)"
    intervals = page.js(harmful)
    rates = page.js(harmful.replace(".ci", "b"))
    assert rates[0] == "12 %"
    matrices = "[...document.querySelectorAll('.matrix')].map(m => [...m.querySelectorAll('td.heat')].map({}))"
    written = page.js(matrices.format("d => d.firstChild.textContent"))
    page.open(f"{site.as_uri()}/compare.html#org--tie/{RUN}")
    page.wait("document.querySelectorAll('.overlay').length === 4")
    rows = "[...document.querySelectorAll('.compare td.rate')].filter((_, i) => i % 4 === 0)"
    assert page.js(f"{rows}.map(d => d.querySelector('b').textContent)") == rates
    assert page.js(f"{rows}.map(d => d.querySelector('.ci').textContent.trim())") == intervals
    overlaid = page.js(
        "[...document.querySelectorAll('.overlay')].map(m => [...m.querySelectorAll('.heat')].map(d => d.textContent))"
    )
    assert overlaid[0] == written[0]  # cosines


def test_safe_prompts_are_compared_where_a_run_has_them(page: Browser, site: Path) -> None:
    page.open(f"{site.as_uri()}/compare.html#org--a/{RUN}&org--tie/{RUN}")
    page.wait("document.querySelectorAll('.overlay').length === 4")
    section = "[...document.querySelectorAll('#comparison section')].find(s => s.innerText.startsWith('Over-refusal'))"
    rows = page.js(f"[...{section}.querySelectorAll('tbody tr')].map(r => [...r.cells].map(c => c.textContent))")
    refusal = record_dict(seed=0)["results"]["over_refusal"]["refusal"]  # the seed of org/a
    safe, unsafe = (refusal[name]["labels"] for name in ("baseline_harmless", "baseline_harmful"))
    for row, labels in ((rows[0], safe), (rows[3], unsafe)):
        scored = [letter for letter in labels if letter not in "U?"]
        assert row[1].startswith(f"{100 * scored.count('R') / len(scored):.0f} % [")
    assert [row[0] for row in rows] == [
        *("safe", "safe, ablated", "safe, added", "unsafe contrasts", "unsafe contrasts, ablated")
    ]
    assert {row[2] for row in rows} == {"–"}  # org/tie has no such section
    page.open(f"{site.as_uri()}/compare.html#org--tie/{RUN}")
    page.wait("document.querySelectorAll('.overlay').length === 4")
    assert page.js(section) is None


def test_adapter_quantisation_and_domains_without_a_direction_are_marked(page: Browser, site: Path) -> None:
    names = "[...document.querySelectorAll('.ranking th[scope=row]')].map(h => h.innerText)"
    assert [name.split() for name in page.js(names) if "adapter" in name] == [
        ["org/tie", "adapter", "refuses-more", "cdcdcdcd", "8bit", "no", "direction:", "1", "of", "3"]
    ]
    page.open(f"{site.as_uri()}/runs/org--tie/{RUN}.html")
    heads = page.js("[...document.querySelector('.matrix').tHead.rows[0].cells].map(c => c.textContent)")
    assert heads == ["", "fraud", "privacy †", "weapons"]


def test_runs_that_are_not_comparable_are_compared_with_a_warning(page: Browser, site: Path) -> None:
    page.open((site / "compare.html").as_uri() + f"#org--a/{RUN}&org--quick/{RUN}")
    page.wait("document.getElementById('incomparable') !== null")
    assert "kind of run" in page.js("document.getElementById('incomparable').textContent")


def test_choosing_on_the_comparison_page_changes_its_address(page: Browser, site: Path) -> None:
    page.open((site / "compare.html").as_uri())
    page.js(
        f"const s = document.querySelector('#choice select'); s.value = 'org--a/{RUN}'; "
        "s.dispatchEvent(new Event('change'))"
    )
    page.wait("document.querySelectorAll('#comparison .legend a').length === 1")
    assert page.js("location.hash") == f"#org--a/{RUN}"


def test_an_address_loads_no_script_but_the_site_s(page: Browser, site: Path) -> None:
    page.open((site / "compare.html").as_uri() + "#../../evil&https://example.org/x")
    page.wait("document.getElementById('comparison').textContent.startsWith('Choose')")
    assert not [address for address in page.requests if "evil" in address or "example" in address]


def test_a_hostile_name_is_text_wherever_it_stands(page: Browser, site: Path) -> None:
    slug = next(path.parent.name for path in site.rglob("runs/*/*.html") if path.parent.name.startswith("-img"))
    for address in ("index.html", f"runs/{slug}/{RUN}.html", f"compare.html#{slug}/{RUN}"):
        page.open(f"{site.as_uri()}/{address}")
        page.wait("document.body.textContent.includes('<img src=x')")
        assert page.js("document.images.length") == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_pages_fit_their_window_in_both_colour_schemes(page: Browser, site: Path, dark: bool, width: int) -> None:
    page.media(dark=dark, width=width)
    for address in ("index.html", f"runs/org--a/{RUN}.html", f"compare.html#org--a/{RUN}"):
        page.open(f"{site.as_uri()}/{address}")
        assert page.js("document.documentElement.scrollWidth") <= width
        ground = page.js("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")

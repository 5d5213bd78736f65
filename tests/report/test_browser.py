"""The report in a real browser: Debian's Chromium, driven by its own chromedriver."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowbench.report import build_from
from flowbench.reproduction.reproduce import reproduce
from tests.faked_runs import FakeTrainer
from tests.report.test_report import results, row
from tests.report.test_throughput_section import stored

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SHIPPED = Path(__file__).parents[2] / "reports" / "index.html"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update")
FIGURES = (3.61, 3.5, 12.25, None)
"""Of the wide table's rows, in no order; the last one has none."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything: a table with runs, a wide table with published figures, throughput with history."""
    folder = tmp_path_factory.mktemp("site")
    reproduce("quick", out=folder / "quick", trainer=FakeTrainer())
    rows = [
        row(row=f"ROW {place}", value=value, status="done" if value else "not_run", reason=None if value else "later")
        for place, value in enumerate(FIGURES)
    ]
    (folder / "wide").mkdir()
    (folder / "wide" / "results.json").write_text(json.dumps(results(*rows)))
    for place, commit in enumerate("abc"):
        stored(folder / "measured" / f"{place}.json", commit * 2, 1.5 - place / 10)
    sources = [str(folder / name) for name in ("quick", "wide", "measured")]
    return build_from(sources, folder / "index.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install '.[dev]'")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs["chromedriver"]))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, site: Path) -> Any:
    """The open page, 1200 pixels wide, in light mode."""
    show(browser, width=1200, dark=False)
    browser.get("about:blank")
    browser.get(site.as_uri())
    return browser


def show(browser: Any, *, width: int, dark: bool) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def column(page: Any, place: int) -> list[str]:
    script = "return [...document.querySelectorAll('#table-mine tbody tr')].map(r => r.cells[arguments[0]].innerText)"
    return page.execute_script(script, place)


def test_nothing_is_complained_about_and_nothing_is_fetched(page: Any) -> None:
    assert page.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    asked = [one["request"]["url"] for one in sent if one["documentURL"].startswith("file:")]
    assert any(url.startswith("file:") for url in asked)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    broken = "return [...document.images].filter(i => !(i.complete && i.naturalWidth)).length"
    page.execute_script("for (const image of document.images) image.loading = 'eager'")
    page.execute_async_script("Promise.all([...document.images].map(i => i.decode())).then(arguments[0], arguments[0])")
    assert page.execute_script("return document.images.length") >= 5
    assert page.execute_script(broken) == 0


def test_a_table_sorts_by_numbers_both_ways_and_what_has_none_stays_last(page: Any) -> None:
    assert column(page, 0) == ["ROW 0", "ROW 1", "ROW 2", "ROW 3"]
    head = "#table-mine thead th:nth-child(3)"
    for wanted, state in (("1 0 2 3", "ascending"), ("2 0 1 3", "descending")):
        page.find_element("css selector", f"{head} button").click()
        assert column(page, 0) == [f"ROW {number}" for number in wanted.split()]
        assert page.find_element("css selector", head).get_attribute("aria-sort") == state
    page.find_element("css selector", "#table-mine thead th:nth-child(1) button").send_keys("\n")
    assert column(page, 0) == ["ROW 0", "ROW 1", "ROW 2", "ROW 3"]


def test_a_figure_in_full_stands_beside_the_pointer(page: Any) -> None:
    cells = page.find_elements("css selector", "td.number[data-sort]")
    assert cells
    assert [cell.get_attribute("title") for cell in cells] == [cell.get_attribute("data-sort") for cell in cells]


def test_a_picture_keeps_its_place_before_it_is_there(page: Any) -> None:
    held = "return [...document.querySelectorAll('figure img')].filter(i => !(i.width && i.getAttribute('height')))"
    assert page.execute_script("return document.querySelectorAll('figure img').length") >= 5
    assert page.execute_script(held) == []
    before = page.execute_script("return document.documentElement.scrollHeight")
    page.execute_script("for (const image of document.images) image.loading = 'eager'")
    page.execute_async_script("Promise.all([...document.images].map(i => i.decode())).then(arguments[0], arguments[0])")
    assert page.execute_script("return document.documentElement.scrollHeight") == pytest.approx(before, abs=20)


def test_many_runs_are_folded_and_a_link_unfolds_the_one_it_leads_to(browser: Any, tmp_path: Path) -> None:
    reproduce("quick", out=tmp_path / "quick", seeds=[0], trainer=FakeTrainer())
    stored_rows = json.loads((tmp_path / "quick" / "results.json").read_text())
    done = [one for one in stored_rows["rows"] if one["status"] == "done"]
    stored_rows["rows"] = [dict(one, row=f"{one['row']} {place}") for place in range(5) for one in done]
    (tmp_path / "quick" / "results.json").write_text(json.dumps(stored_rows))
    browser.get(build_from([str(tmp_path / "quick")], tmp_path / "index.html").as_uri())
    opened = "return [...document.querySelectorAll('article > details.fold')].map(e => e.open)"
    states = browser.execute_script(opened)
    assert len(states) == len(stored_rows["rows"]) > 12
    assert not any(states)
    browser.find_element("css selector", ".sheet td a").click()
    browser.execute_async_script("setTimeout(arguments[0], 50)")
    assert browser.execute_script(opened).count(True) == 1


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_no_name_of_a_figure_is_broken(page: Any, dark: bool) -> None:
    show(page, width=390, dark=dark)
    lines = "return [...document.querySelectorAll('.who')].map(e => e.getBoundingClientRect().height)"
    heights = page.execute_script(lines)
    assert len(heights) >= 4
    assert max(heights) < 30


def test_links_lead_somewhere(page: Any, site: Path) -> None:
    links = page.execute_script("return [...document.links].map(a => [a.getAttribute('href'), a.download])")
    assert len(links) > 15
    for href, download in links:
        if href.startswith("#"):
            assert page.execute_script("return document.getElementById(arguments[0]) !== null", href[1:]), href
        elif href.startswith("data:"):
            assert download.endswith((".csv", ".md", ".tex", ".svg"))
        else:
            assert (site.parent / href).exists(), href
    page.find_element("css selector", "#table-quick td a").click()
    page.execute_async_script("setTimeout(arguments[0], 0)")
    assert page.execute_script("return location.hash").startswith("#quick-digits-")
    figure = page.find_element("css selector", "figcaption a[download$='.svg']").get_attribute("href")
    page.get(figure)
    assert page.execute_script("return document.documentElement.tagName") == "svg"


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast_in_light_and_dark(page: Any, site: Path, dark: bool) -> None:
    show(page, width=1200, dark=dark)
    paper = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (luminance(numbers(paper)) < 0.05) is dark
    # Every piece of text on the first background that is not transparent: WCAG 2.2 asks for 4.5.
    script = """
      const solid = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
      const texts = [...document.querySelectorAll('body *')].filter(e => !['SCRIPT', 'STYLE'].includes(e.tagName)
        && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
      return texts.map(e => [e.textContent.trim().slice(0, 40), getComputedStyle(e).color, solid(e)]);"""
    pairs = page.execute_script(script)
    assert len(pairs) > 100
    poor = {text: ratio for text, ink, ground in pairs if (ratio := contrast(numbers(ink), numbers(ground))) < 4.5}
    assert poor == {}


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_no_screen_scrolls_sideways(page: Any, width: int) -> None:
    show(page, width=width, dark=False)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    if width == 360:
        # Each cell carries its column's name there, since the head is out of sight.
        label = "return getComputedStyle(document.querySelector('#table-mine td.strong'), '::before').content"
        assert page.execute_script(label) == '"Ours"'


@pytest.mark.parametrize("width", [390, 1280, 1600])
def test_no_table_of_the_shipped_reports_is_wider_than_its_page_or_cuts_a_label(browser: Any, width: int) -> None:
    show(browser, width=width, dark=False)
    browser.get(SHIPPED.as_uri())
    script = """
      const wide = (e) => e.scrollWidth > e.clientWidth + 1;
      const clipped = (e) => { const inner = e.getBoundingClientRect();
        for (let p = e.parentElement; p; p = p.parentElement) { const box = p.getBoundingClientRect();
          if (getComputedStyle(p).overflowX !== 'visible' && (inner.right > box.right + 1 || inner.left < box.left - 1))
            return true; }
        return inner.right > document.documentElement.clientWidth + 1; };
      const cells = [...document.querySelectorAll('tbody th, tbody td')].filter(e => e.checkVisibility());
      const texts = [...document.querySelectorAll('tbody .badge, tbody small, tbody a, tbody span')];
      return {page: document.documentElement.scrollWidth, labels: document.querySelectorAll('.sheet .badge').length,
        tables: [...document.querySelectorAll('.sheet')].filter(wide).map(e => e.id), cells: cells.filter(wide).length,
        cut: texts.filter(e => e.checkVisibility() && clipped(e)).map(e => e.textContent)};"""
    found = browser.execute_script(script)
    assert found["page"] <= width
    assert found["labels"] >= 5
    assert (found["tables"], found["cells"], found["cut"]) == ([], 0, [])


def test_structure_that_a_screen_reader_needs(page: Any) -> None:
    counts = """
      const all = (s) => document.querySelectorAll(s).length;
      return {h1: all('h1'), lang: document.documentElement.lang, main: all('main'), tables: all('table'),
        captions: all('table > caption'), heads: all('thead th'), scoped: all('thead th[scope=col]'),
        rows: all('tbody tr'), rowHeads: all('tbody th[scope=row]'), images: all('img'),
        described: [...document.images].filter(i => i.alt.length > 10).length};"""
    found = page.execute_script(counts)
    assert (found["h1"], found["main"], found["lang"]) == (1, 1, "en")
    assert found["tables"] == found["captions"] >= 3
    assert found["heads"] == found["scoped"]
    assert found["rows"] == found["rowHeads"]
    assert found["images"] == found["described"]
    levels = page.execute_script("return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_on_paper_the_folded_parts_are_open_and_the_controls_gone(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).length"
    assert page.execute_script(shown, "nav, .downloads, button.copy") == 0
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert page.execute_script(shown, "details:not([open])") == 0
    pdf = page.execute_cdp_cmd("Page.printToPDF", {})["data"]
    assert len(pdf) > 20_000
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def numbers(color: str) -> tuple[float, ...]:
    return tuple(float(part) for part in color[color.index("(") + 1 : -1].replace("/", ",").split(",")[:3])


def luminance(color: tuple[float, ...]) -> float:
    linear = [c / 3294.6 if c <= 10.31 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(ink: tuple[float, ...], ground: tuple[float, ...]) -> float:
    light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)

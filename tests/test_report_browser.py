"""The report in a real headless Chromium: no request, no error, sorting, hovering, keys, dark mode, a phone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_scores import evaluated_cache, names, pictures, run_of, save_scores, two_datasets

pytest.importorskip("matplotlib", reason="needs matplotlib, of drexcache[report]")
pytest.importorskip("jinja2", reason="needs Jinja2, of drexcache[report]")
pytest.importorskip("playwright.sync_api", reason="needs Playwright for Python to drive a browser")
from playwright import sync_api

from drexcache.studies.reporting.page import report

SCROLLED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"  # which hides the tip

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs Chromium on the PATH", allow_module_level=True)

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Open a file as the reader's settings say; fail on any message to the console and any request but for it."""
    contexts = []

    def visit(path: Path, **settings: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | settings))
        contexts.append(context)
        page = context.new_page()
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (page.complaints.append("a dialog"), dialog.dismiss()))
        page.on("request", lambda one: one.url.startswith("data:") or page.complaints.append(one.url))
        page.goto(path.as_uri())
        assert page.complaints == [path.as_uri()]
        return page

    yield visit
    for context in contexts:
        assert all(len(page.complaints) == 1 for page in context.pages)
        context.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    scores = two_datasets(folder / "scores.csv", n=20)
    images = [str(pictures(folder / name, names(20))) for name in ("art", "photos")]
    report([scores], folder / "a report.html", images=images)
    return folder / "a report.html"


def column(page: Any, table: int, number: int) -> list[str]:
    cells = page.locator("table.sortable").nth(table).locator(f"tbody tr td:nth-child({number})")
    return cells.evaluate_all("cells => cells.map(cell => cell.dataset.sort)")


def test_a_table_sorts_by_click_and_by_key(visit: Open, path: Path) -> None:
    page = visit(path)
    head = page.locator("table.sortable").first.locator("th").nth(2)
    before = column(page, 0, 3)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"  # the best r first
    assert column(page, 0, 3) == sorted(before, key=float, reverse=True)
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, 0, 3) == sorted(before, key=float)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") is None
    assert column(page, 0, 2) == sorted(column(page, 0, 2), key=str.lower)


def test_the_smallest_error_comes_first(visit: Open, path: Path) -> None:
    page = visit(path)
    head = page.locator("table.sortable").first.locator("th", has_text="RMSE").first
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    number = page.locator("table.sortable").first.locator("th").all_inner_texts().index("RMSE") + 1
    assert column(page, 0, number) == sorted(column(page, 0, number), key=float)


def many(folder: Path) -> Path:
    """A report on 3 regressors and 6 datasets with their transfer: 108 rows of scores."""
    sets = ["Scenes", "Objects", "Interior", "Art", "Suprematism", "Advertisement"]
    runs = [
        run_of(name, train, test, names(12), noise=0.3)
        for name in ("ridge", "fusion-paper", "svr")
        for train in sets
        for test in sets
    ]
    report([save_scores(folder / "many.csv", runs)], folder / "many.html")
    return folder / "many.html"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many(tmp_path_factory.mktemp("many"))


@pytest.mark.parametrize("width", [1200, 1600])
def test_every_column_is_in_sight_on_a_desk(visit: Open, long: Path, width: int) -> None:
    page = visit(long, viewport={"width": width, "height": 900})
    for table in page.locator("table.sortable").all():
        box = table.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert page.locator(".hint:visible").count() == 0


def test_a_long_table_says_how_long_and_shows_all(visit: Open, long: Path) -> None:
    page = visit(long)
    rows = page.locator("table.sortable").first.locator("tbody tr:visible")
    assert rows.count() == 20
    best = max(float(value) for value in column(page, 0, 3))
    page.locator("table.sortable").first.locator("th").nth(2).get_by_role("button").click()
    assert float(rows.first.locator("td").nth(2).get_attribute("data-sort")) == best  # of all, not of those shown
    page.get_by_role("button", name="Show all 108 rows").first.click()
    assert rows.count() == 108
    page = visit(long, java_script_enabled=False)
    assert page.locator("table.sortable").first.locator("tbody tr:visible").count() == 108


def test_a_phone_shows_r_and_says_that_there_is_more(visit: Open, long: Path) -> None:
    page = visit(long, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    value = page.locator("table.sortable").first.locator("tbody tr").first.locator("td").nth(2)
    box = value.bounding_box()
    assert value.inner_text().startswith("0.") and box["x"] > 0 and box["x"] + box["width"] <= 390
    hint = page.locator(".hint").first
    assert hint.is_visible() and "sideways" in hint.inner_text()
    scroll = page.locator(".scroll").first
    assert "more" in scroll.get_attribute("class").split()
    scroll.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
    page.wait_for_function("!document.querySelector('.scroll').classList.contains('more')")


def test_a_tall_picture_is_seen_whole(visit: Open, tmp_path: Path) -> None:
    scores = save_scores(tmp_path / "s.csv", [run_of("ridge", "art", "art", names(12))])
    report([scores], tmp_path / "r.html", images=[str(pictures(tmp_path / "art", names(12), size=(30, 90)))])
    page = visit(tmp_path / "r.html")
    for image in page.locator(".frame img").all():
        box, frame = image.bounding_box(), image.locator("..").bounding_box()
        assert box["height"] <= frame["height"] + 0.5 and box["width"] <= frame["width"] + 0.5
        assert image.evaluate("one => getComputedStyle(one).objectFit") == "contain"


def test_hovering_a_point_shows_its_picture_and_numbers(visit: Open, path: Path) -> None:
    page = visit(path)
    page.select_option("#regressor", label="fusion")
    figure = page.locator("figure[data-panel]:visible").first
    figure.scroll_into_view_if_needed()
    number = figure.get_attribute("data-panel")
    point = page.evaluate(
        """name => {
            const layer = data.panels[name][0], result = data.results[layer.result], row = layer.rows[7];
            const [id, dataset, rated, picture] = data.images[result.images[row]];
            const svg = document.querySelector(`[data-panel="${name}"] svg`);
            const at = new DOMPoint(layer.x[7], layer.y[7]).matrixTransform(svg.getScreenCTM());
            return {id, rated, picture, predicted: result.predicted[row], x: at.x, y: at.y,
                    attention: result.attention.dino[row]};
        }""",
        number,
    )
    tip = page.locator("#tip")
    assert not tip.is_visible()
    page.mouse.move(point["x"], point["y"])
    assert tip.is_visible()
    said = tip.inner_text()
    assert point["id"] in said and f"rated {point['rated']:.2f}" in said
    assert f"predicted {point['predicted']:.2f}" in said and f"dino {point['attention']:.2f}" in said
    img = tip.locator("img")
    assert img.get_attribute("src") == point["picture"]
    assert img.evaluate("img => img.decode().then(() => img.naturalWidth)") == 40
    page.mouse.move(5, 5)
    assert not tip.is_visible()


@pytest.mark.parametrize("width", [390, 1200])
def test_a_point_on_the_map_shows_the_images_most_like_it(visit: Open, tmp_path: Path, width: int) -> None:
    images = str(pictures(tmp_path / "made", names(80)))
    report([evaluated_cache(tmp_path)], tmp_path / "r.html", images=[images])
    size = {"width": width, "height": 844}
    page = visit(tmp_path / "r.html", viewport=size, reduced_motion="reduce")  # so that it scrolls at once
    figure = page.locator('[data-panel="map-made"] svg')
    figure.scroll_into_view_if_needed()
    figure.focus()
    page.evaluate(SCROLLED)
    page.keyboard.press("Home")
    tip = page.locator("#tip")
    shown = tip.locator(".head").inner_text()
    order = [image for image, *_ in page.evaluate("data.images")]
    near = page.evaluate("data.near")[str(order.index(shown))]
    wanted = [order[at] for at in near][: 3 if width == 390 else 6]
    alike = tip.locator(".alike img:visible")
    alike.nth(len(wanted) - 1).wait_for()  # a picture has no size until it is decoded
    assert alike.evaluate_all("images => images.map(one => one.alt)") == wanted
    for one in tip.locator(".words > p").all():
        box, whole = one.bounding_box(), tip.bounding_box()
        assert box["x"] + box["width"] <= whole["x"] + whole["width"] + 0.5
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    card = page.locator("#map .card", has_text="033.png").first
    assert card.locator("img").count() == 4  # itself, and three that are like it
    copies = page.locator("#map .alike", has_text="011.png").locator("img:visible")
    copies.nth(1).wait_for()
    assert copies.count() == 2


def test_keys_reach_every_point(visit: Open, path: Path) -> None:
    page = visit(path)
    figure = page.locator("figure[data-panel] svg:visible").first
    figure.focus()
    seen = set()
    page.keyboard.press("Home")
    for _ in range(20):
        seen.add(page.locator("#tip .head").inner_text())
        page.keyboard.press("ArrowRight")
    assert seen == set(names(20))
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()


def test_the_gallery_shows_pictures_and_one_regressor_at_a_time(visit: Open, path: Path) -> None:
    page = visit(path)
    widths = page.locator(".card img:visible").evaluate_all(
        "images => Promise.all(images.map(img => img.decode().then(() => img.naturalWidth)))"
    )
    assert widths == [40] * 24  # six of the worst and six of the best of two datasets
    for name in ("ridge", "poor"):
        page.select_option("#regressor", label=name)
        assert page.locator("#images h3:visible").all_inner_texts() == [name]


def test_dark_mode_changes_page_and_figures(visit: Open, path: Path) -> None:
    def brightness(page: Any, selector: str, name: str) -> float:
        colour = page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{name}")
        return sum(float(part) for part in colour[4:-1].split(",")[:3]) / 3

    light, dark = (visit(path, color_scheme=scheme) for scheme in ("light", "dark"))
    for selector, name, is_ink in (
        ("body", "backgroundColor", False),
        ("figure svg path", "fill", False),  # the figure's ground
        ("figure svg text", "fill", True),
        ("h1", "color", True),
    ):
        bright, dim = (light, dark) if not is_ink else (dark, light)
        assert brightness(bright, selector, name) > 40 + brightness(dim, selector, name), selector


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_never_scrolls_sideways_and_a_tap_shows_the_picture(visit: Open, path: Path, width: int) -> None:
    page = visit(path, viewport={"width": width, "height": 844}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    figure = page.locator("figure[data-panel] svg:visible").first
    figure.scroll_into_view_if_needed()
    box = page.evaluate(
        """() => {
            const figure = [...document.querySelectorAll("figure[data-panel]")].find((one) => one.offsetParent);
            const layer = data.panels[figure.dataset.panel][0];
            const at = new DOMPoint(layer.x[0], layer.y[0]).matrixTransform(figure.querySelector("svg").getScreenCTM());
            return [at.x, at.y];
        }"""
    )
    page.touchscreen.tap(*box)
    tip = page.locator("#tip")
    assert tip.is_visible() and tip.locator("img").is_visible()
    place = tip.bounding_box()
    assert place["x"] >= 0 and place["x"] + place["width"] <= width


def test_hostile_names_do_nothing(visit: Open, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&lt;{{1}}"
    ids = [f"{evil}{number}" for number in range(12)]
    runs = [run_of(name, evil, evil, ids, group=[evil, "b"] * 6, attention=(evil, "x")) for name in ("ridge", evil)]
    report([save_scores(tmp_path / "s.csv", runs)], tmp_path / "r.html")
    page = visit(tmp_path / "r.html")
    figure = page.locator("figure[data-panel] svg:visible").first
    figure.focus()
    page.keyboard.press("Home")
    assert page.locator("#tip .head").inner_text().startswith(evil)
    assert page.locator("script").count() == 2 and page.locator("#tip img").count() == 0


def test_without_scripts_everything_is_there(visit: Open, path: Path) -> None:
    page = visit(path, java_script_enabled=False)
    assert page.locator("#images h3:visible").all_inner_texts() == ["ridge", "fusion", "poor"]


def test_on_paper_nothing_is_cut_off(visit: Open, path: Path) -> None:
    page = visit(path)
    page.emulate_media(media="print")
    assert not page.locator(".bar-top").is_visible()
    assert page.locator(".scroll").first.evaluate("box => box.scrollHeight <= box.clientHeight + 1")

"""The page in a real browser, without a network."""

import shutil

import pytest
from html_samples import everything

from precisionkit.html import page

pytestmark = pytest.mark.browser
CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'precisionkit[browser]'")
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    target = tmp_path_factory.mktemp("html") / "report.html"
    target.write_text(page(everything()), encoding="utf-8")
    return target.as_uri()


@pytest.fixture
def opened(browser, address):
    """Open the page; at the end nothing was said on the console, and nothing was asked of a network."""
    said, contexts = [], []

    def load(**options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        view = context.new_page()
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.on("request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
        view.goto(address)
        return view

    yield load
    for context in contexts:
        context.close()
    assert not said


def column(view, number):
    """Text of a column in the rows that are shown."""
    return view.eval_on_selector_all("#inputs-table tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{number}].textContent)")


def test_a_column_is_sorted_by_click_and_by_keyboard(opened):
    view = opened()
    button = view.get_by_role("button", name="Bound")
    head = view.locator("#inputs-table th", has=button)
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    values = column(view, 6)
    numbers = [float(value) for value in values if value]
    assert numbers == sorted(numbers)
    assert values[-2:] == ["", ""]  # what has no bound comes last, in both directions
    button.focus()
    view.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(value) for value in column(view, 6) if value] == numbers[::-1]
    assert column(view, 6)[-2:] == ["", ""]
    view.get_by_role("button", name="Index").click()
    assert head.get_attribute("aria-sort") is None
    assert column(view, 0) == [str(index) for index in range(361)]


def test_rows_are_filtered_by_verdict_and_text(opened):
    view = opened()
    assert view.locator("#filter-status").inner_text() == "361 of 361 rows are shown."
    view.get_by_role("checkbox", name="proved").uncheck()
    view.get_by_role("checkbox", name="probable").uncheck()
    assert set(column(view, 4)) == {"flipped", "invalid", "undecided", "observed"}
    view.get_by_role("searchbox").fill("3 → 5 MARGIN")
    assert column(view, 4) == ["flipped"] * 3
    assert view.locator("#filter-status").inner_text() == "3 of 361 rows are shown."
    view.get_by_role("button", name="Margin").click()
    assert column(view, 4) == ["flipped"] * 3


# darker of text and ground, by the definition of WCAG 2
CONTRAST = """() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(channel);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [...document.querySelectorAll("p, a, th, td, caption, figcaption, h1, h2, h3, li, button, label, legend, code, summary, text")];
  return Math.min(...texts.map((e) => {
    const style = getComputedStyle(e);
    const pair = [luminance(e.tagName === "text" ? style.fill : style.color), luminance(ground(e))].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  }));
}"""


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")])
def test_both_colour_schemes_have_enough_contrast(scheme, ground, opened):
    view = opened(color_scheme=scheme)
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    assert view.evaluate(CONTRAST) >= 4.5


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_nothing_is_wider_than_the_screen(width, opened):
    view = opened(viewport={"width": width, "height": 800})
    assert view.evaluate("document.documentElement.scrollWidth") <= width


def test_labels_of_the_figures_do_not_overlap(opened):
    view = opened()
    for name in ("bar", "scatter", "growth", "calibration"):
        boxes = view.eval_on_selector_all(
            f".{name}-figure .scroll text",
            "texts => texts.map(t => t.getBoundingClientRect()).map(b => [b.left, b.right, b.top + 2, b.bottom - 2])",
        )
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :]]
        assert not [pair for a, b in pairs if a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3] for pair in [(name, a, b)]]


def test_print_has_neither_filters_nor_certified_rows(opened):
    view = opened(color_scheme="dark")
    view.emulate_media(media="print")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not view.locator("#filters").is_visible()
    assert not view.locator("nav").is_visible()
    assert view.locator(".print-only").is_visible()
    assert view.locator("#inputs-table tbody tr:visible").count() == 21
    assert view.pdf().startswith(b"%PDF")


def test_without_script_the_table_is_whole(browser, address):
    context = browser.new_context(java_script_enabled=False, offline=True)
    view = context.new_page()
    view.goto(address)
    assert view.locator("#inputs-table tbody tr").count() == 361
    assert not view.locator("#filters").is_visible()
    context.close()

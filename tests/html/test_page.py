"""The page: well-formed, complete, the same every time, and no text of a report becomes markup."""

import re
import time
from collections import Counter
from html.parser import HTMLParser

import msgspec
import pytest
from html_samples import DOT, drawn, everything, profile, some_inputs

from precisionkit.html import page
from precisionkit.html.calibration import ratios
from precisionkit.html.figures import LogScale
from precisionkit.html.inputs import MOST_CERTIFIED, MOST_PICTURE_CHARACTERS, shown_inputs, shown_pictures
from precisionkit.html.summary import widths
from precisionkit.html.tags import Html, tag
from precisionkit.report import DataInfo, Environment, ModelInfo, Picture, Report
from tests.reports import ARITHMETIC, item, report

VOID = {"meta", "img", "input"}
OPEN_ENDED = {"td", "th", "tr"}  # whose end tags may be left out


class Structure(HTMLParser):
    """Elements with the names of their attributes, text outside of style and script, and whatever is not closed as it should be."""

    def __init__(self):
        super().__init__()
        self.elements, self.links, self.text, self.open, self.wrong, self.ids = [], [], [], [], [], Counter()

    def handle_starttag(self, name, attributes):
        if name in OPEN_ENDED and self.open[-1] in OPEN_ENDED and not (self.open[-1] == "tr" and name != "tr"):
            while self.open[-1] in OPEN_ENDED and not (self.open[-1] == "tr" and name != "tr"):
                self.open.pop()
        self.elements.append((name, tuple(key for key, _ in attributes)))
        self.links += [value for key, value in attributes if key in ("src", "href", "xlink:href", "action", "data")]
        self.ids.update(value for key, value in attributes if key == "id")
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        while self.open and self.open[-1] != name and self.open[-1] in OPEN_ENDED:
            self.open.pop()
        if not self.open or self.open.pop() != name:
            self.wrong.append(name)

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)


def parsed(text):
    found = Structure()
    found.feed(text)
    found.close()
    return found


def words(text):
    return " ".join(" ".join(parsed(text).text).split())


SAMPLES = {
    "everything": everything(),
    "large": everything(certified=3000),
    "empty": report(()),
    "one": report([item(0)]),
    "nothing finite": report([item(0, "observed", margin=None, bound=None, measured_error=None, lower_margin=None)]),
    "zeros": report([item(0, margin=0.0, bound=0.0, measured_error=0.0), item(1, margin=0.0, measured_error=0.0)]),
    "extremes": report([item(0, margin=5e-324, bound=1.7e308, measured_error=1e-300), item(1, margin=1e300, bound=5e-324)]),
    "hopeless": report([item(i, "observed", margin=1.0, bound=100.0) for i in range(3)]),
    "safe": report([item(i, margin=100.0, bound=1.0) for i in range(3)]),
    "empty profile": report([item(0)], profile=profile(0)),
    "long profile": report([item(0)], profile=profile(150)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_page_is_well_formed_and_refers_to_nothing_else(name):
    text = page(SAMPLES[name])
    found = parsed(text)
    assert text.startswith("<!DOCTYPE html>")
    assert not found.wrong
    assert not found.open
    assert max(found.ids.values()) == 1
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in found.links)
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert "nan" not in re.findall(r"[a-z]+", " ".join(re.findall(r' d="([^"]*)"', text)))


def test_the_same_json_gives_the_same_bytes():
    first = SAMPLES["everything"]
    again = msgspec.json.decode(msgspec.json.encode(first), type=Report)
    assert page(first).encode() == page(again).encode()


def test_the_sections_come_in_order():
    headings = re.findall(r"<h2[^>]*>([^<]*)", page(SAMPLES["everything"]))
    assert headings == [
        "Summary",
        "Margin against bound",
        "Error growth by layer",
        "Calibration of the bounds",
        "Inputs",
        "Arithmetic, assumptions, environment",
    ]


PHRASES = {
    "everything": (
        "340 of 361 predictions cannot change (proved, or with the stated probability) in binary16 under the assumptions below; 3 did change.",
        "net, 1,234 parameters, from net.pt",
        "precisionkit certify net.pt --data digits",
        "a" * 64,
        "b" * 64,
        "One.",
        "closest gap of input 17",
        "pictures of 21 of the 21 inputs that are not certified, made from bytes as they are.",
        "The table holds 361 of 361 inputs: all that are not certified, and all that are.",
        "is wrong with a probability of at most 1e-06",
        "a ratio above 1 contradicts nothing",
    ),
    "large": (
        "The 3,000 proved and 40 probable inputs are not drawn one by one, but in cells",
        "and of 3,040 certified ones the 1,000 whose proved gap is smallest. The JSON file has all of them.",
    ),
    "empty": ("0 of 0 predictions", "No input has a margin", "Certify with --profile to get errors"),
    "nothing finite": ("No input has a margin", "No input has both a measured error and a bound."),
    "zeros": ("2 inputs have a margin of zero or less", "1 input has no measured error"),
    "hopeless": ("outside of this figure: every bound that is drawn is larger than every margin.",),
    "safe": ("outside of this figure: every margin is larger than every bound that is drawn.",),
    "empty profile": ("The profile of this report has no nodes.",),
    "long profile": ("The other 120 nodes have",),
}


@pytest.mark.parametrize("name", PHRASES)
def test_the_page_says_it(name):
    said = words(page(SAMPLES[name]))
    assert not [phrase for phrase in PHRASES[name] if phrase not in said]


def test_the_half_program_is_told_as_on_the_terminal():
    arithmetic = msgspec.structs.replace(ARITHMETIC, fuse="epilogue", kept=("conv",))
    assert f"Half program {arithmetic.words} Reference" in words(page(report([item(0)], arithmetic=arithmetic)))


def test_what_was_not_recorded_is_said():
    bare = Environment(versions={}, device="cpu", flags={})
    assert "The command was not recorded" in words(page(report([item(0)], environment=bare)))
    left = report([item(0, bound=0.5, measured_error=0.75)])
    assert "A ratio above 1 means that a run left the bound" in words(page(left))


EVIL = "</td></title></style></script><script>alert(1)</script><img src=x onerror='alert(2)'>\"'><svg onload=alert(3)>&lt;b&gt;\x00\u202e"


def hostile(text):
    """A report with the text in every place that takes one."""
    environment = Environment(versions={f"torch{text}": text}, device=text, flags={f"run{text}": text, "command": text})
    arithmetic = msgspec.structs.replace(
        ARITHMETIC, storage=f"b{text}", accumulate=text, order=text, reference=text, assumptions=(text, text)
    )
    inputs = [item(0, "observed", reason=text, method=text), item(1)]
    nodes = tuple(
        msgspec.structs.replace(node, name=text, operator=text, source=f"s{text}", format=f"f{text}") for node in profile(3).nodes
    )
    return report(
        inputs,
        model=ModelInfo(path=text, sha256="a" * 64, arch=text, parameters=1),
        data=DataInfo(name=text, split=f"s{text}", inputs=2, sha256="b" * 64),
        arithmetic=arithmetic,
        method=text,
        environment=environment,
        profile=profile(3, nodes=nodes),
        pictures=(Picture(index=0, png=DOT, made=text),),
    )


def test_no_text_of_a_report_becomes_markup():
    plain, evil = parsed(page(hostile("x"))), parsed(page(hostile(EVIL)))
    assert evil.elements == plain.elements
    assert not evil.wrong
    assert Counter(name for name, _ in evil.elements)["script"] == 1
    assert "\x00" not in page(hostile(EVIL))
    assert "\u202e" not in page(hostile(EVIL))
    assert "".join(evil.text).count("<script>alert(1)</script>") > 20


def test_children_and_attributes_are_escaped():
    assert tag("p", "<b>", Html("<i>x</i>"), None, ["&", ["'"]], title='"', hidden=True, id=None, data_x=1.5) == (
        '<p title="&quot;" hidden data-x="1.5">&lt;b&gt;<i>x</i>&amp;&#x27;</p>'
    )
    assert tag("meta") == "<meta>"
    assert tag("p", "a\x1b[1m\ud800b") == "<p>a\ufffd[1m\ufffdb</p>"


LONG = "the bound does not exclude overflow in the half program at node 'convolution_17' (conv2d, /usr/lib/python3/site-packages/net.py:1234: x)"


@pytest.mark.parametrize("reason", ["the bound does not stay below the margin", LONG])
def test_ten_thousand_inputs_fit(reason):
    """The worst case: none is certified, so all are drawn and listed, with as many pictures as there is room for."""
    inputs = [drawn(i, "observed", reason=reason) for i in range(10_000)]
    pictures = tuple(Picture(index=i, png="iVBORw0KGgo" + "A" * 5000, made="bytes as they are") for i in range(200))
    start = time.process_time()
    text = page(report(inputs, pictures=pictures))
    assert time.process_time() - start < 10
    assert len(text.encode()) < 3_000_000
    assert text.count("<tr><th scope=row>") == 10_000
    assert (LONG[:60] in text) == (reason == LONG)
    assert LONG not in text


def test_every_input_that_is_not_certified_is_drawn_and_listed():
    counts = {"proved": 2500, "observed": 600, "flipped": 7, "undecided": 5, "invalid": 3}
    sample = report(some_inputs(counts))
    text = page(sample)
    drawn = [d.count("M") for d in re.findall(r'<path d="([^"]*)" class="mark observed"', text)]
    assert drawn == [600, 1]  # and the legend
    assert {kind: text.count(f'class="mark {kind}"><title>') for kind in ("flipped", "undecided", "invalid")} == {
        "flipped": 7,
        "undecided": 5,
        "invalid": 3,
    }
    cells = [d for d, _ in re.findall(r'<path d="([^"]*)" class="(cell . mark proved)"', text)]
    assert 100 < sum(d.count("M") for d in cells) < 2500
    rows = shown_inputs(sample.inputs)
    assert [i.verdict for i in rows[:10]] == ["flipped"] * 7 + ["invalid"] * 3
    assert len(rows) == 615 + MOST_CERTIFIED
    shown, hidden = rows[615:], {i.index for i in sample.inputs} - {i.index for i in rows}
    assert max(i.lower_margin for i in shown) <= min(sample.inputs[index].lower_margin for index in hidden)


def test_pictures_end_where_the_room_ends():
    size = MOST_PICTURE_CHARACTERS // 3
    pictures = [Picture(index=i, png="iVBORw0KGgo" + "A" * (size - 11), made="m") for i in range(5)]
    assert list(shown_pictures(pictures)) == [0, 1, 2]
    inputs = [item(i, "observed") for i in range(5)]
    assert "pictures of 3 of the 5 inputs" in words(page(report(inputs, pictures=tuple(pictures))))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([0, 0], [0, 0]), ([1, 3], [25, 75]), ([9999, 1, 0], [80, 20, 0]), ([1, 1, 9998], [20, 20, 60]), ([5], [100])],
)
def test_widths_are_shares_that_can_be_seen(counts, expected):
    assert widths(counts, 100, 20) == pytest.approx(expected)


TICKS = [
    ([0.03, 0.5], (-2, 0), ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]),
    ([1e-6, 2.0], (-6, 1), ["10⁻⁶", "10⁻⁵", "10⁻⁴", "0.001", "0.01", "0.1", "1", "10"]),
    ([1e-30, 1e30], (-30, 30), ["10⁻³⁰", "10⁻²²", "10⁻¹⁴", "10⁻⁶", "100", "10¹⁰", "10¹⁸", "10²⁶"]),
    ([2e5, 3e5], (5, 6), ["10⁵", "2·10⁵", "5·10⁵", "10⁶"]),
    ([0.0, 1000.0], (3, 4), ["1,000", "2,000", "5,000", "10⁴"]),
    ([], (-1, 0), ["0.1", "0.2", "0.5", "1"]),
]


@pytest.mark.parametrize(("values", "ends", "names"), TICKS)
def test_scales_span_decades(values, ends, names):
    scale = LogScale.over(values, 0, 100)
    assert (scale.low, scale.high) == ends
    assert [name for _, name in scale.ticks] == names
    places = [place for place, _ in scale.ticks]
    assert places == sorted(places)
    assert all(0 <= place <= 100 for place in places)
    assert (scale.place(0), scale.place(10.0 ** ends[0]), scale.place(10.0 ** ends[1])) == (0, 0, 100)


def test_ratios_name_the_largest():
    inputs = [item(i, measured_error=e, bound=b) for i, (e, b) in enumerate([(0.0, 1.0), (0.5, 1.0), (0.5, 1.0), (None, 1.0), (0.1, 0.0)])]
    found = ratios(report(inputs), "bound", "n", "k")
    assert (found.values, found.largest, found.zeros) == ((0.0, 0.5, 0.5), 1, 1)
    assert ratios(report(inputs), "linearised_worst", "n", "k") is None

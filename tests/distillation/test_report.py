"""The page of a run: whole, self-contained, true to the run, and alive in a browser."""

import base64
import html
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from bilevel_distillation import DistilledSet, RunConfig, export, report, resolve
from bilevel_distillation._artifacts._folder import RunFolder
from bilevel_distillation._artifacts._history import Snapshot
from bilevel_distillation.data import Preprocessor

VOID = {"meta", "link", "input", "img", "br", "hr"}
NASTY = ("<script>alert('a')</script>", 'say "yes" & go', "é | {{ 7 * 7 }}")
SOLVES = {"inner_error": 2e-3, "adjoint_error": 4e-3, "inner_steps": 9, "adjoint_steps": 7,
          "implicit_share": 0.7}  # fmt: skip


class Page(HTMLParser):
    """A page taken apart; wrong nesting raises."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), (tag, attributes)
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        self.text[inside] = self.text.get(inside, "") + data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    @property
    def words(self):
        hidden = ("style", "script")
        return " ".join(" ".join(t for k, t in self.text.items() if k not in hidden).split())


def make_run(
    path, *, names=("cat", "dog"), ipc=1, shape=(8, 8, 1), finished=True, history=(0, 4),
    solves=SOLVES, seed=0, **settings,
):  # fmt: skip
    """A run's folder as a run of eight iterations leaves it, filled with noise."""
    rng = np.random.default_rng(seed)
    folder = RunFolder(path)
    config = RunConfig(dataset="noise", ipc=ipc, iterations=8, out=path, zca=False)
    config = resolve(replace(config, **settings), shape, len(names))
    folder.claim(config)
    preprocessor = Preprocessor.fit(
        rng.integers(0, 256, (20, *shape), np.uint8), zca=bool(config.zca)
    )
    folder.keep_preprocessor(preprocessor)
    n = ipc * len(names)
    distilled = DistilledSet(
        images=rng.normal(size=(n, *shape)).astype(np.float32),
        labels=rng.normal(size=(n, len(names))).astype(np.float32),
        classes=np.repeat(np.arange(len(names), dtype=np.int32), ipc),
        class_names=names,
        preprocessor=preprocessor,
        flip=bool(config.flip),
        provenance={"iterations": 8},
    )
    for iteration in (*history, *([8] if finished and history else [])):
        folder.history.keep(Snapshot.of(distilled, iteration))
    folder.append_metrics([{"iteration": 0, "seconds": 0.0, "test_accuracy": 0.25}])
    folder.append_metrics(
        {"iteration": i, "seconds": 2.0 * i, "loss": 2 / i, "accuracy": 0.5} | solves
        for i in range(1, 9 if finished else 6)
    )
    if finished:
        distilled.save_npz(folder.distilled)
        results = {"distilled": [0.5, 0.625, 0.75], "random_subset": [0.25, 0.375, 0.5]}
        folder.results.write_text(json.dumps(results))
    return folder


def page_of(folder, **how):
    text = report(folder.path, **how).read_text(encoding="utf-8")
    return Page(text), text


def sheets(text):
    """The pictures that the style sheet holds, one for each moment."""
    import PIL.Image

    found = re.findall(r"\.pixels \{ background-image: url\(data:image/png;base64,([^)]+)\)", text)
    for data in found:
        with PIL.Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            pixels = np.asarray(picture)
        yield pixels if pixels.ndim == 3 else pixels[..., None]


KINDS = {
    "gray": dict(),
    "colour": dict(names=("a", "b", "c"), ipc=3, shape=(8, 8, 3), zca=True, flip=True),
    "many": dict(names=tuple(f"class {i}" for i in range(200)), shape=(16, 16, 3)),
    "large": dict(shape=(128, 128, 3), ipc=2),
    "unfinished": dict(finished=False),
    "older": dict(history=()),
    "fresh": dict(finished=False, history=()),
    "nasty": dict(names=NASTY, dataset="<b>data</b> & 'co'"),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp(request.param) / "run", **KINDS[request.param])
    return request.param, *page_of(folder)


def test_a_page_is_well_formed(kind):
    _, page, text = kind
    assert text.startswith("<!doctype html>")
    assert len(set(page.ids)) == len(page.ids)
    pointed = re.findall(r'(?:url\(#|href="#|for=")([^)"]+)', text)
    assert set(pointed) <= set(page.ids)
    assert all("alt" in image for image in page.all("img"))
    for tag, attributes in page.tags:
        if attributes.get("role") == "img":
            assert attributes["aria-label"].strip(), tag


def test_a_page_loads_nothing(kind):
    _, page, text = kind
    for _, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                assert value.startswith(("data:", "#")), (name, value)
    assert "@import" not in text
    for place in re.findall(r"url\(\s*['\"]?([^)]{0,9})", text):
        assert place.startswith(("data:", "#")), place
    assert "http:" not in text and "https:" not in text


def test_what_is_not_there_is_not_promised(kind):
    name, page, text = kind
    headings = page.text["h2"]
    unfinished = name in ("unfinished", "fresh")
    assert ("This run is not finished:" in text) == unfinished
    assert ("Results" in headings) == ("Train on it" in headings) == (not unfinished)
    if unfinished:
        assert "5 of 8 meta-iterations are done" in page.words
        assert "classified 25.0 % of the held-out images right" in page.words
    slider = page.all("input")
    assert bool(slider) == bool(page.all("script")) == (name not in ("older", "fresh"))
    assert all(one["data-total"] == "8" for one in slider)
    assert len(list(sheets(text))) == {"older": 1, "fresh": 0, "unfinished": 2}.get(name, 3)
    assert "The learned labels" in headings or name == "fresh"


def test_names_are_shown_and_not_obeyed(tmp_path):
    page, _ = page_of(make_run(tmp_path / "run", names=NASTY, dataset="a/<b>data</b> & 'co'"))
    assert len(page.all("script")) == 1 and "alert" not in page.text["script"]
    assert not page.all("b") or "data" not in page.text["b"]
    for name in NASTY:
        assert name in page.text["figcaption"] and name in page.text["th"] + page.text["span"]
        assert any(tag.get("aria-label") == name for tag in page.all("span"))
    assert "49" not in page.text["figcaption"]
    assert "b> & 'co', distilled" in page.text["h1"]


def test_the_images_are_there_pixel_for_pixel_at_each_moment(tmp_path):
    folder = make_run(tmp_path / "run", names=("a", "b", "c"), ipc=2, shape=(5, 9, 3))
    page, text = page_of(folder)
    kept = folder.history.read()
    assert page.all("input")[0]["data-iterations"] == "0 4 8"
    styles = [tag["style"] for tag in page.all("span") if tag.get("role") == "img"]
    for snapshot, sheet in zip(kept, sheets(text), strict=True):
        for image, style in zip(snapshot.images, styles[:6], strict=True):
            wide, high, x, y = (float(v) / 100 for v in re.findall(r"([\d.]+)%", style))
            assert abs(wide * 9 - sheet.shape[1]) < 1e-3
            assert abs(high * 5 - sheet.shape[0]) < 1e-3
            left, top = round(x * (sheet.shape[1] - 9)), round(y * (sheet.shape[0] - 5))
            np.testing.assert_array_equal(sheet[top : top + 5, left : left + 9], image)


def test_figures_are_those_of_the_run(tmp_path):
    folder = make_run(tmp_path / "run")
    evaluations = [
        {"network": "resnet18", "norm": "batch", "distilled": [0.4], "random_subset": [0.5]},
        {"network": "vgg<11>", "norm": "none", "distilled": [0.3, 0.4]},
    ]
    folder.evaluations.write_text(json.dumps(evaluations))
    page, text = page_of(folder)
    assert "62.5" in page.text["b"] and "± 10.2" in text
    assert "That is 25.0 points more" in page.words
    rows = re.findall(r'<tr><th scope="row">(.*?)</tr>', text[text.index('id="results"') :], re.S)
    rows = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]
    assert rows == [
        "convnet, norm: none 62.5 ± 10.2 % 37.5 ± 10.2 % +25.0 3",
        "resnet18, norm: batch 40.0 % 50.0 % −10.0 1",
        "vgg&lt;11&gt;, norm: none 35.0 ± 5.0 % – – 2",
    ]
    said = [tag["aria-label"] for tag in page.all("div") if tag.get("role") == "img"]
    assert len(said) == 5
    assert "outer batch (training images): from 2 at iteration 1 to 0.25 at iteration 8" in said[1]
    assert "random subset of the same size: 37.5" in said[0]
    assert "to 62.5 at iteration 8" in said[0]
    folder.evaluations.write_text("[1]")
    with pytest.raises(ValueError, match=r"evaluations.json' is not a list .*: delete it"):
        report(folder.path)


def test_plots_follow_what_was_recorded(tmp_path):
    def titles(name, **how):
        page, _ = page_of(make_run(tmp_path / name, **how))
        said = [tag["aria-label"].split(".")[0] for tag in page.all("div") if "aria-label" in tag]
        return " ".join(said), page.words

    said, words = titles("frepo", solves={})
    assert "Outer loss" in said and "solve" not in said and "How well" not in words
    said, words = titles("cholesky", solves=dict.fromkeys(SOLVES, 0.0) | {"implicit_share": 0.5})
    assert "Implicit share" in said and "Steps" not in said and "error" not in said
    assert "Cholesky" in words
    said, words = titles("rig", solves={"inner_gradient_norm": 0.1, "adjoint_residual": 0.02})
    assert "left over" in said and "Steps" not in said and "Cholesky" not in words


def test_colours_of_plots_are_those_of_the_style_sheet(tmp_path):
    _, text = page_of(make_run(tmp_path / "run"))
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.S))
    assert not re.search(r"#[0-9a-f]{6}\b(?!-)", drawn)
    used, known = (set(re.findall(p, t)) for p, t in ((r"var\((--\w+)\)", drawn),
                                                      (r"(--\w+):", text)))  # fmt: skip
    assert {"--accent", "--warm", "--soft", "--line"} == used <= known


def test_settings_are_all_there_and_those_not_default_are_marked(tmp_path):
    folder = make_run(tmp_path / "run", shape=(8, 8, 3), zca=True, flip=True, seed=3, rtol=0.5)
    page, text = page_of(folder)
    config = json.loads(folder.config.read_text())
    names = (*(config.keys() - {"evaluation"}), *(f"evaluation.{n}" for n in config["evaluation"]))
    for name in names:
        assert text.count(f"<dt>{name}</dt>") == 1
    changed = re.findall(r'class="changed">\s*<dt>(.*?)</dt>\s*<dd>(.*?)</dd>', text, re.S)
    assert {name: re.sub(r"<[^>]+>", "", value) for name, value in changed} == {
        "dataset": "noise default digits",
        "iterations": "8 default 5000",
        "rtol": "0.5 default 0.01",
        "flip": "yes default no",  # of images that are not known to allow it
    }


def test_equal_runs_give_equal_pages_and_nothing_is_left_beside_them(tmp_path):
    folder = make_run(tmp_path / "run")
    before = {p.name for p in folder.path.iterdir()}
    one, other = (report(folder.path, out=tmp_path / "sub" / name) for name in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()
    assert {p.name for p in folder.path.iterdir()} == before
    assert report(folder.path) == folder.path / "report.html"
    assert sorted(p.name for p in one.parent.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(("count", "ipc", "shape", "megabytes"), [
    (10, 10, (28, 28, 1), 2), (200, 1, (64, 64, 3), 7),
])  # fmt: skip
def test_even_noise_makes_a_page_of_sensible_size(tmp_path, count, ipc, shape, megabytes):
    names = tuple(f"class {i}" for i in range(count))
    folder = make_run(tmp_path / "run", names=names, ipc=ipc, shape=shape, history=range(8))
    page, text = page_of(folder)
    assert len(text) < megabytes * 1e6
    shown = len([tag for tag in page.all("span") if tag.get("role") == "img"])
    assert (shown == 100) == (count == 10)
    assert f"{shown} of {count * ipc} images are shown" in page.words or shown == count * ipc


@pytest.mark.parametrize("kind", ["plain", "whitened", "whitened in parts"])
def test_the_code_on_the_page_runs_in_the_folder(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    flip_and_zca = kind != "plain"
    if kind == "whitened in parts":
        monkeypatch.setattr("bilevel_distillation.data._preprocess._MOST", 20)
    how = dict(shape=(4, 6, 3), zca=flip_and_zca, flip=flip_and_zca, depth=2)
    folder = make_run(tmp_path / "run", **how)
    distilled = DistilledSet.load_npz(folder.distilled)
    assert distilled.preprocessor.stride == {"plain": None, "whitened": 1}.get(kind, 2)
    export(distilled, folder.dataset, "hf")
    page, _ = page_of(folder)
    numpy, huggingface, torch = re.findall(r"import .*?(?=import \w+ as|import torch|\Z)",
                                           page.text["code"], re.S)[:3]  # fmt: skip
    monkeypatch.chdir(folder.path)
    for code in (numpy, huggingface):
        names = {}
        exec(code, names)
        n = len(distilled.images)
        assert len(names["images"]) == len(names["labels"]) == n * (1 + flip_and_zca)
        np.testing.assert_array_equal(names["images"][:n], distilled.images)
        np.testing.assert_array_equal(names["labels"][-n:], distilled.labels)
        if flip_and_zca:
            np.testing.assert_array_equal(names["images"][n:], distilled.images[:, :, ::-1])
        if "preprocess" in names:
            pictures = np.random.default_rng(1).integers(0, 256, (9, 4, 6, 3), np.uint8)
            ours = distilled.preprocessor(pictures)
            np.testing.assert_allclose(names["preprocess"](pictures), ours, atol=2e-5)
    compile(torch, "torch", "exec")


def test_mistakes_are_said(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        report(tmp_path)
    folder = make_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"out=.* is a folder: give a file"):
        report(folder.path, out=tmp_path)


@pytest.fixture(scope="module")
def chromium():
    """Runs headless Chromium, which finds no network, on a page, and returns what it printed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium is installed here (Debian's package is `chromium`)")

    def start(page, folder, *what):
        command = [
            program, "--headless", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []), *what, page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start


def test_the_slider_lives_in_a_browser(chromium, tmp_path):
    page = report(make_run(tmp_path / "run", names=NASTY).path)
    dom = chromium(page, tmp_path, "--dump-dom")
    (slider,) = re.findall(r"<input[^>]+>", dom)
    assert 'aria-valuetext="after 8 of 8 iterations"' in slider
    assert ">after 8 of 8 iterations</output>" in dom
    assert re.search(r'<div class="when">', dom)  # no longer hidden

    # As a hand would: to the first moment.
    moved = tmp_path / "moved.html"
    hand = """<script>
      slider.value = 0; slider.dispatchEvent(new Event("input"));
      const root = document.documentElement;
      root.dataset.drawn = getComputedStyle(document.querySelector(".pixels")).backgroundImage
        .slice(0, 20);
    </script></body>"""
    moved.write_text(page.read_text(encoding="utf-8").replace("</body>", hand), encoding="utf-8")
    dom = chromium(moved, tmp_path, "--dump-dom")
    assert re.search(r'<div id="frames"[^>]* data-frame="0"', dom)
    assert ">at the start</output>" in dom
    assert "data:image/png" in re.findall("data-drawn=.{30}", dom)[0]


@pytest.mark.parametrize("name", ["colour", "many", "large", "nasty"])
def test_nothing_hangs_out_of_a_phone(chromium, tmp_path, name):
    how = KINDS[name] | {"dataset": "a_data_set_with_a_name_that_is_longer_than_a_line_is"}
    page = report(make_run(tmp_path / "run", **how).path).read_text(encoding="utf-8")
    frame = tmp_path / "frame.html"  # a window would not be as narrow
    frame.write_text(
        f"""<!doctype html><meta charset=utf-8><body>
        <iframe style="width:360px;border:0" srcdoc="{html.escape(page)}"></iframe><script>
        addEventListener("load", () => {{
          const root = document.querySelector("iframe").contentDocument.documentElement;
          document.body.dataset.sizes = [root.clientWidth, root.scrollWidth];
        }});
        </script></body>""",
        encoding="utf-8",
    )
    (sizes,) = re.findall(r'data-sizes="(\d+),(\d+)"', chromium(frame, tmp_path, "--dump-dom"))
    assert sizes[0] == sizes[1] and 340 <= int(sizes[0]) <= 360


def test_a_browser_prints_it_with_a_strip_in_place_of_the_slider(chromium, tmp_path):
    page = report(make_run(tmp_path / "run").path)
    chromium(page, tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    printed = re.search(r"@media print \{(.*)\n\}", page.read_text(encoding="utf-8"), re.S).group(1)
    assert ".strips { display: grid" in printed and ".when { display: none" in printed


def test_a_page_takes_the_place_of_nothing_but_a_page(tmp_path):
    folder = make_run(tmp_path / "run")
    first = report(folder.path).read_text(encoding="utf-8")
    assert report(folder.path).read_text(encoding="utf-8") == first
    (tmp_path / "thesis.html").write_text("<p>years of work")
    (tmp_path / "link.html").symlink_to(tmp_path / "thesis.html")
    for name in ("thesis.html", "link.html"):
        with pytest.raises(ValueError, match=f"{name}' is (a link|no page).* is not replaced"):
            report(folder.path, tmp_path / name)
    assert (tmp_path / "thesis.html").read_text() == "<p>years of work"


@pytest.mark.parametrize(
    ("name", "content"),
    [("results.json", '{"distilled": [NaN]}'), ("results.json", '{"distilled": ["0.5"]}'),
     ("results.json", '{"distilled": []}'), ("results.json", '{"distilled": [50.0]}'),
     ("evaluations.json", '[{"distilled": [0.5]}]'), ("evaluations.json", '{"a": 1}'),
     ("attack.json", '{"settings": {"members": "many"}}'), ("config.json", '{"ipc": "x"}'),
     ("history/000004.npz", "PK"), ("distilled.npz", "PK"), ("metrics.jsonl", '{"loss": 1}\n')],
)  # fmt: skip
def test_what_a_file_should_not_hold_is_said_by_its_name(tmp_path, name, content):
    folder = make_run(tmp_path / "run")
    (folder.path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}.* is (damaged|not) "):
        report(folder.path)

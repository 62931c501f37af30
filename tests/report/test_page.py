"""What a reader, an archive and a firewall may count on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anomvae.bundle import Column, LeftOut
from anomvae.report import ReportContents, render

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., ReportContents]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}
NASTY = "<script>alert('x')</script> & \"quoted\""


DIGEST = """
import hashlib, importlib.util, sys
spec = importlib.util.spec_from_file_location("plant", sys.argv[1])
sys.modules["plant"] = plant = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plant)
from anomvae.report import render
print(hashlib.sha256(render(plant.Plant().contents()).encode()).hexdigest())
"""


class Balance(HTMLParser):
    """Checks that every element that opens closes, and gathers text and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def parsed(html: str) -> Balance:
    page = Balance()
    page.feed(html)
    page.close()
    return page


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", "".join(parsed(html).text))


@pytest.fixture(scope="module", params=["labelled", "unlabelled"])
def page(request: pytest.FixtureRequest) -> str:
    contents: ReportContents = request.getfixturevalue(f"{request.param}_contents")
    return render(contents)


def test_the_file_asks_nothing_of_any_network(page: str) -> None:
    assert not re.search(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:|//)""", page, re.IGNORECASE)
    assert not re.search(r"url\(|@import|<script|<iframe|<object|<link[^>]+stylesheet", page, re.IGNORECASE)
    assert "default-src 'none'" in page


def test_every_element_that_opens_closes_and_no_id_occurs_twice(page: str) -> None:
    structure = parsed(page)
    assert structure.wrong == []
    assert structure.open == []
    assert len(structure.ids) == len(set(structure.ids))


def test_every_link_within_the_page_has_its_target(page: str) -> None:
    structure = parsed(page)
    targets = {attributes["href"] for tag, attributes in structure.seen if tag == "a"}
    assert targets <= {f"#{each}" for each in structure.ids}


def test_every_drawing_speaks_and_every_table_has_heads(page: str) -> None:
    seen = parsed(page).seen
    drawings = [attributes for tag, attributes in seen if tag == "svg"]
    assert drawings
    assert all(each.get("role") == "img" and each.get("aria-label") for each in drawings)
    heads = [attributes for tag, attributes in seen if tag == "th"]
    assert all(each.get("scope") in {"col", "row"} for each in heads)


def test_the_same_contents_give_the_same_bytes_in_every_process(labelled_contents: ReportContents) -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST, str(Path(__file__).with_name("conftest.py"))],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "7")
    }
    assert len(digests) == 1
    assert render(labelled_contents) == render(labelled_contents)


def test_the_first_screen_says_rate_threshold_rows_columns_and_how_far_to_trust_it(page: str) -> None:
    first = text_of(page.partition('<section id="learned"')[0]).replace("\N{NARROW NO-BREAK SPACE}", " ")
    for said in ("pump-station-7", "at most 1 %", "2,400 rows", "14 columns", "Score threshold", "nats", "checks hold"):
        assert said in first


def test_warnings_come_before_every_figure_and_table(labelled_contents: ReportContents) -> None:
    html = render(labelled_contents)
    at = html.index("drift over the training period: flow_m3_h &amp; motor_current_A")
    assert at < html.index('class="tile"') < min(html.index("<svg"), html.index("<table"))


def test_a_page_without_warnings_has_no_warnings_box(unlabelled_contents: ReportContents) -> None:
    assert "read first" not in render(unlabelled_contents)


def test_labels_bring_ranking_curves_and_without_them_nothing_speaks_of_anomalies_found(
    labelled_contents: ReportContents, unlabelled_contents: ReportContents
) -> None:
    with_labels, without = text_of(render(labelled_contents)), text_of(render(unlabelled_contents))
    for said in ("ROC", "Precision and recall", "Which separate", "60 labelled anomalies against 2,000 normal rows"):
        assert said in with_labels
        assert said not in without


@pytest.mark.parametrize("decision", ["elbo", "reconstruction", "both"])
def test_only_the_thresholds_that_decide_stand_on_the_first_screen(make_contents: Make, decision: str) -> None:
    tiles = render(make_contents(decision=decision)).partition('<section id="learned"')[0]
    assert ("Score threshold" in tiles) == (decision != "reconstruction")
    assert ("Reconstruction threshold" in tiles) == (decision != "elbo")


def test_names_of_columns_models_and_categories_are_text_and_never_markup(make_contents: Make) -> None:
    columns = (
        Column(NASTY, "numeric", NASTY, low=0.0, high=1.0),
        Column("kind", "categorical", "string", categories=(NASTY, "b")),
    )
    html = render(make_contents(columns=columns, name=NASTY, warnings=(NASTY,)))
    assert "<script" not in html
    assert NASTY in text_of(html)
    assert parsed(html).wrong == []


def test_reasons_of_left_out_columns_are_said(make_contents: Make) -> None:
    text = text_of(render(make_contents()))
    assert "an identifier: every value occurs once" in text
    assert LeftOut("firmware", "it is constant").reason in text


def test_two_hundred_columns_show_thirty_and_fold_the_rest(
    make_contents: Make, columns_of_width: Callable[..., tuple[Column, ...]]
) -> None:
    html = render(make_contents(columns=columns_of_width(200)))
    assert "170 more columns" in html
    structure = parsed(html)
    assert structure.wrong == []


@pytest.mark.parametrize("n", [60, 200])
def test_wide_tables_stay_below_two_megabytes(
    make_contents: Make, columns_of_width: Callable[..., tuple[Column, ...]], n: int
) -> None:
    html = render(make_contents(columns=columns_of_width(n), rows=(5000, 4000, 6000), labelled=500, latent=64))
    assert len(html.encode()) < 2_000_000


def test_the_command_to_go_on_with_quotes_the_name_for_the_shell(make_contents: Make) -> None:
    assert "anomvae score DATA --model 'two words'" in text_of(render(make_contents(name="two words")))


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("labelled", [0, 60])
def test_a_browser_draws_it_without_an_error(make_contents: Make, tmp_path: Path, labelled: int) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(make_contents(labelled=labelled)), encoding="utf-8")
    shown = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--log-level=0",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "CONSOLE" not in shown.stderr
    assert shown.stdout.count("<svg") == file.read_text(encoding="utf-8").count("<svg")
    assert shown.stdout.rstrip().endswith("</html>")

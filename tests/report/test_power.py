from __future__ import annotations

import re
from importlib.resources import files
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from anomvae.bundle import Column
from anomvae.evaluation.power import measure_power
from anomvae.evaluation.power_result import PowerResult, PowerSettings
from anomvae.report.power import power_section


def result_of(columns: tuple[Column, ...], *, nervous: bool = False) -> PowerResult:
    """Power of a limit at 3 on the first number column."""
    draw = np.random.default_rng(0)
    d = sum(column.is_numeric for column in columns)
    numeric = draw.normal(size=(200, d)).astype(np.float32)
    categorical = draw.integers(0, 2, (200, len(columns) - d))
    return measure_power(
        lambda numbers, codes, of: (np.abs(numbers) > 3)[:, :1].any(axis=1) | (nervous & (of % 3 == 0)),
        numeric,
        categorical,
        columns,
        PowerSettings(0.02, rows=100, budget_rows=10_000),
    )


def number(name: str) -> Column:
    return Column(name, "numeric", "double", low=-4.0, high=4.0, mean=0.0, std=1.0)


STATE = Column("valve <b>&", "categorical", "string", categories=("open", "shut"))


@pytest.fixture
def section() -> str:
    return str(power_section(result_of((number("flow"), STATE, number("level")))))


def test_the_section_is_sound_and_safe_html(section: str) -> None:
    root = ET.fromstring(re.sub(r"<wbr>", "", section))  # noqa: S314  our own page
    assert root.tag == "section"
    assert root.get("id") == "power"
    assert "<b>" not in section
    assert "valve" in "".join(root.itertext())
    assert "<script" not in section
    assert not re.search(r'(src|href)="', section)


def test_blind_columns_are_named_and_marked(section: str) -> None:
    text = re.sub(r"<[^>]+>", "", section)
    assert "Blind to 1 column of numbers" in text
    assert "&#39;level&#39;" in text
    assert "Blind to 1 column of categories" in text
    assert section.count("verdict-tag bad") == 2


def test_every_column_of_numbers_has_its_curve_and_figures(section: str) -> None:
    curves = re.findall(r'<polyline points="([^"]+)"', section)
    assert len(curves) == 2
    ends = [float(points.split()[-1].split(",")[1]) for points in curves]
    assert min(ends) < 6  # the guarded column reaches the top
    assert max(ends) > 30  # the other stays at the floor
    assert "&gt; 16" in section
    assert "caught half of the time from" in section


def test_styles_are_those_of_the_page(section: str) -> None:
    style = (files("anomvae.report") / "style.css").read_text(encoding="utf-8")
    used = {name for group in re.findall(r'class="([^"]+)"', section) for name in group.split()}
    assert {name for name in used if f".{name}" not in style} == set()


def test_rows_that_alarm_untouched_are_warned_of_and_others_are_not(section: str) -> None:
    warned = str(power_section(result_of((number("flow"),), nervous=True)))
    assert 'class="warnings"' in warned
    assert 'class="warnings"' not in section


def test_many_columns_are_folded_and_few_kinds_leave_no_empty_table() -> None:
    wide = str(power_section(result_of(tuple(number(f"x{at}") for at in range(45)))))
    assert "25 more columns" in wide
    assert wide.count('<tr><th scope="row"') == 90
    assert "Faults in categories" not in wide
    alone = str(power_section(result_of((STATE,))))
    assert "Faults in categories" in alone
    assert "Shifts" not in alone
    assert "Other faults in numbers" not in alone


def test_the_same_result_gives_the_same_text(section: str) -> None:
    assert section == str(power_section(result_of((number("flow"), STATE, number("level")))))

"""The table of models: who is served, who is not, who is not yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from anomvae.errors import StoppingError, UnknownModelError
from anomvae.serving.models import ModelTable


def served(name: str, version: str = "1") -> Any:
    return SimpleNamespace(name=name, version=version)


def test_the_first_name_is_the_default() -> None:
    table = ModelTable(["press", "pump"])
    press, pump = served("press"), served("pump")
    table.put(pump)
    complete = [table.complete]
    with pytest.raises(StoppingError):
        table.get("press")
    table.put(press)
    assert [*complete, table.complete] == [False, True]
    assert (table.get(""), table.get("press"), table.get("pump")) == (press, press, pump)
    assert table.current == (press, pump)


def test_only_the_version_in_service_is_served_and_the_default_has_versions_too() -> None:
    table = ModelTable(["press"])
    table.put(served("press", "1"))
    table.put(served("press", "2"))
    assert table.get("press", "2") is table.get("", "2") is table.get("press")
    for name in ("press", ""):
        with pytest.raises(UnknownModelError, match="the one in service is 2"):
            table.get(name, "1")


@pytest.mark.parametrize("name", ["nobody", "Press", "press ", "../press"])
def test_another_name_is_told_which_there_are_but_not_itself(name: str) -> None:
    table = ModelTable(["press", "pump"])
    with pytest.raises(UnknownModelError, match="there are press, pump"):
        table.get(name)


def test_a_challenger_is_never_served() -> None:
    table = ModelTable(["press"])
    table.put(served("press", "1"))
    table.put_challenger("press", served("press", "2"))
    assert table.get("press").version == "1"
    assert table.challenger("press") is not None
    table.put_challenger("press", None)
    table.put_challenger("press", None)
    assert table.challenger("press") is None


def test_a_refusal_lists_few_of_many_names() -> None:
    table = ModelTable([f"m{number}" for number in range(20)])
    with pytest.raises(UnknownModelError, match=r"m6, m7 and 12 more$"):
        table.get("other")

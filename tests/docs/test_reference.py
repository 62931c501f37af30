from __future__ import annotations

from pathlib import Path

import typer.main

import anomvae.errors
from anomvae.cli.app import app
from pipelines.reference import PAGE, page

ROOT = Path(__file__).parent.parent.parent


def test_the_reference_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_command_option_and_error_stands_in_the_reference() -> None:
    text = PAGE.read_text(encoding="utf-8")
    root = typer.main.get_command(app)

    def walk(command: object, path: str) -> None:
        for name, child in getattr(command, "commands", {}).items():
            walk(child, f"{path} {name}")
        if not getattr(command, "commands", None):
            assert f"`{path}`" in text
            for parameter in command.params:  # type: ignore[attr-defined]
                for option in parameter.opts if parameter.param_type_name == "option" else []:
                    assert f"`{option}`" in text, f"{path} {option}"

    walk(root, "anomvae")
    for name in vars(anomvae.errors):
        if name.endswith("Error"):
            assert f"`{name}`" in text


def test_every_error_stands_in_the_tree_of_its_module() -> None:
    for name in vars(anomvae.errors):
        if name.endswith("Error"):
            assert name in (anomvae.errors.__doc__ or "")


def test_decisions_are_short() -> None:
    for path in (ROOT / "docs" / "adr").glob("*.md"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 40, path.name

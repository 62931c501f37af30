"""The notebooks are stories that run: kept without outputs, on public names alone, and executed from top to bottom."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import anomvae

NOTEBOOKS = sorted((Path(__file__).parent.parent.parent / "notebooks").glob("*.ipynb"))
PUBLIC = {*anomvae.__all__, "sklearn"}
CELL_TIMEOUT_S = 240

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code_of(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def executed(notebook: Any, folder: Path) -> Any:
    """The notebook with its outputs, run by this interpreter's kernel in a folder of its own."""
    client = NotebookClient(
        notebook, timeout=CELL_TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def private_names(source: str) -> list[str]:
    """What code takes from anomvae beyond its public names."""
    taken: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            taken += [alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("anomvae.")]
        elif isinstance(node, ast.ImportFrom) and node.module == "anomvae":
            taken += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("anomvae."):
            taken.append((node.module or "").partition(".")[2])
        elif isinstance(node, ast.Attribute):
            of_anomvae = isinstance(node.value, ast.Name) and node.value.id == "anomvae"
            taken += [node.attr] if of_anomvae or node.attr.startswith("_") else []
    return [name for name in taken if name not in PUBLIC]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@every_notebook
def test_it_is_a_valid_notebook_with_nothing_but_its_source(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert not cell.metadata, f"cell {cell.id} has metadata"
        if cell.cell_type == "code":
            assert not cell.outputs, f"cell {cell.id} has outputs"
            assert cell.execution_count is None, f"cell {cell.id} has been run"


@every_notebook
def test_it_takes_only_public_names_from_anomvae(path: Path) -> None:
    assert [name for source in code_of(read(path)) for name in private_names(source)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import anomvae\nanomvae.fit(frame)\nanomvae.load('a').score(frame)", []),
        ("from anomvae import Detector, fit\nfrom anomvae.sklearn import VAEDetector", []),
        ("import anomvae.vae.model", ["vae.model"]),
        ("from anomvae.vae.model import TableVAE", ["vae.model"]),
        ("from anomvae import vae", ["vae"]),
        ("anomvae.detector.find_bundle('a')", ["detector"]),
        ("detector._bundle", ["_bundle"]),
    ],
)
def test_the_search_for_private_names_finds_them(source: str, found: list[str]) -> None:
    assert private_names(source) == found


def test_notebooks_run_in_the_interpreter_that_runs_the_tests(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell("import os, sys\nprint(sys.executable)\nprint(os.getcwd())")
    ran = executed(nbformat.v4.new_notebook(cells=[cell]), tmp_path)
    interpreter, folder = ran.cells[0].outputs[0].text.split("\n")[:2]
    assert Path(interpreter) == Path(sys.executable)
    assert Path(folder).resolve() == tmp_path.resolve()


@every_notebook
def test_it_runs_from_top_to_bottom_without_an_error_or_a_warning(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, scratch = tmp_path / "folder", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))  # what a story keeps for its length goes with the test
    ran = executed(read(path), folder)
    outputs = [output for cell in ran.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert list(folder.iterdir()) == [], "a notebook leaves nothing in the folder it runs in"

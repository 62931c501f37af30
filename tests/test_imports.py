"""What importing costs, and what it must not pull in."""

from __future__ import annotations

import subprocess
import sys

import pytest


def in_a_fresh_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_anomvae_pulls_in_neither_torch_nor_mlflow_nor_pandas() -> None:
    code = "import sys, anomvae; print(sorted({'torch', 'mlflow', 'pandas', 'sklearn', 'onnx', 'pyarrow'} & set(sys.modules)))"
    assert in_a_fresh_process(code).strip() == "[]"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['anomvae', '--help']\n"
        "from anomvae.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'mlflow', 'pandas', 'sklearn', 'onnx', 'pyarrow', 'onnxruntime'} & set(sys.modules)))"
    )
    assert in_a_fresh_process(code).strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "module", ["anomvae.scoring", "anomvae.bundle", "anomvae.calibration", "anomvae.detector", "anomvae.data.reading"]
)
def test_the_scoring_side_imports_without_torch_pandas_onnx_and_mlflow(module: str) -> None:
    code = (
        "import sys, importlib.abc\n"
        "class Refuse(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'pandas', 'matplotlib', 'onnx', 'mlflow', 'sklearn'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"import {module}; print('fine')"
    )
    assert in_a_fresh_process(code).strip() == "fine"


def test_an_unknown_public_name_is_refused() -> None:
    import anomvae

    with pytest.raises(AttributeError, match="no attribute 'Detektor'"):
        _ = anomvae.Detektor
    assert "fit" in dir(anomvae)

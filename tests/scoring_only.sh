#!/usr/bin/env bash
# Scoring needs the core packages only: fits with the full installation, scores with one that has no torch, pandas or mlflow.
set -euo pipefail
cd "$(dirname "$0")/.."
full="$(cd "${VENV:-.venv}" && pwd)/bin"
slim="$PWD/.venv-scoring"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
stamp="$slim/.ready"

if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
    echo "setting up a virtual environment with the core packages"
    rm -rf "$slim"
    "$full/python" -m venv "$slim"
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$slim/bin/python" -m pip install -qq --constraint constraints.txt --editable .
    touch "$stamp"
fi

for package in torch pandas mlflow sklearn onnx scipy; do
    if "$slim/bin/python" -c "import $package" 2>/dev/null; then
        echo "FAILED: the scoring installation holds $package"; exit 1
    fi
done

"$full/python" - "$scratch" <<'PY'
import sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pyarrow.csv as csv
from anomvae.fitting import FitSettings, fit_bundle
from anomvae.training.settings import TrainingSettings
folder = Path(sys.argv[1])
draw = np.random.default_rng(0)
rows = pa.table({"part": [f"P{k}" for k in range(400)], "x": draw.normal(size=400), "y": draw.normal(size=400),
                 "kind": [["a", "b", None][k % 3] for k in range(400)]})
fit_bundle(rows, FitSettings(alarm_rate=0.05, training=TrainingSettings(max_steps=60)), folder / "bundle")
pq.write_table(rows, folder / "rows.parquet")
csv.write_csv(rows, folder / "rows.csv")
PY

cd "$scratch"
for format in parquet csv; do
    "$slim/bin/anomvae" score "rows.$format" --model bundle --out "slim-$format.csv"
    "$full/anomvae" score "rows.$format" --model bundle --out "full-$format.csv" 2>/dev/null
    cmp "slim-$format.csv" "full-$format.csv"
done
cmp slim-parquet.csv slim-csv.csv
"$slim/bin/anomvae" models show bundle >/dev/null
"$slim/bin/anomvae" check rows.csv >/dev/null
"$slim/bin/anomvae" doctor >/dev/null
"$slim/bin/python" - <<'PY'
import sys
import anomvae, pyarrow as pa
detector = anomvae.load("bundle")
answers = detector.score_arrow(pa.table({"x": [0.0], "y": [50.0], "kind": ["zebra"]}))
assert answers["alarm"][0].as_py() is True
assert not {"torch", "pandas", "mlflow", "onnx"} & set(sys.modules)
PY
for command in "fit rows.csv" "evaluate rows.csv --model bundle --label kind" "models list" "score rows.csv --model nobody@champion"; do
    code=0
    message=$("$slim/bin/anomvae" $command 2>&1 >/dev/null) || code=$?
    if [ "$code" != 2 ] || ! grep -q "pip install 'anomvae\[" <<<"$message"; then
        echo "FAILED: 'anomvae $command' should say which extra it needs, said ($code): $message"; exit 1
    fi
done
echo "scoring without torch, pandas and mlflow: same answers, $(du -sm "$slim" | cut -f1) MB on disk"

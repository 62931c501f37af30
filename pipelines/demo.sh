#!/usr/bin/env bash
# From a file of normal rows to a registered detector that scores rows it has never seen, on real medical data.
set -euo pipefail

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '\033[36m$ %s\033[0m\n' "$*"; "$@"; }

cd "$(dirname "$0")/.."
unset MLFLOW_TRACKING_URI  # the demo keeps to itself
rm -rf demo
mkdir demo
cd demo

say "1. Real data: scikit-learn's breast cancer table; benign biopsies are what is normal"
run python ../pipelines/demo_data.py .

say "2. What would a fit do with it, and what looks wrong?"
run anomvae check benign.parquet --alarm-rate 0.05

say "3. Fit, calibrate to 5 % false alarms, export one ONNX graph, log and register in MLflow"
run anomvae fit benign.parquet --name biopsies --alarm-rate 0.05

say "4. The registry knows it"
run anomvae models list

say "5. Score rows it has never seen, by its name in the registry"
run anomvae score unseen.csv --model biopsies@champion --out verdicts.parquet
run python ../pipelines/demo_show.py verdicts.parquet

say "6. How good is it? The labels were never shown to it"
run anomvae evaluate unseen.csv --model biopsies@champion --label malignant

say "Done. demo/models/biopsies/report.html shows what was learned; mlflow ui --backend-store-uri sqlite:///demo/mlflow.db shows the run"

#!/usr/bin/env bash
# From a file of normal rows to a registered detector that scores rows it has never seen, and a daemon that serves it, on real medical data.
set -euo pipefail

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '\033[36m$ %s\033[0m\n' "$*"; }
run() { show "$@"; "$@"; }

# A request: by curl where there is one, else by Python.
ask() {
    if command -v curl >/dev/null; then curl --silent --show-error "$@"; else python ../pipelines/demo_serve.py ask "$@"; fi
}

# Waits until the daemon has logged an event, and prints it.
event() {
    local tries=600
    until grep -s "\"event\":\"$1\"" serve.log; do
        if ! kill -0 "$daemon" 2>/dev/null || [ $((tries -= 1)) -eq 0 ]; then
            echo "the daemon did not say '$1':"
            cat serve.log
            exit 1
        fi
        sleep 0.1
    done
}

# Whatever ends the demo also ends what it has started.
daemon="" client=""
stop() {
    local running
    for running in $client $daemon; do
        kill "$running" 2>/dev/null && wait "$running" 2>/dev/null || true
    done
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

cd "$(dirname "$0")/.."
unset MLFLOW_TRACKING_URI "${!ANOMVAE_SERVE_@}"  # the demo keeps to itself
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

say "7. Serve it: HTTP and gRPC on free ports, following the registry's alias"
show "anomvae serve biopsies@champion --port 0 --grpc-port 0 --reload-every 1 --drain-delay 2 2> serve.log &"
anomvae serve biopsies@champion --port 0 --grpc-port 0 --reload-every 1 --drain-delay 2 2>serve.log &
daemon=$!
event serving
url=$(sed -n 's/.*"http":"\([^"]*\)".*/\1/p' serve.log)

say "8. Ask it: named columns for people, tensors for any client of the Open Inference Protocol"
run python ../pipelines/demo_serve.py write unseen.csv
show "curl $url/v1/models/biopsies/score --data @rows.json"
ask "$url/v1/models/biopsies/score" --data @rows.json | python ../pipelines/demo_serve.py answers
show "curl $url/v2/models/biopsies/infer --data @tensor.json"
ask "$url/v2/models/biopsies/infer" --data @tensor.json | python ../pipelines/demo_serve.py outputs

say "9. Another version becomes champion while a client sends row after row"
show "anomvae fit benign.parquet --name biopsies --alarm-rate 0.05 --seed 1 --out models/biopsies-2 | grep registered"
anomvae fit benign.parquet --name biopsies --alarm-rate 0.05 --seed 1 --out models/biopsies-2 | grep registered
show "python ../pipelines/demo_serve.py follow $url/v1/models/biopsies/score unseen.csv &"
python ../pipelines/demo_serve.py follow "$url/v1/models/biopsies/score" unseen.csv &
client=$!
run anomvae models promote biopsies@candidate
event "model reloaded"
wait "$client"
client=""

say "10. What it counted"
show "curl $url/metrics"
ask "$url/metrics" | python ../pipelines/demo_serve.py metrics

say "11. Stop it: readiness goes first, then whatever was accepted is answered"
show "kill -TERM $daemon"
kill -TERM "$daemon"
event draining
show "curl $url/v2/health/ready"
ask "$url/v2/health/ready"
echo
show "curl $url/v2/models/biopsies/infer --data @tensor.json   # still answered: those who send rows have yet to learn"
ask "$url/v2/models/biopsies/infer" --data @tensor.json | python ../pipelines/demo_serve.py outputs
ended=0
wait "$daemon" || ended=$?
daemon=""
grep '"event":"stopped"' serve.log
echo "exit code $ended"

say "12. Sensors over time: a detector of windows for two pumps (their readings are generated)"
run python ../pipelines/demo_sensors.py .
show "anomvae fit sensors.parquet --time time --by pump --window 32 --name pumps --alarm-rate 0.01 --members row"
anomvae fit sensors.parquet --time time --by pump --window 32 --name pumps --alarm-rate 0.01 --members row

say "13. Their next readings through a pipe, as they would come from Kafka or MQTT: a bearing of the south pump goes at step 400"
show "anomvae stream --model pumps@champion --from - --to - --events --quiet 20 --least 3 --no-announce < today.jsonl | python ../pipelines/demo_sensors.py show"
anomvae stream --model pumps@champion --from - --to - --events --quiet 20 --least 3 --no-announce < today.jsonl 2>stream.log |
    python ../pipelines/demo_sensors.py show

say "Done. demo/models/biopsies/report.html shows what was learned; mlflow ui --backend-store-uri sqlite:///demo/mlflow.db shows the run"

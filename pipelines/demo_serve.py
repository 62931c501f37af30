"""Asks the daemon of the demo: writes requests, sends them, and prints answers and metrics for people.

Needs the standard library alone, so that it shows what any client sees.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LABEL, IDENTIFIER = "malignant", "biopsy"
LONGEST_S = 60.0
"""How long `follow` waits for another version, in seconds."""
METRICS = (
    "anomvae_requests_total",
    "anomvae_rows_total",
    "anomvae_alarms_total",
    "anomvae_model_reloads_total",
    "anomvae_model_info",
)


def unseen_rows(path: str) -> list[dict[str, Any]]:
    """Rows of the demo's CSV without their label, two malignant and two benign ones first."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        labelled = [(row.pop(LABEL) == "True", row) for row in csv.DictReader(file)]
    rows = [
        (malignant, {name: cell if name == IDENTIFIER else float(cell) for name, cell in row.items()})
        for malignant, row in labelled
    ]
    first = [row for malignant, row in rows if malignant][:2] + [row for malignant, row in rows if not malignant][:2]
    return first + [row for _, row in rows if row not in first]


def write_requests(path: str) -> None:
    """Writes `rows.json`, rows by column name, and `tensor.json`, the same rows as a tensor of the Open Inference Protocol."""
    rows = unseen_rows(path)[:4]
    Path("rows.json").write_text(json.dumps({"records": rows, "top": 2}), encoding="utf-8")
    cells = [cell for row in rows for name, cell in row.items() if name != IDENTIFIER]
    shape = [len(rows), len(cells) // len(rows)]
    tensor = {"name": "numeric", "shape": shape, "datatype": "FP32", "data": cells}
    outputs = [{"name": name} for name in ("score", "p_value", "alarm")]
    Path("tensor.json").write_text(json.dumps({"inputs": [tensor], "outputs": outputs}), encoding="utf-8")
    print(f"rows.json: {len(rows)} rows by column name; tensor.json: the same as a {shape[0]} x {shape[1]} tensor")


def ask(url: str, file: str | None) -> None:
    """Prints the answer to a request, as curl would."""
    body = None if file is None else Path(file.removeprefix("@")).read_bytes()
    try:
        with urllib.request.urlopen(url, body, timeout=30) as reply:  # noqa: S310  the demo's own daemon
            print(reply.read().decode())
    except urllib.error.HTTPError as refused:
        print(refused.read().decode())


def show_answers(told: dict[str, Any]) -> None:
    """Prints verdicts and reasons of `/v1`."""
    print(f"{told['model']} version {told['version']}, alarm rate {told['alarm_rate']:g}:")
    for answer in told["answers"]:
        verdict = "ALARM" if answer["alarm"] else "normal"
        print(f"  {answer[IDENTIFIER]}  score {answer['score']:7.1f} nats  p {answer['p_value']:.4f}  {verdict}")
        for reason in answer["reasons"] if answer["alarm"] else ():
            print(
                f"      {reason['column']}: {reason['value']:.4g}, expected {reason['expected']:.4g} "
                f"({reason['contribution']:.1f} nats)"
            )


def show_outputs(told: dict[str, Any]) -> None:
    """Prints output tensors of V2."""
    print(f"{told['model_name']} version {told['model_version']}:")
    for output in told["outputs"]:
        print(f"  {output['name']:8} {output['datatype']} {output['shape']}  {output['data']}")


def follow(url: str, path: str) -> None:
    """Sends one row a request, over one connection, until a second after another version answers; says who answered."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    answered: Counter[str] = Counter()
    failed, since, until = 0, time.monotonic(), time.monotonic() + LONGEST_S
    for row in cycle(unseen_rows(path)):
        connection.request("POST", where.path, json.dumps({"records": [row], "top": 0}))
        reply = connection.getresponse()
        body = reply.read()
        if reply.status == http.client.OK:
            answered[f"version {json.loads(body)['version']}"] += 1
        else:
            failed += 1
        if len(answered) > 1 and until - time.monotonic() > 1.0:
            until = time.monotonic() + 1.0
        if time.monotonic() >= until:
            break
    connection.close()
    took_s = time.monotonic() - since
    shares = ", ".join(f"{count:,} by {version}" for version, count in answered.items())
    print(f"{answered.total():,} single rows answered in {took_s:.1f} s: {shares}; {failed} requests failed")
    if failed or len(answered) < 2:  # noqa: PLR2004  the one before and the one after
        sys.exit("the daemon did not change versions without a failed request")


def show_metrics(text: str) -> None:
    """Prints a few series that are not 0, and the p99 that a histogram tells."""
    within: dict[float, float] = {}
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        if series.startswith(METRICS) and float(value):
            print(f"  {line}")
        if series.startswith("anomvae_request_seconds_bucket") and 'protocol="v1-json"' in series:
            within[float(series.partition('le="')[2].partition('"')[0])] = float(value)
    p99_s = next((edge for edge, count in sorted(within.items()) if count >= 0.99 * max(within.values())), None)
    if p99_s is not None:
        print(f"  99 of 100 requests to /v1 took at most {1000 * p99_s:g} ms (anomvae_request_seconds)")


def main() -> None:
    """Does what the first argument says."""
    parser = argparse.ArgumentParser(description=__doc__)
    told = parser.add_subparsers(dest="what", required=True)
    told.add_parser("write").add_argument("csv")
    told.add_parser("ask").add_argument("url")
    told.choices["ask"].add_argument("--data")
    told.add_parser("follow").add_argument("url")
    told.choices["follow"].add_argument("csv")
    for name in ("answers", "outputs", "metrics"):
        told.add_parser(name)
    asked = parser.parse_args()
    match asked.what:
        case "write":
            write_requests(asked.csv)
        case "ask":
            ask(asked.url, asked.data)
        case "follow":
            try:
                follow(asked.url, asked.csv)
            except (OSError, http.client.HTTPException):
                sys.exit("the daemon does not answer any more")
        case "answers":
            show_answers(json.load(sys.stdin))
        case "outputs":
            show_outputs(json.load(sys.stdin))
        case "metrics":
            show_metrics(sys.stdin.read())


if __name__ == "__main__":
    main()

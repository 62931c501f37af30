"""Two pumps for the demo: a day of normal readings as a file, and the next hours as JSON lines, with a bearing that goes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

PUMPS = ("north", "south")
NORMAL, TODAY = 4_000, 600
FAULT = slice(400, 520)
"""Steps of today in which the south pump's bearing runs warm and shakes."""


def readings(pump: str, steps: int, start: str, draw: np.random.Generator) -> pd.DataFrame:
    """Readings of one pump every ten seconds: load, pressure, temperature and vibration."""
    time = pd.date_range(start, periods=steps, freq="10s")
    load = (
        60.0
        + 15.0 * np.sin(np.arange(steps) / 90.0)
        + np.convolve(draw.normal(size=steps + 29), np.ones(30) / 6, "valid")
    )
    level = 1.0 if pump == "north" else 1.4
    return pd.DataFrame(
        {
            "time": time,
            "pump": pump,
            "load": load,
            "pressure": 2.0 * level + 0.03 * load + draw.normal(0.0, 0.05, steps),
            "temperature": 40.0 * level + 0.2 * load + draw.normal(0.0, 0.4, steps),
            "vibration": 1.0 * level + 0.01 * load + draw.normal(0.0, 0.04, steps),
        }
    )


def write(folder: Path) -> None:
    """Writes `sensors.parquet` and `today.jsonl`."""
    draw = np.random.default_rng(0)
    pd.concat([readings(pump, NORMAL, "2026-11-20T00:00:00", draw) for pump in PUMPS]).to_parquet(
        folder / "sensors.parquet"
    )
    today = [readings(pump, TODAY, "2026-11-20T12:00:00", draw) for pump in PUMPS]
    broken = np.zeros(TODAY)
    broken[FAULT] = 1.0
    today[1]["vibration"] += 0.25 * broken
    today[1]["temperature"] += 2.5 * broken
    pd.concat(today).sort_values(["time", "pump"]).to_json(
        folder / "today.jsonl", orient="records", lines=True, date_format="iso"
    )
    print(f"wrote sensors.parquet ({NORMAL:,} steps of {len(PUMPS)} pumps) and today.jsonl ({TODAY:,} steps of each)")


def show() -> None:
    """Reads answers from standard input and prints how many there were, and the events."""
    counts: Counter[str] = Counter()
    for line in sys.stdin:
        answer = json.loads(line)
        if answer.get("kind") == "event":
            because = ", ".join(reason["column"] for reason in answer["reasons"])
            print(f"  {answer['asset']}: {answer['start']} to {answer['end']}, {answer['alarms']} alarms; {because}")
        else:
            counts["alarm" if answer["alarm"] else answer.get("reason") or "normal"] += 1
    print("  " + ", ".join(f"{count:,} {what}" for what, count in counts.most_common()))


if __name__ == "__main__":
    show() if sys.argv[1] == "show" else write(Path(sys.argv[1]))

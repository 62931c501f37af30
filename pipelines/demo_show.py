"""Prints a few verdicts with their reasons."""

from __future__ import annotations

import sys

import pyarrow.parquet as pq

SHOWN = 5


def main(path: str) -> None:
    """Prints the strangest rows of a file of verdicts."""
    rows = sorted(pq.read_table(path).to_pylist(), key=lambda row: -row["score"])
    print(f"the {SHOWN} strangest of {len(rows)} rows:")
    for row in rows[:SHOWN]:
        print(
            f"  {row['biopsy']}  score {row['score']:8.1f} nats  p {row['p_value']:.4f}  {'ALARM' if row['alarm'] else ''}"
        )
        for reason in row["reasons"]:
            print(
                f"      {reason['column']}: {reason['value']:.4g}, expected {reason['expected']:.4g} "
                f"({reason['contribution']:.1f} nats)"
            )


if __name__ == "__main__":
    main(sys.argv[1])

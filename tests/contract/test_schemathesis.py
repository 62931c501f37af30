"""The OpenAPI document against the daemon that gives it: what it allows is answered, what it forbids refused, as it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

EXAMPLES = os.environ.get("ANOMVAE_TEST_EXAMPLES", "8")
"""Drawn requests for each route, beside those that cover every keyword of its schema once."""
SETTINGS = """
hooks = "hooks.py"
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 504]  # 504: the drawn request had no patience
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 429, 504]
[[operations]]
include-path-regex = "/(infer|invocations)$"  # a schema cannot say how many cells a shape, or a header, takes
[operations.checks.positive_data_acceptance]
enabled = false
"""
HOOKS = '''
import schemathesis
from schemathesis import GenerationMode

BYTES = ("application/octet-stream", "application/vnd.apache.arrow.stream", "text/csv")


@schemathesis.hook
def filter_case(context, case):
    """Drops what a schema cannot forbid: bytes that are no stream, an option in query and body, columns of several lengths."""
    if case.meta is not None and case.meta.generation.mode is GenerationMode.NEGATIVE:
        return True
    body = case.body if isinstance(case.body, dict) else {}
    by_column = "columns" in body or isinstance(body.get("inputs"), dict)
    return case.media_type not in BYTES and not by_column and not set(case.query or ()) & set(body)
'''


def _tried(url: str, *options: str) -> str:
    """Runs schemathesis in the working folder; its report."""
    Path("schemathesis.toml").write_text(SETTINGS)
    Path("hooks.py").write_text(HOOKS)
    tool = str(Path(sys.executable).with_name("schemathesis"))
    command = [tool, "run", f"{url}/openapi.json", "--mode", "all", "--continue-on-failure"]
    more = [
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        EXAMPLES,
        "--generation-deterministic",
        "--no-color",
    ]
    done = subprocess.run([*command, *more, *options], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def test_every_route_keeps_to_the_document(served: Any) -> None:
    report = _tried(served.url)
    assert re.search(r"Selected: (2\d)/\1\s+Tested: \1\s", report), report[-2000:]
    complaints = [event for event in served.events if event.get("level") in ("error", "warning", None)]
    told = [event for event in complaints if event["event"] != "Invalid HTTP request received."]  # a method of no HTTP
    assert [event for event in told if event.get("status") != 504] == []  # the drawn request had no patience

"""Writes docs/reference.md from the code: commands, settings, errors, the graph, the daemon. `--check` refuses drift.

Run by `make docs`; `make check` runs it with `--check`.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import typer.main

import anomvae.errors
from anomvae.bundle import Calibration, Column, LeftOut, Manifest, Provenance, Split, TrainingRecord
from anomvae.cli.app import app
from anomvae.fitting.settings import FitSettings
from anomvae.training.settings import TrainingSettings
from anomvae.vae.settings import ModelSettings
from pipelines import reference_serving, reference_streaming

PAGE = Path(__file__).parent.parent / "docs" / "reference.md"

GRAPH = """## The graph

Inputs and outputs of `scorer.onnx`; n rows, d numbers, c categories, k latent dimensions. An input or output of no width
(a detector without categories, say) is left out.

| input | shape, type | meaning |
|---|---|---|
| `numeric` | `[n, d]` float32 | raw units, NaN = missing, in the order of the manifest's number columns |
| `categorical` | `[n, c]` int64 | codes: the position in the column's `categories`; its `missing_code` where training saw missing cells; the last code = unknown |
| `group` | `[n]` int64, optional | where groups have calibrations of their own: the position in `calibration.groups`; default: none of them |
| `alarm_rate` | `[]` float32, optional | default: the manifest's |

| output | shape | meaning |
|---|---|---|
| `score` | `[n]` | estimate of -log p(row) in nats (with `model.prior = "normal"`: negative ELBO); higher is stranger |
| `reconstruction_error` | `[n]` | mean squared error in scaled units over the observed columns (categories: Brier score) |
| `p_value`, `p_value_reconstruction` | `[n]` | share of normal rows at least this strange |
| `p_value_verdict` | `[n]` | with `decision = "both"`: that of the pair of scores, which the verdict goes by |
| `alarm` | `[n]` bool | the verdict |
| `tail` | `[n]` bool | the p-value is extrapolated beyond the calibration rows |
| `pooled` | `[n]` bool | where there are groups: held against all of them together |
| `contribution` | `[n, d + c]` | nats each column adds |
| `latent_contribution` | `[n]` | nats the latent adds; the contributions and it sum to `score` |
| `expected` | `[n, d]` | what the detector expected, raw units |
| `expected_category` | `[n, c]` int64 | most probable code of each category |
| `latent` | `[n, k]` | posterior mean |

The graph of a series, windows of w steps, has these instead of `numeric` and `categorical`; its answers are those of the newest step,
and its scores and contributions count spreads of normal steps, not nats (`latent_contribution` then is all that no channel adds: the latents'
part, less the usual level):

| input | shape, type | meaning |
|---|---|---|
| `series` | `[n, w, d]` float32 | raw units, NaN = missing, the newest step last |
| `asset` | `[n]` int64, optional | the position in the manifest's `series.assets`, for scaling; default: none of them |
| `row_terms` | `[n, p, 2d + 1]` float32, optional | of the first p steps, p < w, what `rows.onnx` says of them, which spares the time to say it again; default: p = 0. The last d may be left out where the outputs of all steps are not wanted |

| output | shape | meaning |
|---|---|---|
| `step_score`, `step_error` | `[n, w]` | of every step by all of the window, which `anomvae score` averages over windows |
| `step_contribution` | `[n, w, d]` | what each channel adds to `step_score`; the rest of that, which no channel adds, is no output |
| `step_expected`, `step_deviation` | `[n, w, d]` | what was expected of every step, and one standard deviation of it, raw units |

`rows.onnx` takes `rows` `[n, d]` and `asset` and gives `row_terms` `[n, 2d + 1]`; `batch.onnx` takes `mean_score` and `mean_error`, the means
over windows, and gives p-values and verdicts.

## The answers of `anomvae score`

One row per row, in order: the identifier, time and group columns of the data as they came, then `score`, `p_value`,
`reconstruction_error`, `p_value_reconstruction` (doubles), `alarm` (boolean) and `reasons`: a list of `column`,
`contribution` (nats; of a series spreads, as its scores), `value` and `expected`, strongest first; of a series `reason`, too, where a row has
no score. Reasons are the strongest columns alone and leave out what no column adds (`latent_contribution` of the graph), so they do not sum to `score`. In Parquet and Arrow `value` and `expected` are float32 where
all scored columns are numbers and text where there are categories too; in JSON lines, in CSV (where `reasons` is a JSON string)
and in Python they are numbers, booleans or text, each as it is.
"""


def commands() -> str:
    """Every command with its help."""
    root: Any = typer.main.get_command(app)
    parts = ["## Commands", "", "Exit codes: 0 fine, 1 our fault, 2 the caller's, 130 interrupted.", ""]
    for name, command in _walk(root, "anomvae"):
        parts += [f"### `{name}`", "", command.help or "", ""]
        rows = [_option(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            parts += ["| option | meaning |", "|---|---|", *rows, ""]
    return "\n".join(parts)


def _walk(command: Any, name: str) -> list[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        return [(name, command)]
    found = [(name, command)] if command.params else []
    for child in children:
        found += _walk(children[child], f"{name} {child}")
    return found


def _option(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"| `{parameter.metavar or parameter.name.upper()}` | {_cell(parameter.help or '')} |"
    default = (
        ""
        if parameter.default in (None, False, ()) or callable(parameter.default)
        else f" Default: {parameter.default}."
    )
    names = [*parameter.opts, *parameter.secondary_opts]
    return f"| {', '.join(f'`{name}`' for name in names)} | {_cell(parameter.help or '')}{default} |"


def dataclass_table(kind: type[Any], prefix: str = "", *, defaults: bool = False) -> str:
    """A dataclass's fields with the sentences of its docstring."""
    sentences = _attributes(kind.__doc__ or "")
    rows = ["| name | meaning |", "|---|---|"]
    for part in dataclasses.fields(kind):
        default = f" Default: `{part.default}`." if defaults and part.default is not dataclasses.MISSING else ""
        rows.append(f"| `{prefix}{part.name}` | {_cell(sentences[part.name])}{default} |")
    return "\n".join(rows) + "\n"


def _attributes(docstring: str) -> dict[str, str]:
    """The `Attributes:` of a Google docstring, by name."""
    section = docstring.split("Attributes:")[1]
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        start = re.match(r" {8}(\w+): (.*)", line)
        if start:
            name = start.group(1)
            found[name] = start.group(2)
        elif line.strip() and name:
            found[name] += " " + line.strip()
    return found


def errors() -> str:
    """Every error with its sentence and exit code."""
    rows = ["| error | exit code | meaning |", "|---|---|---|"]
    for name, value in vars(anomvae.errors).items():
        if isinstance(value, type) and issubclass(value, anomvae.errors.AnomvaeError):
            rows.append(f"| `{name}` | {value.exit_code} | {_cell((value.__doc__ or '').strip().splitlines()[0])} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """The whole page."""
    parts = [
        "# Reference\n\nWritten by `make docs` from the code; do not edit.\n",
        commands(),
        "## Settings\n\nFields of a `--config` file; flags overrule it. A `[columns]` table says what a column is: `numeric`, "
        "`categorical`, `boolean`, `date` or `omit`.\n",
        "### Top level\n",
        dataclass_table(FitSettings, defaults=True),
        "### `[model]`\n",
        dataclass_table(ModelSettings, defaults=True),
        "### `[training]`\n",
        dataclass_table(TrainingSettings, defaults=True),
        GRAPH,
        "## The bundle\n\nA folder: `scorer.onnx`, `manifest.json`, `weights.safetensors`, `config.json`, `training.json`, "
        "`card.md`, `report.html`; of a series `batch.onnx`, `rows.onnx`, `row_weights.safetensors` and `row_config.json`, too. The manifest:\n",
        dataclass_table(Manifest),
    ]
    for kind in (Column, LeftOut, Split, Calibration, Provenance):
        parts += [f"### {kind.__name__}\n", dataclass_table(kind)]
    parts += ["### training.json\n", dataclass_table(TrainingRecord), *reference_serving.sections()]
    parts += reference_streaming.sections()
    parts += ["## Errors\n", errors()]
    return "\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Writes the page, or says whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="Change nothing; fail if the page is out of date.")
    fresh = page()
    if parser.parse_args().check:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != fresh:
            print(f"{PAGE.name} is out of date: run `make docs`")
            return 1
        return 0
    PAGE.write_text(fresh, encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

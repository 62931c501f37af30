"""Throws damaged bodies at every decoder of the daemon, and looks at what comes back.

Run by `make fuzz`. Every body must be decoded, scored and answered, or be refused with an error that is the caller's;
within a second of the processor, in bounded memory, and without a cell of the body in the error. A body is made anew from the seed, the name
of its decoder and its number, so a finding can be looked at: `--only v1-arrow --start 4711 --bodies 1`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import faulthandler
import multiprocessing
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
from google.protobuf.message import DecodeError

from anomvae.bundle import read_bundle
from anomvae.errors import InputError, RequestError
from anomvae.scoring import GraphSession
from anomvae.serving.arrow import decode_score_arrow
from anomvae.serving.bodies import Held, unpacked
from anomvae.serving.exchange import ARROW_STREAM, Decoded
from anomvae.serving.invocations import decode_invocations
from anomvae.serving.messages import ModelInferRequest
from anomvae.serving.model import ServedModel
from anomvae.serving.permits import Permit
from anomvae.serving.records import decode_score
from anomvae.serving.v2 import HEADER_LENGTH, decode_infer
from anomvae.serving.v2_messages import decode_infer_message
from pipelines.hostile.bodies import KINDS, Body, body_of
from pipelines.hostile.mutations import MARK, MARK_DIGITS
from pipelines.hostile.names import names_in
from pipelines.hostile.press import fit_press

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

BODIES = 104_000
MOST_S = 1.0
MOST_GROWTH_MB = 400.0
MOST_ROWS = 20_000
"""Answers to more rows are not computed: a few bytes of Arrow may stand for very many."""
MOST_FINDINGS = 20
UNPACKED_BYTES = 2**20


@dataclass(slots=True)
class Findings:
    """What became of the bodies of one decoder.

    Attributes:
        kind: The decoder.
        answered: Bodies that were decoded, scored and answered.
        refused: Bodies refused, by the type of the error.
        slowest_s: The longest that one took of the processor, in seconds.
        growth_mb: How much the peak of memory grew, in MiB.
        wrong: Number and description of what should not have been.
        messages: Sentences of refusals without their numbers and names, for an idea of how many places were reached.
    """

    kind: str
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    growth_mb: float = 0.0
    wrong: list[str] = field(default_factory=list)
    messages: set[str] = field(default_factory=set)


def decode(kind: str, model: ServedModel, body: Body) -> Decoded | None:
    """Decodes a body as the daemon would; None where there is nothing to score.

    Raises:
        InputError: It is refused.
    """
    match kind:
        case "v2-json" | "v2-binary":
            return decode_infer(model, body.content, body.headers)
        case "v1-json":
            return decode_score(model, body.content, body.headers, body.query)
        case "v1-arrow":
            return decode_score_arrow(model, body.content, body.headers, body.query)
        case "mlflow-json" | "mlflow-csv":
            return decode_invocations(model, body.content, body.headers)
        case "grpc":
            try:
                request = ModelInferRequest.FromString(body.content)
            except DecodeError:
                raise RequestError("the message cannot be read") from None
            return decode_infer_message(model, request)
        case _:
            held = Held(Permit(4 * UNPACKED_BYTES, "bytes"))
            asyncio.run(unpacked(body.content, body.headers["content-encoding"], UNPACKED_BYTES, held))
            return None


def answer(model: ServedModel, decoded: Decoded) -> None:
    """Scores what was decoded, and reads the answer as its caller would.

    Raises:
        ValueError: The answer cannot be read, or has other rows than were asked about.
    """
    rows = len(decoded.rows)
    if rows > MOST_ROWS:
        return
    reply = decoded.encode(model.session.run_in_chunks(decoded.rows, decoded.outputs, decoded.alarm_rate))
    if decoded.protocol == "grpc":
        lengths = {int(output.shape[0]) for output in reply.outputs}
        reply.SerializeToString()
    elif reply.media_type == ARROW_STREAM:
        lengths = {pa.ipc.open_stream(reply.body).read_all().num_rows}
    else:
        end = dict(reply.headers).get(HEADER_LENGTH)
        document = orjson.loads(reply.body if end is None else reply.body[: int(end)])
        if "outputs" in document:
            lengths = {output["shape"][0] for output in document["outputs"]}
        else:
            lengths = {len(document.get("answers", document.get("predictions", ())))}
    if lengths != {rows}:
        raise ValueError(f"{rows} rows were asked about, {lengths} answered")


def fuzz(kind: str, model: ServedModel, numbers: range, seed: int = 0, at: Synchronized[int] | None = None) -> Findings:
    """Tries bodies on one decoder.

    Args:
        kind: One of :data:`KINDS`.
        model: Decoded for, and scored with.
        numbers: Of the bodies.
        seed: With kind and number it gives the body.
        at: Told which number is next, so that it is known should the process die.
    """
    found, before = Findings(kind), _peak_mb()
    for number in numbers:
        if at is not None:
            at.value = number
        body = body_of(kind, random.Random(f"{seed}/{kind}/{number}"))  # noqa: S311  not for secrets
        started = time.process_time()
        said = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # the daemon would write it to standard error
                decoded = decode(kind, model, body)
                if decoded is not None:
                    answer(model, decoded)
            found.answered += 1
        except InputError as error:
            said = str(error)
            found.refused[type(error).__name__] += 1
        except BaseException as error:  # noqa: BLE001  this is what is looked for
            found.wrong.append(f"{number}: {type(error).__name__}: {error} {_where(error)}")
        took_s = time.process_time() - started  # of the processor: another program may have it for a while
        found.slowest_s = max(found.slowest_s, took_s)
        if took_s > MOST_S:
            found.wrong.append(f"{number}: took {took_s:.1f} s")
        if said is not None:
            found.messages.add("".join(letter for letter in said.split("'")[0] if not letter.isdigit()))
            if leak := _leak(kind, body, said):
                found.wrong.append(f"{number}: a cell stands in the error: {leak}")
    found.growth_mb = _peak_mb() - before
    if found.growth_mb > MOST_GROWTH_MB:
        found.wrong.append(f"memory grew by {found.growth_mb:.0f} MiB")
    return found


def _leak(kind: str, body: Body, said: str) -> str | None:
    """The error, if a marked cell stands in it; names may."""
    if MARK not in said and MARK_DIGITS not in said:
        return None
    rest = said
    for name in names_in(kind, body):
        for form in (name, repr(name)[1:-1], name[:60], repr(name[:60])[1:-1]):
            rest = rest.replace(form, "") if form else rest
    return said if MARK in rest or MARK_DIGITS in rest else None


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _child(folder: Path, kind: str, numbers: range, seed: int, at: Any, results: Any) -> None:
    faulthandler.enable()
    bundle = read_bundle(folder)
    model = ServedModel("press", "1", bundle, GraphSession(bundle.graph, bundle.manifest.width))
    fuzz(kind, model, range(-200, 0), seed)  # libraries load and caches fill before memory is looked at
    results.put(fuzz(kind, model, numbers, seed, at))


def fuzz_in_a_process(folder: Path, kind: str, numbers: range, seed: int) -> Findings:
    """The same in a process of its own, which may die of it.

    Args:
        folder: Of the bundle.
        kind: One of :data:`KINDS`.
        numbers: Of the bodies.
        seed: Of all.
    """
    context = multiprocessing.get_context("spawn")
    at, results = context.Value("q", -1), context.Queue()
    process = context.Process(target=_child, args=(folder, kind, numbers, seed, at, results))
    process.start()
    found = None
    while found is None and (process.is_alive() or not results.empty()):
        found = results.get() if not results.empty() else None
        if found is None:
            process.join(0.2)
    process.join()
    return found or Findings(kind, wrong=[f"{at.value}: the process died with code {process.exitcode}"])


def main() -> None:
    """Fits a detector, fuzzes every decoder, prints a table; exit code 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=BODIES, help="how many, over all decoders")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other bodies")
    parser.add_argument("--only", choices=KINDS, help="one decoder alone")
    parser.add_argument("--start", type=int, default=0, help="number of the first body")
    parser.add_argument("--show", action="store_true", help="print the first body in base64 and end")
    arguments = parser.parse_args()
    kinds = [arguments.only] if arguments.only else list(KINDS)
    if arguments.show:
        body = body_of(kinds[0], random.Random(f"{arguments.seed}/{kinds[0]}/{arguments.start}"))  # noqa: S311  not for secrets
        print(base64.b64encode(body.content).decode(), body.headers, body.query)
        return
    share = -(-arguments.bodies // len(kinds))
    numbers = range(arguments.start, arguments.start + share)
    with tempfile.TemporaryDirectory(prefix="anomvae-fuzz-") as scratch:
        folder = Path(scratch) / "press"
        fit_press(folder, seed=1)
        print(f"{share:,} bodies for each of {len(kinds)} decoders, seed {arguments.seed}", flush=True)
        print("decoder      answered   refused  sentences  slowest ms  memory MiB  wrong", flush=True)
        run = partial(fuzz_in_a_process, folder, numbers=numbers, seed=arguments.seed)
        everything = [_told(run(kind)) for kind in kinds]
    wrong = [f"{found.kind} {line}" for found in everything for line in found.wrong]
    for line in wrong[:MOST_FINDINGS]:
        print(line[:600])
    print(f"{share * len(kinds):,} bodies, {len(wrong):,} wrong")
    sys.exit(1 if wrong else 0)


def _told(found: Findings) -> Findings:
    refused = sum(found.refused.values())
    print(
        f"{found.kind:<12} {found.answered:>8,} {refused:>9,} {len(found.messages):>10,} {found.slowest_s * 1e3:>11.1f} "
        f"{found.growth_mb:>11.1f} {len(found.wrong):>6,}",
        flush=True,
    )
    return found


if __name__ == "__main__":
    main()

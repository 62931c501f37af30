"""What a request of the Open Inference Protocol asks of one model, over HTTP and over gRPC alike."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from anomvae.data.encoding import EncodedRows
from anomvae.errors import CellError, RequestError, RowError, SettingError
from anomvae.scoring.rates import asked_rate
from anomvae.serving.datatypes import quoted
from anomvae.serving.v2_columns import rows_by_column
from anomvae.serving.wishes import MAX_ROWS, refuse_too_many

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomvae.serving.model import ServedModel
    from anomvae.serving.v2_tensors import Tensor

ALARM_RATE, GROUP = "alarm_rate", "group"
NUMERIC, CATEGORICAL = "numeric", "categorical"
MICROSECONDS = 1e6


class Asked(NamedTuple):
    """A request, understood; the fields are those of :class:`~anomvae.serving.exchange.Decoded`."""

    rows: EncodedRows
    outputs: tuple[str, ...]
    alarm_rate: float | None
    timeout_s: float | None


class InferPlan:
    """Reads requests to one model; all that can be known before one comes is worked out once.

    Args:
        model: The model. The plan does not hold it, so that it can be let go.

    Attributes:
        datatypes: Of the outputs, by name.
        identity: The first fields of an answer.
    """

    def __init__(self, model: ServedModel) -> None:
        manifest = model.manifest
        self.datatypes = {name: spec.datatype for name, spec in model.outputs.items()}
        self.identity = {"model_name": model.name, "model_version": model.version}
        self._name = model.name
        self._manifest = manifest
        self._outputs = tuple(model.outputs)
        self._inputs = {spec.name for spec in model.inputs}
        group = manifest.calibration.group_column
        self._group_column = None if group is None else group.name
        self._tensors = self._inputs | ({ALARM_RATE} if group is None else {ALARM_RATE, GROUP})
        self._numeric = tuple(column.name for column in manifest.numeric)
        self._categorical = tuple(column.name for column in manifest.categorical)
        self._n_codes = np.array([column.n_codes for column in manifest.categorical], dtype=np.uint64)
        self._columns = {column.name for column in manifest.columns} | {column.name for column in manifest.left_out}
        self._columns.update(manifest.carried)

    def understand(
        self,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        parameters: Mapping[str, Any] | None,
        *,
        max_rows: int = MAX_ROWS,
    ) -> Asked:
        """What a request asks.

        Args:
            tensors: Its inputs.
            outputs: Names of the outputs it wants; none: all.
            parameters: Its parameters.
            max_rows: Most rows.

        Raises:
            RequestError: The request cannot be read.
            RequestTooLargeError: It has too many rows; found out before they are read.
            RowError: Its rows do not fit the model.
            SettingError: A parameter has a value it cannot have.
            TooFewRowsError: The calibration rows do not support the alarm rate.
        """
        refuse_too_many(max((tensor.shape[0] for tensor in tensors if tensor.shape), default=0), max_rows)
        by_name = {tensor.name: tensor for tensor in tensors}
        if len(by_name) != len(tensors):
            raise RequestError("an input is there twice; every input has a name of its own")
        wanted = self._wanted(outputs)
        rate = timeout_s = None
        if parameters:
            rate, timeout_s = _number(parameters, ALARM_RATE), _timeout_s(parameters)
        if by_name.keys() <= self._tensors:
            if ALARM_RATE in by_name:
                rate = _rate_of(by_name.pop(ALARM_RATE), rate)
            group = by_name.pop(GROUP, None)
            rows = self._rows(by_name)
            rows = rows if group is None else replace(rows, group=_groups_of(group, len(rows)))
        else:
            if GROUP in by_name and GROUP not in self._columns:
                raise self._no_group_here()
            if ALARM_RATE in by_name and ALARM_RATE not in self._columns:
                rate = _rate_of(by_name.pop(ALARM_RATE), rate)
            rows = rows_by_column(self._manifest, by_name)
        return Asked(rows, wanted, asked_rate(self._manifest, rate), timeout_s)

    def _wanted(self, names: Sequence[str]) -> tuple[str, ...]:
        if not names:
            return self._outputs
        for name in names:
            if name not in self.datatypes:
                raise RequestError(
                    f"model {self._name!r} has no output {quoted(name)}; it has {', '.join(self.datatypes)}"
                )
        if len(set(names)) != len(names):
            raise RequestError("an output is asked for twice; name each at most once")
        return tuple(names)

    def _no_group_here(self) -> RequestError:
        if self._group_column is None:
            return RequestError(
                f"model {self._name!r} has no groups with calibrations of their own; leave out input {GROUP!r}"
            )
        return RequestError(
            f"input {GROUP!r} goes with {' and '.join(sorted(self._inputs, reverse=True))}; beside columns send that of the "
            f"groups, {self._group_column!r}"
        )

    def _rows(self, tensors: Mapping[str, Tensor]) -> EncodedRows:
        """Rows from the graph's own tensors."""
        if tensors.keys() != self._inputs:
            lacking = " and ".join(
                repr(name) for name in (NUMERIC, CATEGORICAL) if name in self._inputs - tensors.keys()
            )
            raise RequestError(
                f"the request lacks input {lacking} of model {self._name!r}; send the graph's tensors, or one input a column"
            )
        numeric, categorical = tensors.get(NUMERIC), tensors.get(CATEGORICAL)
        numbers = None if numeric is None else self._numbers(numeric)
        codes = None if categorical is None else self._codes(categorical)
        if numbers is None:
            numbers = np.empty((0 if codes is None else len(codes), 0), dtype=np.float32)
        if codes is None:
            codes = np.empty((len(numbers), 0), dtype=np.int64)
        if len(numbers) != len(codes):
            raise RowError(f"input 'numeric' has {len(numbers):,} rows, input 'categorical' has {len(codes):,}")
        return EncodedRows(numbers, codes)

    def _numbers(self, tensor: Tensor) -> npt.NDArray[np.float32]:
        self._require_width(tensor, len(self._numeric))
        found = tensor.numbers()
        if found.dtype == np.float32:
            return found  # type: ignore[return-value]
        with np.errstate(over="ignore", invalid="ignore"):  # as in encoding: what is too large for float32 is infinite
            return found.astype(np.float32)

    def _codes(self, tensor: Tensor) -> npt.NDArray[np.int64]:
        self._require_width(tensor, len(self._categorical))
        found = tensor.numbers()
        if found.dtype.kind == "f":
            raise RowError(f"input 'categorical' has datatype {tensor.datatype}; codes are whole numbers, send INT64")
        codes: npt.NDArray[np.int64] = found.astype(np.int64, copy=False)
        strange = codes.view(np.uint64) >= self._n_codes  # a negative one is very large when unsigned
        if strange.any():
            row, column = np.argwhere(strange)[0]
            raise CellError(
                f"column {self._categorical[column]!r} of input 'categorical' takes codes from 0 to "
                f"{self._n_codes[column] - 1}, row {row + 1:,} holds another"
            )
        return codes

    def _require_width(self, tensor: Tensor, width: int) -> None:
        shape = tensor.shape
        if len(shape) != 2 or shape[1] != width:  # noqa: PLR2004  rows and columns
            raise RowError(
                f"input {tensor.name!r} has shape {list(shape)}; model {self._name!r} takes [rows, {width}], its columns "
                "in the manifest's order"
            )


_PLANS: WeakKeyDictionary[ServedModel, InferPlan] = WeakKeyDictionary()


def plan_of(model: ServedModel) -> InferPlan:
    """The plan of a model, made when it is first asked for and gone with the model."""
    plan = _PLANS.get(model)
    if plan is None:
        plan = _PLANS[model] = InferPlan(model)
    return plan


def _number(parameters: Mapping[str, Any], key: str) -> float | None:
    value = parameters.get(key)
    if value is None:
        return None
    if type(value) not in (int, float):
        raise SettingError(f"parameter {key!r} is no number")
    return float(value)


def _timeout_s(parameters: Mapping[str, Any]) -> float | None:
    """The parameter `timeout`, microseconds; 0 stands for none."""
    timeout = _number(parameters, "timeout")
    if timeout is None or timeout == 0:
        return None
    if not 0 < timeout < float("inf"):
        raise SettingError("parameter 'timeout' is a time in microseconds, and not negative")
    return timeout / MICROSECONDS


def _groups_of(tensor: Tensor, n: int) -> npt.NDArray[np.int64]:
    """The input `group`: a number a row, or one for all."""
    if tensor.shape not in ((n,), (1,)):
        raise RowError(f"input {GROUP!r} has shape {list(tensor.shape)}; beside {n:,} rows it takes [{n}] or [1]")
    found = tensor.numbers()
    if found.dtype.kind == "f":
        raise RowError(f"input {GROUP!r} has datatype {tensor.datatype}; numbers of groups are whole, send INT64")
    return np.full(n, found[0], dtype=np.int64) if tensor.shape == (1,) else found.astype(np.int64, copy=False)


def _rate_of(tensor: Tensor, other: float | None) -> float:
    """The one cell of the input `alarm_rate`."""
    if other is not None:
        raise SettingError("the alarm rate is there twice, as an input and as a parameter; state it once")
    if tensor.shape not in ((), (1,)):
        raise RequestError(f"input {ALARM_RATE!r} has shape {list(tensor.shape)}; it takes [] or [1]")
    cell = tensor.numbers().reshape(())[()]
    if cell.dtype.kind != "f":
        raise RequestError(f"input {ALARM_RATE!r} has datatype {tensor.datatype}; it takes FP32")
    # The shortest decimal: 0.01 in single precision is a little less than 0.01, which fewer calibration rows support.
    return float(str(cell))

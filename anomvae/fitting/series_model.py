"""The middle of a fit of a series: the members, what normal steps score, and the scores that calibrate."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from anomvae.calibration import CalibrationRows
from anomvae.data.encoding import EncodedRows
from anomvae.data.schema import Schema, describe
from anomvae.data.splits import RowSplit
from anomvae.data.windows import StepMeans
from anomvae.fitting.model import MOST_NOVELTY_ROWS, FittedModel, fit_model
from anomvae.fitting.preparation import PreparedData
from anomvae.fitting.series_forecast import FittedForecast, fit_forecast, refit_forecast
from anomvae.fitting.series_order import Order, judge_order, window_exemplars
from anomvae.fitting.series_preparation import CALIBRATION, FEW, TRAIN, VALIDATION, PreparedSeries, thinned
from anomvae.fitting.settings import EXEMPLAR_BATCH
from anomvae.training.loop import History, cpu_threads
from anomvae.training.settings import TrainingSettings
from anomvae.training.windows import WindowPool, train_windows
from anomvae.vae.convolution import ConvolutionSettings
from anomvae.vae.layout import layout_of
from anomvae.vae.novelty import Novelty
from anomvae.vae.scores import RowScorer
from anomvae.vae.series import SeriesPreparation, SeriesScorer, memory_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.data.windows import EncodedWindows, Windows
    from anomvae.fitting.settings import FitSettings
    from anomvae.training.loop import Hook
    from anomvae.vae.convolution import ConvolutionalVAE

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
AnyArray = npt.NDArray[np.floating]

ROW_STEPS = {"quick": (600, 2), "default": (3_000, 20), "best": (8_000, 40)}
"""Most steps of the optimiser for the member of single steps, by effort: so many, or so many passes over long series. Training
stops before where the validation bound gains no more."""
MOST_ROW_STEPS = 10_000
WINDOW_STEPS = {"quick": 500, "default": 1_500, "best": 4_000}
WINDOW_BATCH, WINDOW_RATE, WINDOW_PATIENCE, WINDOW_GRADIENT = 32, 2e-3, 6, 5.0
HIGH = 0.95
MOST_LOOKED_AT = 4_000
"""Windows that tell what normal steps score."""
CHUNK_CELLS = 2**21
LEAST_NATS, LEAST_SPREADS = 0.1, 0.05
"""Costs, and their means over time, count as this far apart at least: of rows that repeat they are all the same."""
LEAST_SHARE, LEAST_DISTANCE = 0.1, 0.01
"""Distances of normal windows count as this far apart at least, of their median and in scaled units: windows that overlap lie
about as far from others, and those of rows that repeat lie at 0."""
MEASURED = ("member_centre", "member_spread", "scale_centre", "scale_spread", "distance_centre", "distance_spread",
            "weights", "distance_weight")  # fmt: skip
"""What a detector is told of normal steps, beside its weights."""


@dataclass(frozen=True, slots=True)
class FittedSeries:
    """A fitted series detector.

    Attributes:
        scorer: On the CPU, in evaluation mode.
        histories: What happened in training, by member.
        order: What the judges of windows tell of the order of steps.
        forecast: The linear forecast; None: none.
    """

    scorer: SeriesScorer
    histories: dict[str, History]
    order: Order
    forecast: FittedForecast | None = None

    @property
    def exemplars(self) -> int:
        """Steps that the row member stores."""
        row = self.scorer.row
        return 0 if row is None else row.model.stored_sizes().exemplars

    @property
    def exemplar_windows(self) -> int:
        """Windows that others are held against."""
        stored = self.scorer.exemplars
        return 0 if stored is None else len(stored)

    @torch.no_grad()
    def online(self, windows: Windows) -> tuple[FloatArray, FloatArray]:
        """Score and reconstruction error of each window's newest step, each of shape ``(k,)``."""
        parts = []
        for _, encoded in windows.chunks(chunk_windows(self.scorer)):
            told = self.scorer(*tensors(encoded))
            parts.append((told.score.numpy(), told.reconstruction_error.numpy()))
        score, error = (np.concatenate([part[i] for part in parts]) for i in range(2))
        return score, error

    @torch.no_grad()
    def batch(self, windows: Windows) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Score and reconstruction error of each step, means over the windows that cover it; NaN elsewhere; ``(m,)``."""
        total = len(windows.sequences)
        score, error = StepMeans(total), StepMeans(total)
        for part, encoded in windows.chunks(chunk_windows(self.scorer)):
            told = self.scorer(*tensors(encoded))
            score.add(part.starts, told.step_score.numpy())
            error.add(part.starts, told.step_error.numpy())
        return score.means(), error.means()


def chunk_windows(scorer: SeriesScorer) -> int:
    """Windows to score at once."""
    return max(1, CHUNK_CELLS // (scorer.window * max(256, 4 * scorer.channels)))


def tensors(windows: EncodedWindows) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows as the scorer takes them."""
    return torch.from_numpy(np.ascontiguousarray(windows.series)), torch.from_numpy(windows.asset)


def fit_series_model(
    prepared: PreparedSeries, settings: FitSettings, device: torch.device, hooks: Sequence[Hook] = ()
) -> FittedSeries:
    """Fits the members on training steps, and measures what normal steps score on validation steps."""
    preparation = prepared.preparation()
    histories: dict[str, History] = {}
    row = novelty = network = None
    if settings.members in ("both", "row"):
        fitted = fit_row_member(prepared, preparation, settings, device, hooks)
        row, histories["row"] = RowScorer(fitted.model).eval(), fitted.history
        novelty = _novelty(prepared, settings)
    if settings.members in ("both", "window"):
        with cpu_threads(settings.training.threads):
            network, histories["window"] = _fit_window_member(prepared, preparation, settings, device, hooks)
    exemplars = None if network is None else window_exemplars(prepared, preparation, settings.window or 0)
    forecast = None if network is None else fit_forecast(prepared, preparation, settings.window or 0)
    foretells = None if forecast is None else forecast.network
    scorer = SeriesScorer(preparation, row, novelty, network, settings.window or 0, exemplars, foretells).eval()
    order = judge_order(scorer, prepared, settings.training.seed)
    scorer.trust(order._asdict(), 0.0 if forecast is None else forecast.explained)
    _standardise(scorer, prepared)
    return FittedSeries(scorer, histories, order, forecast)


def refit_series_model(
    prepared: PreparedSeries, calibrated: FittedSeries, settings: FitSettings, device: torch.device
) -> FittedSeries:
    """The same detector fitted on all steps, those that calibrated too, for as many steps as were best before.

    What normal steps score is what it was to the detector that has not seen them: one that has seen more scores new normal
    steps lower if anything, so the calibration errs on the safe side.

    Args:
        prepared: The series.
        calibrated: Fitted on the training steps alone.
        settings: The fit's.
        device: Where to fit.
    """
    everything = prepared.all_for_training()
    window = calibrated.histories.get("window")
    steps = None if window is None else max(1, window.best.step)
    preparation = everything.preparation()
    row = novelty = network = None
    if calibrated.scorer.row is not None:
        row = RowScorer(fit_row_member(everything, preparation, settings, device).model).eval()
        novelty = _novelty(everything, settings)
    if calibrated.scorer.window_model is not None:
        with cpu_threads(settings.training.threads):
            network, _ = _fit_window_member(everything, preparation, settings, device, (), steps)
    window_length = calibrated.scorer.window
    exemplars = None if network is None else window_exemplars(everything, preparation, window_length)
    forecast = calibrated.forecast
    if forecast is not None:
        forecast = refit_forecast(everything, preparation, window_length, forecast)
    foretells = None if forecast is None else forecast.network
    scorer = SeriesScorer(preparation, row, novelty, network, window_length, exemplars, foretells).eval()
    for name in MEASURED:
        getattr(scorer, name).copy_(getattr(calibrated.scorer, name))
    return replace(calibrated, scorer=scorer, forecast=forecast)


def keep_all_windows(prepared: PreparedSeries, calibrated: FittedSeries) -> FittedSeries:
    """The same detector, which holds windows against those of all steps, the ones that calibrated too.

    New normal windows lie as near to the nearest of more windows or nearer: the calibration errs on the safe side. Where windows
    are thinned out they lie about as near.
    """
    scorer = copy.deepcopy(calibrated.scorer)
    if scorer.exemplars is not None:
        everything = replace(prepared, taught=np.ones(len(prepared.part), dtype=np.bool_))
        scorer.exemplars = window_exemplars(everything, scorer.preparation, scorer.window)
    return replace(calibrated, scorer=scorer)


def fit_row_member(
    prepared: PreparedSeries,
    preparation: SeriesPreparation,
    settings: FitSettings,
    device: torch.device,
    hooks: Sequence[Hook] = (),
) -> FittedModel:
    """Fits the table detector on scaled steps."""
    sequences = prepared.sequences
    steps = np.flatnonzero(sequences.row >= 0)
    with torch.no_grad():
        scaled, mask = preparation(
            torch.from_numpy(sequences.values[steps])[:, None], torch.from_numpy(sequences.asset[steps])
        )
    values = torch.where(mask > 0, scaled, torch.full_like(scaled, torch.nan))[:, 0].numpy()
    train, validation, calibration = (
        np.flatnonzero(np.isin(steps, prepared.steps(each))) for each in (TRAIN, VALIDATION, CALIBRATION)
    )
    split = RowSplit(train, validation, calibration, "time", settings.time)
    names = [column.name for column in prepared.columns]
    table = pa.table({name: pa.array(values[:, j], mask=np.isnan(values[:, j])) for j, name in enumerate(names)})
    kinds = {column.name: column.kind for column in prepared.columns}
    rows = EncodedRows(values, np.empty((len(values), 0), dtype=np.int64))
    data = PreparedData(
        name=prepared.name,
        digest=prepared.digest,
        n_rows=len(values),
        schema=Schema(kinds, ()),
        columns=describe(table, kinds, split.train),
        split=split,
        normal=rows,
        normal_rows=steps,
        labelled=rows.take(np.empty(0, dtype=np.int64)),
        labelled_rows=np.empty(0, dtype=np.int64),
        unlabelled=0,
    )
    # of scaled values none repeats to the last bit: novelty looks at raw ones
    model = replace(settings.model, novelty=False)
    training = replace(settings.training, max_steps=settings.training.max_steps or row_steps(settings, len(train)))
    return fit_model(data, replace(settings, model=model, training=training), device, hooks)


def row_steps(settings: FitSettings, n: int) -> int:
    """Most steps of the optimiser for the member of single steps, of which n train."""
    least, passes = ROW_STEPS[settings.effort]
    return min(MOST_ROW_STEPS, max(least, passes * n // EXEMPLAR_BATCH))


def _novelty(prepared: PreparedSeries, settings: FitSettings) -> Novelty | None:
    """Values, and pairs of values, that training steps held, in raw units."""
    if not settings.resolved().model.has_novelty:
        return None
    steps = prepared.steps(TRAIN)
    if len(steps) > MOST_NOVELTY_ROWS:
        draw = np.random.default_rng([settings.training.seed, 5])
        steps = np.sort(draw.choice(steps, MOST_NOVELTY_ROWS, replace=False))
    rows = prepared.sequences.values[steps]
    no_codes = np.empty((len(rows), 0), dtype=np.int64)
    layout = layout_of(prepared.columns, len(rows))
    least = settings.model.novelty_least
    return Novelty.learn(layout, rows, no_codes, seed=settings.training.seed, least=least)


def _fit_window_member(
    prepared: PreparedSeries,
    preparation: SeriesPreparation,
    settings: FitSettings,
    device: torch.device,
    hooks: Sequence[Hook],
    steps: int | None = None,
) -> tuple[ConvolutionalVAE, History]:
    window = settings.window or 0
    train = prepared.windows(window, TRAIN, whole=True)
    held_out = prepared.windows(window, VALIDATION, whole=False)
    held_out = held_out if len(held_out) else train
    sequences, on_device = prepared.sequences, SeriesPreparation(preparation.centre, preparation.spread).to(device)
    values, asset = (torch.from_numpy(each).to(device) for each in (sequences.values, sequences.asset))
    pools = [
        WindowPool(values, asset, torch.from_numpy(each.starts).to(device), window, on_device)
        for each in (train, held_out)
    ]
    training = replace(
        TrainingSettings(),
        max_steps=steps or settings.training.max_steps or WINDOW_STEPS[settings.effort],
        batch_rows=min(WINDOW_BATCH, len(train)),
        learning_rate=WINDOW_RATE,
        patience=WINDOW_PATIENCE if steps is None else steps,
        max_gradient_norm=WINDOW_GRADIENT,
        seed=settings.training.seed,
    )
    network, history = train_windows(pools[0], pools[1], ConvolutionSettings(), training, hooks)
    return network.to("cpu").eval(), history


@torch.no_grad()
def _standardise(scorer: SeriesScorer, prepared: PreparedSeries) -> None:
    """Measures what normal steps score: medians and high quantiles, of each member, then of each time scale.

    Validation steps tell, which no weights were fitted on; training steps where those are too few.
    """
    windows = _looked_at(prepared, scorer.window)
    newest = []
    for _, encoded in windows.chunks(chunk_windows(scorer)):
        costs, _ = scorer.member_costs(*tensors(encoded))
        newest.append(costs[:, :, -1])
    _measure(scorer.member_centre, scorer.member_spread, torch.cat(newest, dim=1), LEAST_NATS)
    levels, distances = [], []
    for _, encoded in windows.chunks(chunk_windows(scorer)):
        levels.append(scorer.scale_means(*scorer.evidence(*tensors(encoded))))
        if scorer.exemplars is not None:
            distances.append(scorer.exemplars(*scorer.preparation(*tensors(encoded))).distance[None])
    _measure(scorer.scale_centre, scorer.scale_spread, torch.cat(levels, dim=1), LEAST_SPREADS)
    if distances:
        _measure(scorer.distance_centre, scorer.distance_spread, torch.cat(distances, dim=1), LEAST_DISTANCE)
        scorer.distance_spread.copy_(torch.maximum(scorer.distance_spread, LEAST_SHARE * scorer.distance_centre))


def _looked_at(prepared: PreparedSeries, window: int) -> Windows:
    windows = prepared.observed(prepared.windows(window, VALIDATION, whole=False))
    if len(windows) < FEW:
        windows = prepared.observed(prepared.windows(window, TRAIN, whole=True))
    return thinned(windows, MOST_LOOKED_AT)


def _measure(centre: torch.Tensor, spread: torch.Tensor, values: torch.Tensor, least: float) -> None:
    """Sets median and distance to the high quantile of each row of values."""
    median = values.median(dim=1).values
    high = torch.quantile(values[:, :1_000_000], HIGH, dim=1)
    centre.copy_(median)
    spread.copy_((high - median).clamp(min=least))


def calibration_rows(
    fitted: FittedSeries, prepared: PreparedSeries, settings: FitSettings
) -> tuple[CalibrationRows, CalibrationRows]:
    """Scores of the calibration steps: of newest steps by their past, and of steps by all windows that cover them.

    Windows that lie in the calibration part alone tell, where an asset has enough of them; else windows that look back into
    validation and training steps, whose newest step no weights were fitted on.
    """
    window = settings.window or 0
    every, inside = (
        prepared.windows(window, CALIBRATION, whole=False),
        prepared.windows(window, CALIBRATION, whole=True),
    )
    every = every if 2 * len(inside) < len(every) else inside
    online = every.take(every.row >= 0)
    score, error = fitted.online(online)
    newest = online.newest
    if settings.stride > 1:
        every = every.take(np.arange(0, len(every), settings.stride))
    mean_score, mean_error = fitted.batch(every)
    sequences = prepared.sequences
    steps = np.flatnonzero((prepared.part == CALIBRATION) & (sequences.row >= 0) & np.isfinite(mean_score))
    return (
        _rows(prepared, newest, score, error, settings, past_only=True),
        _rows(prepared, steps, mean_score[steps], mean_error[steps], settings, past_only=False),
    )


def _rows(
    prepared: PreparedSeries,
    steps: IntArray,
    score: AnyArray,
    error: AnyArray,
    settings: FitSettings,
    *,
    past_only: bool,
) -> CalibrationRows:
    sequences = prepared.sequences
    names = None if settings.by is None else [sequences.assets[asset] for asset in sequences.asset[steps]]
    return CalibrationRows(
        score.astype(np.float64),
        error.astype(np.float64),
        names,
        sequences.asset_type,
        segment=sequences.sequence[steps],
        memory=memory_of(settings.window or 1, past_only=past_only),
    )

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import anomvae
from anomvae.errors import SchemaError, SettingError
from anomvae.sklearn import AlarmRateWarning, VAEDetector

FloatArray = npt.NDArray[np.float64]
QUICK: dict[str, Any] = {"layers": (16,), "max_steps": 100, "random_state": 0}


def correlated(n: int, seed: int = 0) -> FloatArray:
    """Four columns, two and two of them nearly equal."""
    draw = np.random.default_rng(seed)
    base = draw.normal(size=(n, 2))
    return np.repeat(base, 2, axis=1) + 0.2 * draw.normal(size=(n, 4))


@pytest.fixture(scope="module")
def fitted() -> VAEDetector:
    return VAEDetector(alarm_rate=0.05, **QUICK).fit(correlated(600))


# Two checks ask for at least one outlier among 300 rows of one kind, which a rate of 10 % gives and the default of 1 %
# need not. The checks' small tables warn.
@pytest.mark.filterwarnings("ignore::anomvae.sklearn.AlarmRateWarning")
@parametrize_with_checks([VAEDetector(alarm_rate=0.1, layers=(8,), max_steps=30)])  # type: ignore[untyped-decorator]
def test_it_keeps_scikit_learns_contract(estimator: VAEDetector, check: Any) -> None:
    check(estimator)


class TestAgreementWithThePipeline:
    @pytest.fixture(scope="class")
    @classmethod
    def both(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[VAEDetector, anomvae.Detector]:
        frame = pd.DataFrame(correlated(600), columns=list("abcd"))
        frame.loc[::7, "b"] = np.nan
        estimator = VAEDetector(alarm_rate=0.05, **QUICK).fit(frame)
        config = tmp_path_factory.mktemp("agreement") / "fit.toml"
        config.write_text("alarm_rate = 0.05\nmodel.layers = [16]\ntraining.max_steps = 100\ntraining.seed = 0\n")
        return estimator, anomvae.fit(frame, config=config)

    @pytest.fixture(scope="class")
    @classmethod
    def rows(cls) -> pd.DataFrame:
        frame = pd.DataFrame(correlated(500, seed=1) * np.linspace(0.5, 3.0, 500)[:, None], columns=list("abcd"))
        frame.loc[::5, "c"] = np.nan
        return frame

    def test_scores_are_those_of_the_bundle_negated(
        self, both: tuple[VAEDetector, anomvae.Detector], rows: pd.DataFrame
    ) -> None:
        estimator, detector = both
        expected = detector.score(rows, top=0)["score"].to_numpy()
        np.testing.assert_allclose(-estimator.score_samples(rows), expected, rtol=1e-4, atol=1e-4)

    def test_p_values_and_verdicts_are_those_of_the_bundle(
        self, both: tuple[VAEDetector, anomvae.Detector], rows: pd.DataFrame
    ) -> None:
        estimator, detector = both
        answers = detector.score(rows, top=0)
        np.testing.assert_allclose(estimator.p_values(rows), answers["p_value"], rtol=1e-5)
        np.testing.assert_array_equal(estimator.predict(rows) == -1, answers["alarm"])
        assert 0 < answers["alarm"].sum() < len(rows)


class TestDetection:
    def test_malignant_tumours_rank_above_benign_ones_and_above_the_distance_from_the_mean(self) -> None:
        table, benign = load_breast_cancer(return_X_y=True)
        normal = np.random.default_rng(0).permutation(table[benign == 1])
        known, held_out = normal[:250], normal[250:]
        rows = np.concatenate([held_out, table[benign == 0]])
        malignant = np.arange(len(rows)) >= len(held_out)
        detector = VAEDetector(max_steps=400, random_state=0).fit(known)
        ours = roc_auc_score(malignant, -detector.score_samples(rows))
        distance = roc_auc_score(malignant, np.linalg.norm(rows - known.mean(axis=0), axis=1))
        assert ours > 0.9
        assert ours > distance

    def test_a_row_that_breaks_a_relation_between_columns_is_found_though_each_cell_is_usual(self) -> None:
        detector = VAEDetector(alarm_rate=0.05, layers=(32,), max_steps=600, random_state=0).fit(correlated(1000))
        usual, broken = [[1.2, 1.2, -1.2, -1.2]], [[1.2, -1.2, -1.2, 1.2]]
        assert detector.predict(usual).tolist() == [1]
        assert detector.predict(broken).tolist() == [-1]

    def test_held_out_normal_rows_are_flagged_at_the_stated_rate(self) -> None:
        rate, fits, m = 0.1, 6, 600
        shares = []
        for seed in range(fits):
            detector = VAEDetector(alarm_rate=rate, **{**QUICK, "random_state": seed}).fit(correlated(600, seed))
            assert len(detector.calibration_scores_) == m
            shares.append((detector.predict(correlated(5000, 100 + seed)) == -1).mean())
        # A share is Beta distributed with mean at most the rate, over the draw of the m calibration rows.
        deviation = np.sqrt(rate * (1 - rate) / (m + 2) / fits)
        assert np.mean(shares) < rate + 3 * deviation
        assert np.mean(shares) > 0.8 * rate - 3 * deviation  # networks of folds know fewer rows than the detector

    def test_a_number_beyond_float32_is_an_outlier_and_no_error(self, fitted: VAEDetector) -> None:
        assert fitted.predict([[1e300, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1e300]]).tolist() == [-1, -1]


class TestVerdicts:
    def test_decision_function_is_the_score_less_the_offset(self, fitted: VAEDetector) -> None:
        rows = correlated(50, seed=2)
        expected = fitted.score_samples(rows) - fitted.offset_
        np.testing.assert_array_equal(fitted.decision_function(rows), expected)

    def test_an_outlier_is_a_row_whose_p_value_does_not_exceed_the_rate(self, fitted: VAEDetector) -> None:
        rows = correlated(2000, seed=3) * np.linspace(0.5, 2.0, 2000)[:, None]
        np.testing.assert_array_equal(fitted.predict(rows) == -1, fitted.p_values(rows) <= 0.05)

    def test_a_score_as_close_to_the_threshold_as_a_tie_gets_the_verdict_of_its_p_value(
        self, fitted: VAEDetector
    ) -> None:
        towards = np.array([1.0, -1.0, 1.0, -1.0])
        coarse = np.linspace(0.0, 9.0, 10_000)
        first = coarse[np.argmax(fitted.predict(coarse[:, None] * towards) == -1)]
        rows = np.linspace(first - 2e-3, first + 1e-3, 5_000)[:, None] * towards
        decision = fitted.decision_function(rows)
        assert ((decision > 0) & (decision < 1e-4)).any()
        clear = np.abs(decision) > 1e-5  # p-values are reckoned in float32
        np.testing.assert_array_equal(fitted.predict(rows[clear]) == -1, fitted.p_values(rows[clear]) <= 0.05)

    def test_the_smallest_p_value_is_one_in_the_calibration_rows_and_one(self, fitted: VAEDetector) -> None:
        assert fitted.p_values([[9.0, -9.0, 9.0, -9.0]]).item() == 1 / (len(fitted.calibration_scores_) + 1)

    def test_fit_predict_is_fit_then_predict(self) -> None:
        rows, detector = correlated(300), VAEDetector(alarm_rate=0.1, **QUICK)
        np.testing.assert_array_equal(detector.fit_predict(rows), clone(detector).fit(rows).predict(rows))

    def test_a_row_scores_the_same_alone_and_among_others(self, fitted: VAEDetector) -> None:
        rows = correlated(200, seed=4)
        alone = np.concatenate([fitted.score_samples(row[None]) for row in rows])
        np.testing.assert_allclose(alone, fitted.score_samples(rows), rtol=1e-12)


class TestSmallTables:
    def test_rows_too_few_for_the_rate_fit_with_a_warning_and_the_rate_they_support(self) -> None:
        with pytest.warns(AlarmRateWarning, match=r"60 rows leave 60 to calibrate.*0\.016 and not 0\.01.*at least 99"):
            detector = VAEDetector(**QUICK).fit(correlated(60))
        assert detector.supported_alarm_rate_ == 1 / 61
        assert -detector.offset_ == pytest.approx(detector.calibration_scores_.max(), rel=2e-4)

    def test_the_number_of_rows_that_the_warning_asks_for_is_enough(self) -> None:
        detector = VAEDetector(**QUICK).fit(correlated(99))  # a warning would be an error here
        assert detector.supported_alarm_rate_ == 0.01

    @pytest.mark.parametrize("n", [3, 4, 5, 10, 19])
    def test_a_handful_of_rows_fits_where_the_rate_allows(self, n: int) -> None:
        detector = VAEDetector(alarm_rate=0.5, **QUICK).fit(correlated(n))
        assert np.isfinite(detector.score_samples(correlated(5, seed=1))).all()
        assert detector.supported_alarm_rate_ == 0.5

    def test_two_rows_are_refused(self) -> None:
        with pytest.raises(ValueError, match="2 sample"):
            VAEDetector(**QUICK).fit(correlated(2))


class TestMissingCells:
    def test_missing_cells_are_no_cause_for_alarm_by_themselves(self) -> None:
        rows = correlated(600)
        rows[np.random.default_rng(1).random(rows.shape) < 0.1] = np.nan
        detector = VAEDetector(alarm_rate=0.05, **QUICK).fit(rows)
        fresh = correlated(1000, seed=5)
        fresh[np.random.default_rng(2).random(fresh.shape) < 0.1] = np.nan
        assert np.isfinite(detector.score_samples(fresh)).all()
        assert (detector.predict(fresh) == -1).mean() < 0.12

    def test_a_row_without_any_cell_has_a_score(self, fitted: VAEDetector) -> None:
        assert np.isfinite(fitted.score_samples(np.full((1, 4), np.nan))).all()

    def test_a_column_without_any_value_is_not_scored(self) -> None:
        rows = np.column_stack([correlated(300), np.full(300, np.nan)])
        detector = VAEDetector(alarm_rate=0.05, **QUICK).fit(rows)
        later = np.column_stack([rows[:9, :4], np.full(9, 1e6)])
        np.testing.assert_array_equal(detector.score_samples(later), detector.score_samples(rows[:9]))
        assert detector.n_features_in_ == 5

    def test_infinities_are_refused(self, fitted: VAEDetector) -> None:
        with pytest.raises(ValueError, match="infinity"):
            fitted.predict([[np.inf, 0.0, 0.0, 0.0]])


class TestColumns:
    def test_another_value_in_a_constant_column_is_strange_unless_constants_are_left_out(self) -> None:
        rows = np.column_stack([correlated(300), np.ones(300)])
        changed = np.column_stack([correlated(1), [2.0]])
        kept = VAEDetector(alarm_rate=0.05, learning_rate=0.03, **{**QUICK, "max_steps": 500}).fit(rows)
        left_out = VAEDetector(alarm_rate=0.05, keep_constant=False, **QUICK).fit(rows)
        assert kept.score_samples(changed) < kept.score_samples(rows).min()
        unchanged = changed * [1, 1, 1, 1, 0.5]
        np.testing.assert_array_equal(left_out.score_samples(changed), left_out.score_samples(unchanged))

    def test_a_table_with_nothing_to_learn_is_refused(self) -> None:
        with pytest.raises(SchemaError, match="no column is left"):
            VAEDetector(alarm_rate=0.2, **QUICK).fit(np.full((20, 2), np.nan))
        with pytest.raises(SchemaError, match="keep_constant"):
            VAEDetector(alarm_rate=0.2, keep_constant=False, **QUICK).fit(np.ones((20, 2)))

    def test_a_data_frame_gives_names_and_other_names_are_refused(self) -> None:
        frame = pd.DataFrame(correlated(300), columns=list("abcd"))
        detector = VAEDetector(alarm_rate=0.05, **QUICK).fit(frame)
        assert detector.feature_names_in_.tolist() == list("abcd")
        with pytest.raises(ValueError, match="feature names"):
            detector.predict(frame.rename(columns={"a": "z"}))

    def test_float32_rows_fit_and_score_as_the_same_numbers_in_float64(self) -> None:
        narrow = correlated(300).astype(np.float32)
        wide = narrow.astype(np.float64)
        scores = [VAEDetector(alarm_rate=0.05, **QUICK).fit(rows).score_samples(rows) for rows in (narrow, wide)]
        np.testing.assert_array_equal(scores[0], scores[1])

    def test_sparse_rows_are_refused_by_name(self) -> None:
        with pytest.raises(TypeError, match="Sparse data was passed"):
            VAEDetector(**QUICK).fit(csr_array(correlated(300)))

    def test_text_is_refused_without_repeating_it(self) -> None:
        frame = pd.DataFrame({"a": ["secret"] * 20, "b": np.arange(20.0)})
        with pytest.raises(ValueError, match="X holds text") as caught:
            VAEDetector(**QUICK).fit(frame)
        assert "secret" not in str(caught.value)


class TestRepetition:
    def test_a_pickling_round_trip_gives_identical_answers(self, fitted: VAEDetector) -> None:
        rows, again = correlated(100, seed=6), pickle.loads(pickle.dumps(fitted))  # noqa: S301  our own bytes
        np.testing.assert_array_equal(again.score_samples(rows), fitted.score_samples(rows))
        np.testing.assert_array_equal(again.p_values(rows), fitted.p_values(rows))
        assert again.offset_ == fitted.offset_

    def test_the_same_seed_fits_the_same_detector_and_another_seed_another(self) -> None:
        rows = correlated(300)
        scores = [
            VAEDetector(alarm_rate=0.05, **{**QUICK, "random_state": seed}).fit(rows).score_samples(rows)
            for seed in (3, 3, np.int64(3), 4)
        ]
        np.testing.assert_array_equal(scores[0], scores[1])
        np.testing.assert_array_equal(scores[0], scores[2])
        assert not np.allclose(scores[0], scores[3])

    def test_a_random_state_object_moves_on_from_fit_to_fit(self) -> None:
        rows, state = correlated(300), np.random.RandomState(0)
        detector = VAEDetector(alarm_rate=0.05, **{**QUICK, "random_state": state})
        assert not np.allclose(detector.fit(rows).score_samples(rows), detector.fit(rows).score_samples(rows))

    def test_fitting_leaves_the_callers_random_numbers_alone(self) -> None:
        import torch

        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        VAEDetector(alarm_rate=0.05, **QUICK).fit(correlated(300))
        assert torch.equal(torch.rand(3), expected)


class TestUse:
    def test_it_ends_a_pipeline(self) -> None:
        rows = correlated(400) * [1, 10, 100, 1000] + 50
        pipeline = make_pipeline(StandardScaler(), VAEDetector(alarm_rate=0.05, **QUICK)).fit(rows)
        assert pipeline.predict(rows).mean() > 0.8
        assert pipeline.predict(rows + np.array([0, 0, 0, 9000])).mean() == -1
        assert pipeline.set_params(vaedetector__latent=2).get_params()["vaedetector__latent"] == 2

    @pytest.mark.parametrize(
        "parameters",
        [
            {"kind": "beta-vae", "beta": 2.0},
            {"kind": "autoencoder"},
            {"kind": "denoising-autoencoder", "likelihood": "mse"},
            {"likelihood": "bernoulli"},
            {"likelihood": "student-t", "latent": 3},
            {"layers": [8, 8], "batch_rows": 32, "learning_rate": 1e-2, "device": "cpu"},
        ],
        ids=str,
    )
    def test_every_parameter_reaches_the_fit(self, parameters: dict[str, Any]) -> None:
        rows = correlated(300)
        plain = VAEDetector(alarm_rate=0.05, **QUICK).fit(rows)
        other = clone(plain).set_params(**parameters).fit(rows)
        assert not np.allclose(other.score_samples(rows), plain.score_samples(rows))

    @pytest.mark.parametrize(
        ("parameters", "named"),
        [
            ({"alarm_rate": 0.0}, "alarm rate"),
            ({"kind": "gan"}, "kind"),
            ({"max_steps": 0}, "max_steps"),
            ({"device": "tpu"}, "device"),
        ],
    )
    def test_a_wrong_parameter_is_named_when_it_is_used(self, parameters: dict[str, Any], named: str) -> None:
        detector = VAEDetector(**parameters)
        with pytest.raises(SettingError, match=named):
            detector.fit(correlated(20))

    def test_scoring_before_a_fit_is_refused_also_after_a_fit_that_failed(self) -> None:
        detector = VAEDetector(alarm_rate=0.2, **QUICK)
        with pytest.raises(NotFittedError):
            detector.score_samples(correlated(3))
        with pytest.raises(SchemaError):
            detector.fit(np.full((20, 4), np.nan))
        with pytest.raises(NotFittedError):
            detector.p_values(correlated(3))

    def test_without_the_training_extra_the_import_names_it(self) -> None:
        code = "import sys; sys.modules['torch'] = None; import anomvae.sklearn"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "MissingExtraError: anomvae.sklearn needs the extra 'train'" in found.stderr

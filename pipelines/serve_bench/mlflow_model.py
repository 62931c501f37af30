"""The peer MLflow at its leanest: a model that hands tensors to the same graph, with no frames and no schema between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel  # type: ignore[attr-defined]

if TYPE_CHECKING:
    import numpy.typing as npt

OUTPUTS = ["score", "alarm"]


class GraphModel(PythonModel):
    """Scores an array of rows."""

    def load_context(self, context: Any) -> None:
        """Opens the graph among the model's artifacts."""
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._only_wanted = ort.RunOptions()
        self._only_wanted.only_execute_path_to_fetches = True
        self._session = ort.InferenceSession(context.artifacts["graph"], options, providers=["CPUExecutionProvider"])

    def predict(self, context: Any, model_input: Any, params: Any = None) -> dict[str, npt.NDArray[Any]]:
        """Scores and alarms of rows."""
        del context, params
        rows = np.asarray(model_input, dtype=np.float32)
        found = self._session.run(OUTPUTS, {"numeric": rows}, self._only_wanted)
        return dict(zip(OUTPUTS, found, strict=True))


set_model(GraphModel())

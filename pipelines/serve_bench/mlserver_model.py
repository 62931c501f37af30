"""The peer MLServer: a model of its own kind that runs the same graph. Lives in the peers' environment, without anomvae."""

from __future__ import annotations

import mlserver
import onnxruntime as ort
from mlserver.codecs import NumpyCodec

OUTPUTS = ["score", "alarm"]


class GraphModel(mlserver.MLModel):  # type: ignore[misc]
    """Scores the rows of the input `numeric`; MLServer's adaptive batching puts requests together before."""

    async def load(self) -> bool:
        """Opens the graph that model-settings.json names; one thread a call, which is quickest for 64 rows."""
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._only_wanted = ort.RunOptions()
        self._only_wanted.only_execute_path_to_fetches = True
        self._session = ort.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: mlserver.types.InferenceRequest) -> mlserver.types.InferenceResponse:
        """Scores of a batch."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        found = self._session.run(OUTPUTS, {"numeric": rows}, self._only_wanted)
        outputs = [NumpyCodec.encode_output(name, array) for name, array in zip(OUTPUTS, found, strict=True)]
        return mlserver.types.InferenceResponse(model_name=self.name, outputs=outputs)

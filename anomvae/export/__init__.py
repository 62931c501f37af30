"""The one graph: the model, its calibration and the verdict in ONNX, checked against torch."""

"""The only place that knows rknn-toolkit2, and what a stock sherpa-onnx takes."""

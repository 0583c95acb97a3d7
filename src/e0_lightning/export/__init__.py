"""Policies as ONNX graphs, for robots without PyTorch."""

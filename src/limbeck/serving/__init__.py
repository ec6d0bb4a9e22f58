"""Prediction with a shipped student: its own preprocessing, and ONNX Runtime without torch."""

"""Exported models as files, and a common prediction interface for torch and ONNX."""

"""Lossless compact storage of sparse, palettised and low-bit weights.

`compact.onnx` writes them into ONNX files, `compact.safetensors` into safetensors files.
"""

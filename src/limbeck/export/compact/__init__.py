"""Lossless compact storage of sparse, palettised and low-bit weights.

`compact.graph` writes them into ONNX files, `compact.weights` into safetensors files.
"""

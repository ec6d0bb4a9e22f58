"""Storage in which weights that are sparse, or take few values, need few bytes; nothing is lost.

`compact.graph` writes such weights into ONNX files, `compact.weights` into safetensors files.
"""

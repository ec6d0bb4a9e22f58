"""Ways to quantise an ONNX file: one file a method, each with a function `quantize`."""

from limbeck.registry import Registry

QUANTIZERS = Registry(__name__, kind="quantize.method", attribute="quantize")
"""Every method by name: `QUANTIZERS.load("int8_static")(source, target, calibration=batches)`."""

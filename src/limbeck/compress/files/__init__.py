"""Weight compression of an exported ONNX file, and its record."""

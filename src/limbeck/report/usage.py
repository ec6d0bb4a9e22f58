"""Code snippets of the model card that use a student without limbeck."""

from __future__ import annotations

_IMAGES = """
**From the ONNX file**, with numpy, Pillow and onnxruntime (no torch, no limbeck), here:

```python
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

with open("preprocess.json") as file:
    prepare = json.load(file)
session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])

loaded = ImageOps.exif_transpose(Image.open("image.png")).convert(prepare["mode"])
height, width = prepare["size"]
if loaded.size != (width, height):
    loaded = loaded.resize((width, height), Image.Resampling[prepare["resample"].upper()])
pixels = np.asarray(loaded, dtype=np.float32).reshape(height, width, prepare["channels"])
pixels = pixels / np.float32(255)  # a file has 256 levels
pixels = (pixels - np.float32(prepare["mean"])) / np.float32(prepare["std"])
image = pixels.transpose(2, 0, 1)[None]

(logits,) = session.run(["logits"], {session.get_inputs()[0].name: image})
print("class", classes[int(logits[0].argmax())])
```
"""
_TEXTS = """
**From the ONNX file**, with numpy, tokenizers and onnxruntime (no torch, no limbeck), here:

```python
import json

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])

encoded = tokenizer.encode_batch(["a warm and funny film", "two hours that I will not get back"])
inputs = {
    "input_ids": np.array([one.ids for one in encoded], dtype=np.int64),
    "attention_mask": np.array([one.attention_mask for one in encoded], dtype=np.int64),
}

(logits,) = session.run(["logits"], inputs)
print("classes", [classes[number] for number in logits.argmax(axis=-1)])
```
"""
_TABLES = """
**From the ONNX file**, with numpy and onnxruntime (no torch, no limbeck), here:

```python
import json

import numpy as np
import onnxruntime

with open("preprocess.json") as file:
    prepare = json.load(file)
session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])

with open("row.json") as file:
    row = json.load(file)  # the columns by name: {"age": 39, "sex": "Female"}; null is missing
features = []
for column in prepare["numeric"]:
    value = row[column["name"]]
    features.append(0.0 if value is None else (float(value) - column["mean"]) / column["std"])
    if column["flag"]:
        features.append(float(value is None))
for column in prepare["categorical"]:
    value = row[column["name"]]
    if column["kind"] == "text" and not isinstance(value, str | None):
        raise TypeError(f'{column["name"]}: a text, such as {column["values"][-1]!r}')
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # names of whole numbers have no decimal point
    value = "" if value is None else str(value)
    features += [float(value == known) for known in column["values"]]
    features.append(float(value not in column["values"]))
features = np.array([features], dtype=np.float32)

(logits,) = session.run(["logits"], {"features": features})
print("class", classes[int(logits[0].argmax())])
```
"""
_TORCH = """
**From the weights**, in float as they were before any quantisation, with torch and safetensors:

```python
import torch
from safetensors.torch import load_model

from architecture import build

model = build()
load_model(model, "model.safetensors")
model.eval()
with torch.no_grad():
    {call}
```
"""
_CALLS = {
    "image": "logits = model(torch.from_numpy(image))  # `image` as above",
    "text": "outputs = model(**{name: torch.from_numpy(value) for name, value in inputs.items()})"
    "  # as above",
    "tabular": "logits = model(torch.from_numpy(features))  # as above",
}


def usage(task: str) -> str:
    """Return the two snippets of a task, as Markdown: from the ONNX file, and from the weights.

    Example:
        >>> "tokenizer.json" in usage("text_classification")
        True
    """
    onnx = {"text": _TEXTS, "tabular": _TABLES}.get(task.split("_")[0], _IMAGES)
    return f"{onnx.strip()}\n\n{_from_weights(task).strip()}"


def loading_code(task: str) -> str:
    """Return the code of the card that builds the model from its weights and predicts with it.

    It expects the prepared inputs under the names of the first snippet, and defines `logits` or
    `outputs`.

    Example:
        >>> "load_model" in loading_code("image_classification")
        True
    """
    return _from_weights(task).split("```python\n")[1].split("```")[0]


def _from_weights(task: str) -> str:
    return _TORCH.replace("{call}", _CALLS.get(task.split("_")[0], _CALLS["image"]))

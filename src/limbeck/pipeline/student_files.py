"""Source code of a student's model: the shipped part, and whether it is self-contained."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.compress.changes import CHANGES
from limbeck.compress.method import Change
from limbeck.core.files import replacing, write_text
from limbeck.errors import InputError, Problem
from limbeck.export.huggingface import image_processor, make_tokenizer, to_folder
from limbeck.export.invariance import compare
from limbeck.export.predictor import TorchPredictor
from limbeck.export.quiet import quiet
from limbeck.export.standalone import changed_architecture, check_standalone
from limbeck.models.build import architecture, modules
from limbeck.report.usage import loading_code

if TYPE_CHECKING:
    from torch import nn

    from limbeck.data.preprocess import HuggingFace
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.context import Context


ROWS = 8
"""Number of validation rows on which the shipped code must match the model."""

MODULES = 200
"""Maximum number of user modules shipped with a model."""


def try_code(context: Context) -> None:
    """Check with fresh weights whether the student's code builds its model alone.

    Raises:
        InputError: It imports or reads files that do not ship, or builds another model.
    """
    from limbeck.export.weights import save_weights

    spec = context.student_spec.model_copy(update={"checkpoint": None})
    model = context.build(spec, seed=context.seed).eval()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_code(spec, context, (), folder)
        save_weights(model, folder / "model.safetensors")
        check_code(model, context, folder, where="student.name")


def write_code(spec: ModelSpec, context: Context, changes: Sequence[Change], folder: Path) -> None:
    """Write `architecture.py`, and the user modules that it imports.

    Raises:
        InputError: A module cannot be shipped.
    """
    dense = architecture(spec, **context.fit)
    write_text(folder / "architecture.py", changed_architecture(dense, changes, CHANGES.package))
    needed = modules(spec)
    problems = [
        Problem("student.name", f"{dotted}, imported from {file}", allowed, fix)
        for dotted, file in needed.items()
        for allowed, fix in _unshippable(dotted, file, len(needed))
    ]
    if problems:
        raise InputError(*problems)
    for dotted, file in needed.items():
        path = folder.joinpath(*dotted.split("."))
        target = path / file.name if file.name == "__init__.py" else path.with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            shutil.copyfile(file, temporary)


def _unshippable(dotted: str, file: Path, count: int) -> Iterator[tuple[str, str]]:
    """Yield reasons why a module cannot ship: what is allowed, and the fix."""
    if file.suffix != ".py":
        yield "modules of Python source", "Install it as a package."
    if dotted == "architecture":
        yield "another name: the student's own file is called so", "Rename the module."
    if count > MODULES:
        fix = "Install the packages that the model needs."
        yield f"at most {MODULES} modules beside a model, not {count}", fix


def check_code(model: nn.Module, context: Context, folder: Path, *, where: str) -> None:
    """Check that the code and weights in a folder build the model in a separate process.

    Raises:
        InputError: The process fails, or its predictions differ.
    """
    rows = context.data.validation
    batch = rows.__getitems__(rows.spread(ROWS))
    inputs = {name: batch[name].numpy() for name in context.task.inputs}
    [expected, *_] = TorchPredictor(model.cpu(), context.task).predict(inputs).values()
    code = loading_code(context.task.name, context.data.facts.modality)
    check_standalone(folder, code, inputs, expected, where=where)


SAMPLES = 64
"""Number of validation texts on which the tokenizer must match that of the training."""

README = """---
library_name: transformers
pipeline_tag: {pipeline}
tags: [knowledge-distillation, limbeck, onnx]
---

# {name}
{classes}
```python
from transformers import pipeline

predict = pipeline("{pipeline}", model="."{settings})
print(predict({example}))
```

`model.onnx` is the exported file in the layout of optimum: `{ort}.from_pretrained(".")`.
"""


def write_folder(model: nn.Module, context: Context, folder: Path) -> None:
    """Write the folder, and check it in a process with transformers and without limbeck.

    Raises:
        InputError: transformers cannot load it, or its predictions differ.
    """
    prepare, rows = context.data.preprocess, context.data.validation
    form = _form(context, where="export")
    arguments = prepare.image_processor()
    to_folder(
        model,
        folder,
        classes=context.data.classes,
        tokenizer=_tokenizer(context),
        image_processor=None if arguments is None else image_processor(**arguments),
        onnx=context.folder / "model.onnx",
        readme=README.format(
            name=f"{context.recipe.name}-student",
            pipeline=form.pipeline,
            classes=f"\nClasses: {', '.join(context.data.classes)}.\n"
            if context.data.classes
            else "",
            settings=form.arguments,
            example=form.example,
            ort=f"ORTModelFor{form.model}",
        ),
        special_tokens=prepare.special_tokens(),
    )
    prepare.save(folder)
    numbers = rows.spread(ROWS)
    batch = rows.__getitems__(numbers)
    expected = TorchPredictor(model, context.task).predict(batch)["logits"]
    inputs = {name: batch[name].numpy() for name in context.task.inputs}
    if form.raw:
        inputs = {form.raw: np.array(_texts(context, numbers))}
    check_standalone(folder, form.code, inputs, expected, where="student/huggingface")


def _form(context: Context, *, where: str) -> HuggingFace:
    """Return the form of the folder of a student of these data.

    Raises:
        InputError: There is none.
    """
    prepare = context.data.preprocess
    if prepare.huggingface is None:
        given = f"huggingface, for data of the kind {prepare.kind}"
        allowed = "onnx or safetensors, for data that limbeck writes no such folder for"
        raise InputError(Problem(f"{where}.format", given, allowed, "Remove huggingface."))
    return prepare.huggingface


def try_folder(model: nn.Module, context: Context, *, where: str) -> None:
    """Check on an untrained model whether transformers can load its saved folder.

    Raises:
        InputError: The model has a change that its configuration does not describe, or there is no
            such folder for data of this kind.
    """
    _form(context, where=where)
    rows = context.data.validation
    batch = rows.__getitems__(rows.spread(ROWS))
    expected = TorchPredictor(model, context.task).predict(batch)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "huggingface"
        to_folder(model, folder)
        try:
            with quiet():
                kind: Any = type(model)
                loaded, info = kind.from_pretrained(folder, output_loading_info=True)
            failed = [name for found in info.values() for name in map(str, found)]
        except Exception as error:  # transformers raises errors of many types
            loaded, failed = None, [f"{type(error).__name__}: {error}"]
    same = loaded is not None and not failed
    if same and loaded is not None:
        device = next(model.parameters()).device
        found = TorchPredictor(loaded.to(device), context.task).predict(batch)
        same = all(one.within for one in compare(expected, found, tolerance=1e-3))
    if not same:
        given = "a model that transformers does not load again as it is"
        given += f" ({', '.join(failed[:3])})" if failed else ""
        allowed = "onnx or safetensors, for a model whose structure was changed"
        raise InputError(Problem(f"{where}.format", given, allowed, "Remove huggingface."))


def _tokenizer(context: Context) -> Any:
    tokenization, section = context.data.preprocess.tokenization, context.recipe.data.section
    if tokenization is None:
        return None
    return make_tokenizer(
        tokenization.text,
        max_length=tokenization.max_length,
        inputs=list(context.task.inputs),
        beside=None if section is None else section.tokenizer_folder,
        samples=_texts(context, context.data.validation.spread(SAMPLES)),
        special_tokens=context.data.preprocess.special_tokens(),
        chat_template=context.data.preprocess.chat_template,
    )


def _texts(context: Context, rows: list[int]) -> list[str]:
    return [context.data.validation.raw(row)["text"] for row in rows]

"""The divergences within compiled code.

In a process of its own: the shape checks that the test session puts around the losses do not
compile.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from limbeck import losses

PROGRAM = """
import torch

from limbeck.losses import divergence, fused_divergence
from limbeck.targets import DenseTargets, HeadTargets, SampledTargets, TopKTargets

torch.manual_seed(0)
student, teacher = torch.randn(2, 40, 6, dtype=torch.float64)
hidden, weight = torch.randn(40, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
weights = (torch.arange(40) % 3 > 0).double()
forms = {
    "dense": DenseTargets(teacher),
    "top-k": TopKTargets.of(teacher, 2),
    "sampled": SampledTargets.draw(teacher, draws=3, temperature=2.0),
    "head": HeadTargets(hidden, weight),
}


def same(step, *leaves, **options):
    found = []
    for function in (step, torch.compile(step, **options)):
        copies = [leaf.clone().requires_grad_() for leaf in leaves]
        value = function(*copies)
        value.backward()
        found.append((value, *(copy.grad for copy in copies)))
    torch.testing.assert_close(*found)


for kind in ("forward_kl", "reverse_kl", "jsd", "tvd"):
    same(
        lambda s: divergence(s, forms["dense"], kind=kind, temperature=2.0).sum(),
        student,
        backend="aot_eager",
        fullgraph=True,
    )
labels = torch.arange(40) % 6
for backend in ("eager", "aot_eager"):
    for targets in forms.values():

        def step(h, w):
            value = fused_divergence(
                h.tanh(),
                w,
                targets,
                temperature=2.0,
                labels=labels,
                bias=w.sum(1),
                softcap=5.0,
                weights=weights,
                block_bytes=50,
            )
            return value * 2

        same(step, hidden, weight, backend=backend, fullgraph=True)
"""


EVERY = """
import importlib.util
import sys
from pathlib import Path

import torch

from limbeck.targets import DenseTargets
from limbeck.testing.subject import Subject, each, parts


def gradient(loss, subject, inputs):
    leaf = each(lambda side: side.clone().requires_grad_(), inputs.student)
    second = DenseTargets(inputs.second) if subject.takes_targets else inputs.second
    value = loss(leaf, second, **subject.settings(inputs))
    return value, *torch.autograd.grad(value.sum(), parts(leaf))


tried = set()
for path in Path(sys.argv[1]).glob("*.py"):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, trials in module.TRIALS.items():
        for trial in trials[:2]:
            [loss], given = trial.args, trial.keywords
            if given["kind"] == "fused":
                continue
            subject = Subject(loss, given["kind"], None, 0, given.get("draw"))
            inputs = subject.draw()
            torch.compiler.reset()
            compiled = torch.compile(loss, backend="eager", fullgraph=True)
            expected, actual = (gradient(one, subject, inputs) for one in (loss, compiled))
            torch.testing.assert_close(actual, expected, msg=lambda text: f"{name}: {text}")
            tried.add(name)
print(*sorted(tried))
"""

FORWARD = """
import torch

from limbeck.losses import fused_divergence
from limbeck.targets import DenseTargets

hidden, weight, teacher = torch.randn(4, 3), torch.randn(5, 3), torch.randn(4, 5)


@torch.compile(backend="eager")
def derivative(hidden):
    def loss(hidden):
        return fused_divergence(hidden, weight, DenseTargets(teacher), temperature=2.0)

    return torch.func.jvp(loss, (hidden,), (torch.ones_like(hidden),))[1]


try:
    print("silently", derivative(hidden))
except Exception as error:
    print("refused", type(error).__name__, error)
"""


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_compiled_divergences_equal_eager_ones():
    done = run(PROGRAM)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_loss_compiles_to_one_graph_with_equal_results():
    done = run(EVERY, Path(__file__).parent / "trials")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [name for name in losses.__all__ if name != "fused_divergence"]


@pytest.mark.slow
def test_forward_mode_of_the_compiled_fused_form_raises():
    done = run(FORWARD)
    assert done.stdout.startswith("refused"), done.stdout
    assert "forward mode" in done.stdout

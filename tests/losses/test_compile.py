"""The divergences within compiled code.

In a process of its own: the shape checks that the test session puts around the losses do not
compile.
"""

import subprocess
import sys

import pytest

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


@pytest.mark.slow
def test_compiled_code_gives_what_plain_code_gives():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

"""What the dense divergence keeps, and what the fused one needs, as ratios in one run.

python benchmarks/divergence.py memory             bytes an element of the dense form
python benchmarks/divergence.py growth             peak memory of fused and dense, a process each
python benchmarks/divergence.py time --rounds 5    fused against dense, one after the other
python benchmarks/divergence.py large              a vocabulary of 128256 in one more GiB
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from limbeck.losses import divergence, fused_divergence
from limbeck.targets import DenseTargets, HeadTargets

KINDS = ["forward_kl", "reverse_kl", "jsd", "tvd"]
TEMPERATURE = 2.0
FEATURES, TEACHER_FEATURES = 256, 512
MIB = 2**20


def plain(student, targets, *, kind, temperature):
    """The kinds as one writes them down with torch, in the precision of the logits."""
    log_p, log_q = (F.log_softmax(x / temperature, -1) for x in (targets.logits, student))
    if kind == "forward_kl":
        value = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    elif kind == "reverse_kl":
        value = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    elif kind == "tvd":
        value = (log_p.exp() - log_q.exp()).abs().sum(-1) / 2
    else:
        log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
        to_p = F.kl_div(log_m, log_p, reduction="none", log_target=True)
        to_q = F.kl_div(log_m, log_q, reduction="none", log_target=True)
        value = (to_p + to_q).sum(-1) / 2
    return value * temperature**2


def allocations(work):
    """Bytes that live after forward, and at most at any time, as torch's allocator counted them."""
    kept = peak = live = 0
    with torch.profiler.profile(profile_memory=True) as watch:
        value = work()
        with torch.profiler.record_function("between"):
            total = value.sum()
        total.backward()
    events = watch.profiler.kineto_results.events()
    between = next(e.start_ns() for e in events if e.name() == "between")
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    for at, change in changes:
        live += change
        peak = max(peak, live)
        if at < between:
            kept = live
    return kept, peak


def memory(arguments):
    """Bytes an element that the dense forms keep and need."""
    elements, classes = arguments.elements, arguments.classes
    print(
        f"{elements} x {classes}: bytes an element beyond the inputs, kept for backward / at peak"
    )
    print(f"{'':<12}{'limbeck bf16':>16}{'torch bf16':>16}{'limbeck fp32':>16}{'torch fp32':>16}")
    for kind in KINDS:
        row = f"{kind:<12}"
        for dtype in (torch.bfloat16, torch.float32):
            for function in (divergence, plain):
                student = torch.randn(elements, classes, dtype=dtype, requires_grad=True)
                targets = DenseTargets(torch.randn(elements, classes, dtype=dtype))

                def work(function=function, student=student, targets=targets, kind=kind):
                    return function(student, targets, kind=kind, temperature=TEMPERATURE)

                kept, peak = (b / (elements * classes) for b in allocations(work))
                row += f"{kept:>9.2f} /{peak:5.2f}"
        print(row)


def problem(elements, classes):
    """A student's hidden states and head, and a teacher's."""
    torch.manual_seed(0)
    hidden = torch.randn(elements, FEATURES, requires_grad=True)
    weight = (torch.randn(classes, FEATURES) / FEATURES**0.5).requires_grad_()
    theirs = torch.randn(elements, TEACHER_FEATURES)
    head = torch.randn(classes, TEACHER_FEATURES) / TEACHER_FEATURES**0.5
    return hidden, weight, HeadTargets(theirs, head)


def fused(hidden, weight, targets, kind):
    """Forward and backward without ever having all logits."""
    fused_divergence(hidden, weight, targets, kind=kind, temperature=TEMPERATURE).backward()


def dense(hidden, weight, targets, kind, function=divergence):
    """The same with all logits of both sides at once."""
    with torch.no_grad():
        logits = targets.hidden @ targets.weight.T
    given = {"kind": kind, "temperature": TEMPERATURE}
    function(hidden @ weight.T, DenseTargets(logits), **given).mean().backward()


def by_hand(hidden, weight, targets, kind):
    """The same in plain torch."""
    dense(hidden, weight, targets, kind, function=plain)


FORMS = {"fused": fused, "dense": dense, "torch": by_hand}


def status(field):
    """A line of this process's memory account, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def child(arguments):
    """One form in a process of its own: how far resident memory grew above the inputs."""
    form = FORMS[arguments.form]
    form(*problem(8, 64), arguments.kind)  # libraries have loaded what they load
    inputs = problem(arguments.elements, arguments.classes)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    if arguments.limit:
        most = status("VmSize") + arguments.limit * MIB
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        form(*inputs, arguments.kind)
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        print("nan")
        return
    print(status("VmHWM") - before)


def grown(form, elements, classes, kind, limit=0):
    """Run `child`; bytes, or NaN where memory did not suffice."""
    command = [sys.executable, __file__, "child", "--form", form, "--kind", kind]
    command += ["--elements", str(elements), "--classes", str(classes), "--limit", str(limit)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def growth(arguments):
    """Peak resident growth of each form, and what twice the elements add."""
    elements, classes = arguments.elements, arguments.classes
    for kind in arguments.kinds:
        found = {form: grown(form, elements, classes, kind) for form in FORMS}
        twice = grown("fused", 2 * elements, classes, kind)
        more = elements * FEATURES * 4 * 2  # twice: the gradient, and that scaled by the way back
        print(f"{kind}, {elements} x {classes}: peak resident growth in MiB")
        print("  " + ", ".join(f"{form} {size / MIB:.0f}" for form, size in found.items()))
        print(f"  fused / dense {found['fused'] / found['dense']:.3f}, at most 0.2")
        print(
            f"  twice the elements: {(twice - found['fused']) / MIB:+.1f} "
            f"(their gradients, twice: {more / MIB:.1f})"
        )


def timing(arguments):
    """Medians of interleaved rounds, and their ratios to the dense form's."""
    inputs = problem(arguments.elements, arguments.classes)
    for kind in arguments.kinds:
        taken = {form: [] for form in FORMS}
        for _ in range(arguments.rounds):
            for name, form in FORMS.items():
                inputs[0].grad = inputs[1].grad = None
                clock = time.perf_counter()
                form(*inputs, kind)
                taken[name].append(time.perf_counter() - clock)
        medians = {name: statistics.median(times) for name, times in taken.items()}
        ratios = [f / d for f, d in zip(taken["fused"], taken["dense"], strict=True)]
        print(f"{kind}: " + ", ".join(f"{name} {1000 * m:.0f} ms" for name, m in medians.items()))
        print(f"  fused / dense, median over rounds: {statistics.median(ratios):.3f}, at most 1")


def large(arguments):
    """A vocabulary of 128256 where one more GiB is all there is."""
    elements, classes = arguments.elements, 128256
    needed = elements * classes * 4 * 3
    print(
        f"{elements} x {classes}: logits of both sides and a gradient take {needed / MIB:.0f} MiB"
    )
    for form in ("fused", "dense"):
        size = grown(form, elements, classes, "forward_kl", limit=1024)
        print(f"  {form}: " + (f"grew by {size / MIB:.0f} MiB" if size == size else "does not fit"))


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=["memory", "growth", "time", "large", "child"])
    parser.add_argument("--elements", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=32000)
    parser.add_argument("--kinds", nargs="+", default=["forward_kl"], choices=KINDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--form", choices=FORMS, default="fused")
    parser.add_argument("--kind", choices=KINDS, default="forward_kl")
    parser.add_argument("--limit", type=int, default=0)
    arguments = parser.parse_args()
    parts = {"memory": memory, "growth": growth, "time": timing, "large": large, "child": child}
    parts[arguments.what](arguments)


if __name__ == "__main__":
    main()

"""Results of runs: images with three seeds, texts with one, and a minimal run."""

import base64
import struct
import zlib
from collections.abc import Callable

import contexts
import detailed
import numpy as np
import pytest

from limbeck.core.measurement import ScoreValue
from limbeck.evaluate.calibration.metrics import Bin, Calibration
from limbeck.evaluate.costs import Cost, Energy, Latency
from limbeck.evaluate.evaluation import EVALUATIONS, evaluate
from limbeck.evaluate.hardware import Hardware
from limbeck.evaluate.intervals import summarize, wilson
from limbeck.evaluate.metrics import Fidelity, Parity
from limbeck.report.result import (
    BudgetCheck,
    Comparison,
    Curve,
    DataFacts,
    Disagreement,
    Environment,
    Link,
    Measured,
    Role,
    RunResult,
)
from limbeck.tasks.scores import ACCURACY

DIGITS = tuple(str(digit) for digit in range(10))


def png(pixels: np.ndarray) -> str:
    """Encode a grey image as PNG in base64, without an imaging library."""
    height, width = pixels.shape
    raw = b"".join(b"\x00" + row.astype(np.uint8).tobytes() for row in pixels)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def confusion(correct: int, total: int, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Return counts with `correct` on the diagonal; errors are mostly in neighbouring classes."""
    counts = np.zeros((classes, classes), dtype=int)
    for index in range(total):
        label = index % classes
        predicted = label if index < correct else (label + int(rng.choice([1, 2, 7]))) % classes
        counts[label, predicted if classes > 2 or index < correct else 1 - label] += 1
    return counts


def calibration(accuracy: float, total: int) -> Calibration:
    edges = np.linspace(0, 1, 16)
    share = np.array([0, 0, 0, 0, 0, 0, 0.01, 0.01, 0.02, 0.02, 0.02, 0.03, 0.05, 0.1, 0.74])
    middle = (edges[:-1] + edges[1:]) / 2
    bins = tuple(
        Bin(
            low=low,
            high=high,
            count=round(total * s),
            confidence=m,
            accuracy=min(1.0, m * accuracy + 0.02),
        )
        for low, high, s, m in zip(edges[:-1], edges[1:], share, middle, strict=True)
    )
    return Calibration(ece=0.013, nll=0.081, bins=bins)


def measured(
    seed: int,
    accuracy: float,
    *,
    role: Role,
    size: int,
    parameters: int,
    classes: int,
    total: int,
    latency: float,
    file: str,
    energy: bool = True,
) -> Measured:
    correct = round(accuracy * total)
    rng = np.random.default_rng(seed)
    return Measured(
        seed=seed,
        file=file,
        digest=f"sha256:{seed:02d}" + "ab" * 31,
        validation_score=accuracy - 0.002,
        scores=(
            ScoreValue(
                metric=ACCURACY.metric,
                value=correct / total,
                interval=wilson(correct, total),
                samples=total,
            ),
        ),
        fidelity=Fidelity(agreement=0.981, interval=wilson(353, 360), kl=0.0421)
        if role != "teacher"
        else None,
        calibration=calibration(accuracy, total),
        cost=Cost(
            size_bytes=size,
            parameters=parameters,
            flops=parameters * 41,
            latency=tuple(
                Latency(
                    threads=t,
                    p50=latency * f,
                    p90=latency * f * 1.1,
                    p99=latency * f * 1.7,
                    runs=400,
                )
                for t, f in ((1, 1.0), (2, 0.71))
            ),
            throughput=64_000 / latency,
            throughput_batch=64,
            peak_memory_bytes=41_000_000 + size * 3,
            energy=Energy(
                joules=latency * 0.011, grams_co2=latency * 1e-6, source="estimated, codecarbon"
            )
            if energy
            else None,
        ),
        parity=Parity(
            max_abs_difference=2.1e-5,
            mean_abs_difference=3.2e-6,
            agreement=1.0,
            tolerance=1e-3,
            within=True,
            samples=256,
        ),
        confusion=tuple(map(tuple, confusion(correct, total, classes, rng).tolist())),
    )


def link(
    stage: str,
    label: str,
    role: Role,
    what: str,
    accuracies: list[float],
    *,
    notes: tuple[str, ...] = (),
    **cost: object,
) -> Link:
    each = tuple(
        measured(seed, value, role=role, file=f"stages/{stage}/model.onnx", **cost)
        for seed, value in enumerate(accuracies)
    )
    return Link(
        stage=stage,
        label=label,
        role=role,
        what=what,
        seconds=summarize([12.3] * len(accuracies)),
        measured=each,
        score=summarize([one.score.value for one in each]),
        notes=notes,
    )


def curve(label: str, role: Role, seed: int, epochs: int, top: float) -> Curve:
    steps = np.arange(1, epochs + 1)
    loss = 0.1 + 2.2 * np.exp(-steps / 5) + 0.01 * np.cos(steps * (seed + 2))
    rows = tuple(
        {
            "epoch": float(e),
            "seconds": 0.3,
            "train/loss": float(v),
            "train/task": float(0.4 * v),
            "train/learning_rate": 0.1,
            **({"train/soft_target_kl": float(1.8 * v)} if role == "student" else {}),
            "validation/accuracy": float(top - 0.6 * np.exp(-e / 4) - 0.004 * ((e + seed) % 3)),
        }
        for e, v in zip(steps, loss, strict=True)
    )
    return Curve(label=label, role=role, seed=seed, rows=rows)


def similarity(classes: int) -> tuple[tuple[float, ...], ...]:
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(classes, classes)) + 5 * np.eye(classes)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return tuple(map(tuple, shares.tolist()))


def environment() -> Environment:
    return Environment(
        hardware=Hardware(
            processor="Intel Xeon Platinum 8481C @ 2.70 GHz",
            flags=("avx2", "avx512f", "avx512_vnni"),
            cores=2,
            memory_bytes=25_000_000_000,
            accelerator=None,
            system="Linux 6.8 (Debian 12)",
        ),
        versions={
            "limbeck": "0.1.0",
            "torch": "2.9.1",
            "onnxruntime": "1.23.2",
            "python": "3.11.9",
        },
        git_commit="4f0c2a97d1e5b6a8c3d2e1f0a9b8c7d6e5f4a3b2",
        command="limbeck run digits",
        started="2026-03-01T14:05:09+00:00",
        seconds=83.4,
    )


def facts(name: str, classes: tuple[str, ...], total: int, kind: str = "image") -> DataFacts:
    return DataFacts(
        modality=kind,
        source="sklearn",
        name=name,
        licence="CC BY 4.0",
        fingerprint="sha256:9e1f" + "0" * 60,
        classes=classes,
        train=1149,
        validation=288,
        test=total,
        notes=("Split by sample, stratified.",),
    )


def make_digits() -> RunResult:
    """Return a run of ten classes, three seeds and four stages, with every measurement."""
    shared = {"classes": 10, "total": 360}
    rng = np.random.default_rng(3)
    chain = (
        link(
            "train_teacher",
            "digits_cnn, width 64",
            "teacher",
            "trained on labels for 20 epochs",
            [0.9889, 0.9861, 0.9917],
            size=1_493_000,
            parameters=371_914,
            latency=0.412,
            **shared,
        ),
        link(
            "distill",
            "distilled, width 8",
            "student",
            "soft targets at T = 4, 40 epochs",
            [0.9806, 0.9778, 0.9833],
            size=31_200,
            parameters=6_274,
            latency=0.081,
            **shared,
        ),
        link(
            "quantize",
            "int8",
            "student",
            "static int8, 256 calibration samples",
            [0.9806, 0.975, 0.9806],
            size=27_900,
            parameters=6_274,
            latency=0.074,
            notes=("The int8 file of a net this small is mostly graph.",),
            **shared,
        ),
        link(
            "export",
            "ONNX",
            "student",
            "graph optimised offline",
            [0.9806, 0.975, 0.9806],
            size=26_100,
            parameters=6_274,
            latency=0.071,
            **shared,
        ),
    )
    baseline = link(
        "baseline",
        "labels alone, width 8",
        "baseline",
        "the same net, epochs and seeds",
        [0.9639, 0.9611, 0.9694],
        size=31_200,
        parameters=6_274,
        latency=0.081,
        **shared,
    )
    pairs = zip(chain[1].score.values, baseline.score.values, strict=True)
    return RunResult(
        name="digits",
        task="image_classification",
        recipe={
            "name": "digits",
            "task": "image_classification",
            "data": {"source": "sklearn", "name": "digits"},
            "teacher": {"source": "limbeck", "name": "digits_cnn", "width": 64},
            "student": {"source": "limbeck", "name": "digits_cnn", "width": 8},
            "budget": {"size_kb": 40, "latency_ms": 1.0, "drop": {"accuracy": 0.01}},
            "seeds": [0, 1, 2],
            "stages": [
                {"train_teacher": {"epochs": 20}},
                {
                    "distill": {
                        "epochs": 40,
                        "objective": [
                            {"task": {"weight": 0.1}},
                            {"soft_target_kl": {"temperature": 4.0, "weight": 0.9}},
                        ],
                    }
                },
                {"quantize": {"method": "int8_static"}},
                {"export": {"format": "onnx"}},
            ],
        },
        seeds=(0, 1, 2),
        data=facts("digits", DIGITS, 360),
        chain=chain,
        baseline=baseline,
        comparison=Comparison(
            student=chain[1].score,
            baseline=baseline.score,
            difference=summarize([a - b for a, b in pairs]),
        ),
        budget=(
            BudgetCheck(name="size_kb", allowed=40, measured=26.1, unit="kB", met=True),
            BudgetCheck(name="latency_ms", allowed=1.0, measured=0.071, unit="ms", met=True),
            BudgetCheck(
                name="drop",
                allowed=0.005,
                measured=0.0102,
                unit="",
                met=False,
                metric=ACCURACY.metric,
            ),
        ),
        curves=tuple(
            curve(label, role, seed, epochs, top)
            for seed in range(3)
            for label, role, epochs, top in (
                ("teacher", "teacher", 20, 0.989),
                ("distilled", "student", 40, 0.981),
                ("labels alone", "baseline", 40, 0.964),
            )
        ),
        class_similarity=similarity(10),
        similarity_temperature=4.0,
        disagreements=tuple(
            Disagreement(
                index=17 * i,
                label=i % 10,
                teacher=tuple(rng.dirichlet(np.eye(10)[i % 10] * 20 + 0.1)),
                student=tuple(rng.dirichlet(np.eye(10)[(i + 1) % 10] * 6 + 0.1)),
                image=png(rng.integers(0, 256, (8, 8))),
            )
            for i in range(6)
        ),
        disagreement_count=7,
        environment=environment(),
        notes=("The test split was touched once, at the end.",),
    )


def make_texts() -> RunResult:
    """Return a run of two classes and one seed, on sentences."""
    shared = {"classes": 2, "total": 872}
    chain = (
        link(
            "train_teacher",
            "BERT, 4 layers",
            "teacher",
            "trained on labels",
            [0.8131],
            size=19_400_000,
            parameters=4_800_000,
            latency=4.1,
            **shared,
        ),
        link(
            "distill",
            "BERT, 2 layers",
            "student",
            "soft targets at T = 2",
            [0.8085],
            size=9_900_000,
            parameters=2_400_000,
            latency=2.2,
            **shared,
        ),
    )
    baseline = link(
        "baseline",
        "labels alone",
        "baseline",
        "the same net",
        [0.797],
        size=9_900_000,
        parameters=2_400_000,
        latency=2.2,
        **shared,
    )
    sentences = (
        "it 's a charming and often affecting journey .",
        "unflinchingly bleak and desperate, and for all that the film of the year .",
    )
    return make_digits().model_copy(
        update={
            "name": "sst2",
            "task": "text_classification",
            "seeds": (0,),
            "chain": chain,
            "baseline": baseline,
            "data": facts("sst2", ("negative", "positive"), 872, "text"),
            "comparison": Comparison(
                student=summarize([0.8085]),
                baseline=summarize([0.797]),
                difference=summarize([0.0115]),
            ),
            "budget": (
                BudgetCheck(name="size_mb", allowed=12, measured=9.9, unit="MB", met=True),
                BudgetCheck(name="latency_ms", allowed=3.0, measured=2.2, unit="ms", met=True),
            ),
            "curves": (
                curve("teacher", "teacher", 0, 6, 0.81),
                curve("distilled", "student", 0, 6, 0.8),
            ),
            "class_similarity": similarity(2),
            "disagreements": tuple(
                Disagreement(
                    index=i,
                    label=i % 2,
                    teacher=(0.9 - 0.1 * i, 0.1 + 0.1 * i),
                    student=(0.3, 0.7),
                    text=text,
                )
                for i, text in enumerate(sentences)
            ),
            "disagreement_count": 31,
        }
    )


def make_minimal() -> RunResult:
    """Return a run without teacher, baseline, budget, curves and energy."""
    only = link(
        "train",
        "net",
        "student",
        "trained on labels",
        [0.96],
        size=31_200,
        parameters=6_274,
        latency=0.08,
        energy=False,
        classes=10,
        total=360,
    )
    bare = only.measured[0].model_copy(update={"fidelity": None, "parity": None})
    return make_digits().model_copy(
        update={
            "name": "bare",
            "seeds": (0,),
            "chain": (only.model_copy(update={"measured": (bare,)}),),
            "baseline": None,
            "comparison": None,
            "budget": (),
            "curves": (),
            "class_similarity": None,
            "disagreements": (),
            "disagreement_count": 0,
            "notes": (),
        }
    )


def make_detailed() -> RunResult:
    """Return a run with the details of every task that has some."""
    found = detailed.combined(
        detailed.segmentation(("sky", "street"), size=12),
        detailed.detection(("cell", "platelet")),
        detailed.forecast(),
        detailed.regression(),
    )
    return make_minimal().model_copy(update={"details": found})


RESULTS: dict[str, Callable[[], RunResult]] = {
    "digits": make_digits,
    "texts": make_texts,
    "minimal": make_minimal,
    "detailed": make_detailed,
}


@pytest.fixture(scope="session")
def digits() -> RunResult:
    return make_digits()


@pytest.fixture(scope="session")
def evaluated(digits: RunResult) -> RunResult:
    """Return the run with every evaluation, of two real networks on few samples."""
    brief = {
        "attribution": {"samples": 8},
        "model_extraction": {"budgets": (20, 40)},
        "robustness": {"attack_samples": 10, "queries": 10, "steps": 3, "restarts": 1},
    }
    found = evaluate(contexts.digits(), {name: brief.get(name, {}) for name in EVALUATIONS.names()})
    return digits.model_copy(update={"evaluation": found})


@pytest.fixture(scope="session")
def texts() -> RunResult:
    return make_texts()


@pytest.fixture(scope="session")
def minimal() -> RunResult:
    return make_minimal()


@pytest.fixture(scope="session")
def with_details() -> RunResult:
    return make_detailed()


@pytest.fixture(scope="session", params=sorted(RESULTS))
def result(request: pytest.FixtureRequest) -> RunResult:
    return RESULTS[request.param]()

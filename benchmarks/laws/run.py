"""Hold the libraries that people use to limbeck's laws, each in an environment of its own.

    python benchmarks/laws/run.py [--peer trl] [--environments DIR] [--results DIR]

For each peer an environment is made with uv and the peer installed from the package index; then its
adapter (`peers/NAME.py`) runs there, with limbeck's source on the path. What was seen goes to the
results folder as JSON; from all that lies there `docs/laws.md` is written.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import page

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OURS = ("numpy", "jaxtyping")  # what limbeck's losses and laws import, besides torch


@dataclass(frozen=True)
class Peer:
    """What is installed for an adapter.

    Attributes:
        title: Its name in the page.
        requirements: What pip is asked for; nothing for torch alone.
        note: What there is to say about installing it.
        environment: Variables that the adapter runs with.
    """

    title: str
    requirements: tuple[str, ...] = ()
    note: str = ""
    environment: dict[str, str] = field(default_factory=dict)


PEERS = {
    "torchdistill": Peer("torchdistill", ("torchdistill",)),
    "liger": Peer(
        "liger-kernel",
        ("liger-kernel", "packaging"),
        "it imports packaging without requiring it. Without a GPU, Triton kernels ran in "
        "its interpreter, or not at all",
        {"TRITON_INTERPRET": "1"},
    ),
    "trl": Peer("trl", ("trl",)),
    "modelopt": Peer(
        "nvidia-modelopt",
        ("nvidia-modelopt", "requests", "huggingface_hub"),
        "it imports requests and huggingface_hub without requiring them",
    ),
    "torchtune": Peer(
        "torchtune",
        ("torchtune", "torchao==0.10.0"),
        "with a torchao of its own time: the newest lacks a module that it imports",
    ),
    "distillkit": Peer("distillkit", ("distillkit",)),
    "by_hand": Peer("torch, by hand"),
    "own": Peer("limbeck"),
}


def main() -> None:
    """Run the peers that were asked for, then write the page from all results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=PEERS, action="append", help="all if not given")
    parser.add_argument(
        "--environments", type=Path, help="kept there; a temporary folder if not given"
    )
    parser.add_argument("--results", type=Path, default=Path("runs/laws"))
    parser.add_argument("--uv", default="uv", help="the uv to make environments with")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.peer or PEERS:
            folder = (arguments.environments or Path(scratch)) / name
            found = examine(name, PEERS[name], folder, arguments.uv)
            found |= {
                "title": PEERS[name].title,
                "note": PEERS[name].note,
                "date": datetime.date.today().isoformat(),
            }
            (arguments.results / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
            print(f"{name}: {found.get('failed') or len(found['verdicts'])}")
    results = [arguments.results / f"{name}.json" for name in PEERS]
    read = [json.loads(path.read_text()) for path in results if path.exists()]
    (ROOT / "docs" / "laws.md").write_text(page.write(read), encoding="utf-8")


def examine(name: str, peer: Peer, folder: Path, uv: str) -> dict[str, object]:
    """Install a peer and run its adapter; what stands in the way is the result, too."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", python, "torch", *OURS]
    installed = _run([*install, *peer.requirements])
    if installed.returncode:
        return {"failed": f"not installed: {_last(installed.stderr)}"}
    answer = folder / "answer.json"
    # -P keeps the adapters' own folder off the path: they are named as what they import.
    ran = _run([python, "-P", HERE / "peers" / f"{name}.py", answer], _variables(peer))
    if ran.returncode:
        return {"failed": f"installed, but does not run: {_last(ran.stderr)}"}
    return json.loads(answer.read_text(encoding="utf-8"))


def _variables(peer: Peer) -> dict[str, str]:
    path = os.pathsep.join(str(folder) for folder in (ROOT / "src", HERE))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | peer.environment


def _run(
    command: list[object], variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], env=variables, capture_output=True, text=True, check=False
    )


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[-1].removeprefix("cause: Because ").split(" and ")[0] if lines else "no reason"
    return reason[:200]


if __name__ == "__main__":
    main()

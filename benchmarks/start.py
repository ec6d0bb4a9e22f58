"""How long the command line takes to answer, against an interpreter that only imports typer.

python benchmarks/start.py
"""

import subprocess
import sys
import time

COMMANDS = {
    "python -c 'pass'": ["-c", "pass"],
    "python -c 'import typer'": ["-c", "import typer"],
    "limbeck --help": ["-m", "limbeck", "--help"],
    "limbeck run --help": ["-m", "limbeck", "run", "--help"],
    "import limbeck": ["-c", "import limbeck"],
}


def best(command: list[str], *, times: int = 5) -> float:
    """Give the shortest of several times, which the rest of the machine disturbed least."""
    found = []
    for _ in range(times):
        clock = time.perf_counter()
        subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
        found.append(time.perf_counter() - clock)
    return min(found)


if __name__ == "__main__":
    for name, command in COMMANDS.items():
        print(f"{name:<28}{best(command) * 1000:7.0f} ms")

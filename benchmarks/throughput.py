"""All corruptions against their peer, which `benchmarks.corruptions` times one by one."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import ratios, workers
from benchmarks.report import Result

NAMES = ("corruptions",)
_PEER = "imagecorruptions"
_TARGET = 10.0
_ROOT = Path(__file__).resolve().parents[1]


def measure(
    options: Sequence[str],
    *,
    rounds: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[Result]:
    """Times every corruption, the peer right after, in a process of its own each round.

    Args:
      options: of `benchmarks.corruptions`.
      rounds: counted rounds.
      say: is told how far it is.

    Returns:
      The peer's seconds over ours, of all corruptions together.
    """
    title = f"all corruptions at all severities: images/s of semjax / {_PEER}"
    name = NAMES[0]
    if importlib.util.find_spec(_PEER) is None:
        return [Result(name, title, skipped=f"{_PEER} is not installed: {workers.PEERS}")]
    found, least = [], []
    with tempfile.TemporaryDirectory() as folder:
        stem = Path(folder) / "found"
        command = [sys.executable, "-m", "benchmarks.corruptions", *options, f"--output={stem}"]
        for number in range(rounds):
            done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
            if done.returncode:
                last = " | ".join(done.stderr.strip().splitlines()[-3:])
                return [Result(name, title, failed=f"{' '.join(command)}: {last}")]
            overall = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))["overall"]
            found.append(overall["ratio"])
            least.append(overall["least"])
            say(f"round {number + 1} of {rounds}")
    details = {"options": list(options), "least_of_one_corruption": least}
    return [Result(name, title, ratios.spread(found), _TARGET, at_least=True, details=details)]

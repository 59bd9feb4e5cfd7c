"""The numbers that programs end with: what is documented is what there is."""

import re
import sys
import time
from pathlib import Path

import runs

from experiments import train
from experiments.lifecycle import exit_codes

CODES = {name: value for name, value in vars(exit_codes).items() if name.isupper()}
del CODES["_STDERR"]
README = Path(__file__).resolve().parents[1] / "README.md"


def test_no_two_endings_have_the_same_number_and_each_fits_a_shell():
    assert len(set(CODES.values())) == len(CODES)
    assert all(0 <= code < 256 for code in CODES.values())


def test_the_program_documents_them_all():
    described = re.findall(r"^ +(\d+)  \w", train.__doc__ or "", re.MULTILINE)
    assert sorted(map(int, described)) == sorted(CODES.values())


def test_the_readme_documents_them_all():
    _, table = README.read_text().split("| exit code | meaning |\n|---|---|\n")
    described = re.findall(r"^\| (\d+) \| \w", table.split("\n\n")[0], re.MULTILINE)
    assert sorted(map(int, described)) == sorted(CODES.values())


LEAVES = """
import multiprocessing, os, time
from experiments.lifecycle import exit_codes
if __name__ == "__main__":
    # A worker as those that read data: it would outlive a process that ends by os._exit.
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(100,))
    worker.start()
    print(worker.pid, flush=True)
    exit_codes.say("said past the buffers")
    exit_codes.leave(7)
"""


def test_leaving_takes_the_worker_processes_along():
    said = runs.finish(runs.Running([sys.executable, "-c", LEAVES]), 7, limit=60)
    pid, text = said.split(maxsplit=1)
    assert text == "said past the buffers\n"
    deadline = time.monotonic() + 10
    # Gone, or dead and waiting for whoever has adopted it to look.
    while (status := Path(f"/proc/{pid}/stat")).exists() and " Z " not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)

"""What the project says of its studies is what the kept results of their runs give."""

import re
from pathlib import Path

import pytest

from experiments import report

ROOT = Path(__file__).resolve().parents[1]
README = Path("experiments/README.md")
MARKED = re.findall(r"<!-- study (\w+) -->", (ROOT / README).read_text("utf-8"))


def test_studies_are_told_of():
    assert "ablation" in MARKED


@pytest.mark.parametrize("name", MARKED)
def test_the_page_is_what_the_results_give(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    study = (f"experiments/studies/{name}",)
    report.main(report.Request(study, readme=str(README), check=True))

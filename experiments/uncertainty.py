"""Which training rows a run gets wrong, written while it trains, and the UMIX weights read from it.

A run with --record_errors leaves RUN/errors/STEP.npy at every evaluation, bool[N] in the order of
the training split; a later run with --umix_from=RUN weights its rows by them.
"""

import io
import re
from pathlib import Path

import numpy as np

from experiments import records, untrusted
from experiments.datasets.data import DataError
from semjax.umix import error_rates, umix_weights

# As `record` names its files.
_STEP = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)


def record(workdir: str | Path, step: int, wrong: np.ndarray) -> None:
    """Writes which training rows are misclassified after a step; a resumed run writes it again.

    Args:
      workdir: the run directory.
      step: the step of the evaluation.
      wrong: bool[N].
    """
    folder = Path(workdir) / "errors"
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, wrong.astype(bool), allow_pickle=False)
    records.write_atomically(folder / f"{step}.npy", buffer.getvalue())


def sample_weights(run: str | Path, count: int, *, eta: float, first_step: int = 0) -> np.ndarray:
    """The UMIX weights of the rows of a training split.

    Args:
      run: the directory of a run that recorded its errors on the same split.
      count: N, the rows of the split.
      eta: how much more an uncertain row counts, see `semjax.umix.umix_weights`.
      first_step: recordings before this step are left out.

    Returns:
      f32[N].

    Raises:
      DataError: nothing was recorded, or of another split, or a file is damaged.
    """
    found = (path for path in (Path(run) / "errors").glob("*.npy") if _STEP.fullmatch(path.stem))
    files = {int(path.stem): path for path in found}
    kept = [files[step] for step in sorted(files) if step >= first_step]
    if not kept:
        raise DataError(
            f"{run}: no recorded errors from step {first_step} on; train it with --record_errors"
        )
    columns = []
    for path in kept:
        try:
            wrong = untrusted.read_array(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged: {error}") from error
        if wrong.shape != (count,) or wrong.dtype != bool:
            raise DataError(
                f"{path}: recorded {wrong.dtype}{list(wrong.shape)}, but the training split has "
                f"{count} rows; --dataset and --validation_fraction must be those of that run"
            )
        if wrong.view(np.uint8).max(initial=0) > 1:
            raise DataError(f"{path} is damaged: it holds bytes that are neither true nor false")
        columns.append(wrong)
    return np.asarray(umix_weights(error_rates(np.stack(columns, axis=1)), eta=eta))

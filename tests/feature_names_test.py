"""No data set makes TFDS import a module that is not its own."""

import json
import sys
from pathlib import Path

import pytest

from experiments.datasets import feature_names, tfds_sets
from experiments.datasets.data import DataError

LABEL = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
DICT = "tensorflow_datasets.core.features.features_dict.FeaturesDict"


def _write(directory: Path, label: str, key: str = "pythonClassName") -> Path:
    features = {"label": {"classLabel": {"numClasses": "2"}, key: label}}
    content = {"featuresDict": {"features": features}, "pythonClassName": DICT}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "features.json").write_text(json.dumps(content))
    return directory


def test_features_of_tfds_are_fine(tmp_path: Path) -> None:
    feature_names.check(_write(tmp_path, LABEL))


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_another_class_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=r"names the class 'antigravity\.Label', which is not"):
        feature_names.check(_write(tmp_path, "antigravity.Label", key))


def test_a_damaged_file_is_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "features.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"nested too deeply|Expecting"):
        feature_names.check(tmp_path)


def test_a_module_beside_the_program_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted.py").write_text("raise SystemExit('the data set has run code')\n")
    monkeypatch.syspath_prepend(tmp_path)
    directory = _write(tmp_path / "toy" / "1.0.0", "planted.Label")
    info = {"name": "toy", "version": "1.0.0", "fileFormat": "array_record", "splits": []}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"names the class 'planted\.Label'"):
        tfds_sets.describe(directory)
    assert "planted" not in sys.modules

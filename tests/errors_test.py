"""What is wrong with a checkpoint is said in one line."""

from experiments.checkpointing import errors


def test_a_long_list_is_cut_short_and_counted():
    assert errors.listed(["a", "b"]) == "a; b"
    assert errors.listed([str(i) for i in range(20)]) == "0; 1; 2; 3; 4; 5; 6; 7; and 12 more"


def test_the_root_of_an_error_is_told_in_one_short_line():
    error = RuntimeError("on the way")
    error.__cause__ = OSError("disk full [tensorstore_spec='{...}']\nand a page of it")
    assert errors.digest(error) == "OSError: disk full"
    assert len(errors.digest(ValueError("x" * 9999))) < 500
    assert errors.digest(ValueError()) == "ValueError: "


def test_mismatch_and_damage_are_told_apart_and_are_errors_of_checkpoints():
    assert not issubclass(errors.CheckpointMismatch, errors.CheckpointDamaged)
    assert not issubclass(errors.CheckpointDamaged, errors.CheckpointMismatch)
    assert issubclass(errors.CheckpointMismatch, errors.CheckpointError)
    assert issubclass(errors.CheckpointDamaged, errors.CheckpointError)

# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import errno

import pytest
from safetensors import SafetensorError

from optimum_mixq.utils.folders import appearing_folder, work_folder, write_result


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk_leaves_nothing_and_says_what_to_do(tmp_path, error):
    with pytest.raises(OSError, match=r"The disk is full, so that .*out was not written\. Make room and run the same"):
        with appearing_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("a model")
            raise error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_only_when_all_went_well(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with appearing_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("a model")
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with appearing_folder(tmp_path / "out") as folder:
        (folder / "whole").write_text("a model")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "whole").read_text() == "a model"


@pytest.mark.parametrize(("rank", "written"), [(None, True), ("0", True), ("1", False)])
def test_of_several_processes_the_first_writes_the_result_and_deletes_what_was_kept(
    rank, written, tmp_path, monkeypatch
):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    target = tmp_path / "out"
    work_folder(target).mkdir()
    write_result(target, lambda folder: (folder / "file").write_text("whole"))
    assert (target / "file").exists() == written and work_folder(target).exists() != written

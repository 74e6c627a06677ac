# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
import errno

import pytest
from safetensors import SafetensorError

from optimum_mixq.utils.folders import appearing_folder


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

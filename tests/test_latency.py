# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The measurement that owners of a GPU run does what it says, on a CPU."""

from pathlib import Path

import pytest
import torch


@pytest.fixture
def scripts(monkeypatch, tmp_path):
    """The scripts, which write their results to a folder of the test."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import common
    import latency

    monkeypatch.setattr(common, "RESULTS", tmp_path)
    return latency


def run(scripts, monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["latency.py", *words])
    scripts.main()


def test_a_device_is_measured_against_bfloat16_with_all_taking_turns(scripts, monkeypatch, capsys):
    import latency_gpu
    from common import read_results

    words = "--device cpu --models tiny --batches 1 3 --repeats 2 --eager"
    run(scripts, monkeypatch, *words.split())
    rows = read_results(latency_gpu.FILE)
    names = ["bfloat16 eager", "mixq W8A8 eager", "mixq W4A4 eager"]
    assert [(row["batch"], row["contender"]) for row in rows] == [(size, name) for size in (1, 3) for name in names]
    assert all(row["milliseconds"] > 0 for row in rows) and rows[0]["speedup"] == rows[3]["speedup"] == 1
    assert "| tiny | 3 | mixq W4A4 eager |" in capsys.readouterr().out


def test_what_is_measured_by_default_is_what_the_page_says(scripts, monkeypatch):
    import latency_gpu

    asked = []
    monkeypatch.setattr(latency_gpu, "measure_all", lambda *arguments: asked.append(arguments))
    run(scripts, monkeypatch, "--device", "cuda")
    sizes, batches = ["ViT-B/16", "ViT-L/16", "Swin-B"], [1, 8, 64, 256]
    assert asked == [(torch.device("cuda"), sizes, batches, latency_gpu.REPEATS, True)]
    page = (Path(__file__).parents[1] / "docs" / "gpu.md").read_text()
    assert (
        ", ".join(sizes[:2]) in page and "1, 8, 64 and 256" in page and "benchmarks/latency.py --device cuda" in page
    )


def test_models_that_are_not_measured_there_are_named(scripts, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"Expected models of .*tiny with --device, found ViT-S/16\."):
        run(scripts, monkeypatch, "--device", "cpu", "--models", "ViT-S/16")
    with pytest.raises(SystemExit):
        run(scripts, monkeypatch, "--models", "tiny")
    assert "Expected models of ViT-S/16, ViT-B/16, Swin-T, found tiny." in capsys.readouterr().err


def test_torchao_is_left_out_where_it_is_missing(scripts):
    import latency_gpu

    assert latency_gpu.torchao_models(latency_gpu.SIZES["tiny"](), torch.device("cpu")) == {}

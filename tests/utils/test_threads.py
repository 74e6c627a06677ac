# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""Work runs on the number of torch's threads that it is fastest with, unless somebody chose a number."""

from types import SimpleNamespace

import pytest
import torch
from conftest import random_pixels

from optimum_mixq import MixQConfig, MixQQuantizer
from optimum_mixq.architectures.measuring import threads_for
from optimum_mixq.utils import threads
from optimum_mixq.utils.threads import faster_number, fitting_threads, threads_are_chosen


class Work:
    """Takes the given seconds of a clock of its own on one thread and on more, and counts its calls."""

    now = 0.0

    def __init__(self, on_one, on_more):
        self.on_one, self.on_more, self.calls = on_one, on_more, 0

    def __call__(self):
        self.calls += 1
        Work.now += self.on_one if torch.get_num_threads() == 1 else self.on_more


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """As in a process where torch chose two threads and nobody else has."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "AT_IMPORT", 2)
    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: Work.now, monotonic=lambda: Work.now))
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("on_one", "on_more", "number"),
    [(0.2, 0.5, 1), (0.2, 0.1, 2), (0.2, 0.19, 1)],
    ids=["waiting costs more", "threads help", "a small gain is not worth it"],
)
def test_work_runs_on_the_number_it_is_faster_with(on_one, on_more, number):
    with fitting_threads(Work(on_one, on_more), Work(0, 0)) as found:
        assert found == torch.get_num_threads() == number
    assert torch.get_num_threads() == 2


def test_threads_that_wait_far_too_long_are_ruled_out_by_one_round():
    work = Work(0.1, 0.5)
    assert faster_number(work, 2) == 1
    assert work.calls == 3  # to warm up, and each number once


@pytest.mark.parametrize(("seconds", "rounds"), [(0.2, threads.ROUNDS), (2, 2), (10, 1)])
def test_long_work_is_not_timed_again_and_again(seconds, rounds):
    work = Work(seconds, seconds / 2)
    assert faster_number(work, 2) == 2
    assert work.calls == 1 + 2 * rounds


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_from_the_environment_is_left_alone(name, monkeypatch):
    monkeypatch.setenv(name, "2")
    work = Work(0.1, 0.2)
    with fitting_threads(work, work) as found:
        assert found == torch.get_num_threads() == 2
    assert threads_are_chosen() and work.calls == 0


def test_a_number_that_was_set_is_left_alone():
    assert not threads_are_chosen()
    torch.set_num_threads(3)
    work = Work(0.1, 0.2)
    with fitting_threads(work, work) as found:
        assert found == torch.get_num_threads() == 3
    assert threads_are_chosen() and work.calls == 0


def test_the_number_is_restored_after_an_error():
    with pytest.raises(KeyError), fitting_threads(Work(0.1, 0.2), Work(0, 0)):
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 2
    with fitting_threads(Work(0.2, 0.1), Work(0, 0)) as found:
        assert found == 2


def test_work_inside_of_other_work_keeps_its_number():
    inner = Work(0.2, 0.1)
    with fitting_threads(Work(0.1, 0.2), Work(0, 0)), fitting_threads(inner, inner) as found:
        assert found == 1
    assert inner.calls == 0


def test_an_answer_holds_for_a_while():
    work, rounds = Work(0.1, 0.2), 1 + 2 * threads.ROUNDS
    for wait, calls in ((0, rounds), (threads.LASTS - 1, rounds), (2, 2 * rounds)):
        Work.now += wait
        with fitting_threads(work, work) as found:
            assert found == 1 and work.calls == calls


def test_what_is_timed_is_a_forward_of_the_model(vit):
    batches = []
    vit.train()
    hook = vit.register_forward_pre_hook(
        lambda model, _, options: batches.append((options["pixel_values"].shape, model.training)), with_kwargs=True
    )
    with hook, threads_for(vit):
        pass
    assert set(batches) == {((8, 3, 16, 16), False)} and vit.training


def test_every_step_of_a_quantizer_runs_on_the_fitting_number(vit, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "faster_number", lambda work, all_of_them: 1)
    found = set()
    layer = vit.get_submodule("classifier")
    layer.register_forward_hook(lambda *_: found.add(torch.get_num_threads()))
    quantizer, pixels = MixQQuantizer(vit, None), random_pixels(vit, 12)
    few = {"tie_bits": True, "compare": False, "calibration_samples": 4, "sensitivity_samples": 4}
    quantizer.quantize(MixQConfig(bits=3, candidate_bits=(2, 3, 4), **few), pixels)
    quantizer.report(pixels, tmp_path)
    assert found == {1} and torch.get_num_threads() == 2

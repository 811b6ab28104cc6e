"""From a task family to functions and tensors, and what is said of the machine."""

from __future__ import annotations

import json
from typing import Any

import torch

from search_service.domain.evaluation import Split
from search_service.domain.search import TaskFamily
from workers.adaptation.device import device_class, exact_float32, fingerprint, synchronize
from workers.adaptation.episodes import open_task_family
from workers.adaptation.inner_loop import classification_loss, regression_loss
from workers.adaptation.judging import accuracy, negative_mse
from workers.adaptation.model import adaptation_for, batch_tensors, metric_for
from workers.adaptation.networks import MLP

CPU = torch.device("cpu")


def test_regression_and_classification_get_their_own_loss_and_metric() -> None:
    network = MLP((1,), 1, (3,))
    sinusoid, glyphs = TaskFamily(family="sinusoid"), TaskFamily(family="glyphs")
    assert adaptation_for(network, sinusoid, 0.1, "support").loss is regression_loss
    assert adaptation_for(network, glyphs, 0.1, "support").loss is classification_loss
    assert metric_for(sinusoid) is negative_mse
    assert metric_for(glyphs) is accuracy
    adaptation = adaptation_for(network, glyphs, 0.25, "query", create_graph=False)
    assert (adaptation.rate, adaptation.norm_statistics, adaptation.create_graph) == (0.25, "query", False)


def test_a_batch_becomes_tensors_as_it_stands() -> None:
    batch = open_task_family(TaskFamily(family="sinusoid", shots=4, queries=6), None).draw(Split.TEST, 1, 0, 3)
    x, y, qx, qy = batch_tensors(batch, CPU)
    assert (x.shape, y.shape, qx.shape, qy.shape) == ((3, 4, 1), (3, 4, 1), (3, 6, 1), (3, 6, 1))
    assert torch.equal(x, torch.from_numpy(batch.support_x))
    assert torch.equal(qy, torch.from_numpy(batch.query_y))


def test_the_processor_and_what_a_latency_depends_on() -> None:
    assert device_class(CPU) == "cpu"
    synchronize(CPU)
    figures = fingerprint(CPU)
    assert json.loads(json.dumps(figures)) == figures
    assert figures["class"] == "cpu"
    assert figures["threads"] == torch.get_num_threads()
    assert figures["torch"] == torch.__version__
    assert figures["processor"]


def test_float32_means_float32() -> None:
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        exact_float32()
        assert [backend.allow_tf32 for backend in backends] == [False, False]
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed

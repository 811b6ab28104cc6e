"""A program in stages computes what the program computes, each stage when it is run and no sooner."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.adaptation.program import trace
from workers.adaptation.stages import Values, split, upstream


def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    values, indices = torch.sort(x.exp())
    return values + y, indices * y


def test_stages_compute_what_the_program_computes_and_run_again_alone() -> None:
    x, y = torch.randn(5), torch.randn(5)
    module = trace(function, x, y)
    of_x, of_y = (node for node in module.graph.nodes if node.op == "placeholder")
    computing = [node for node in module.graph.nodes if node.op == "call_function"]
    results = [node.name for node in module.graph.output_node().args[0]]
    stages = split(module, {node: "y" if of_y in node.all_input_nodes else "x" for node in computing})
    assert set(stages) == {"x", "y"}
    assert of_y.name not in stages["x"].takes
    assert stages["x"].held_bytes == x.nbytes + 5 * 8  # sorted values, and their indices: not the tuple of both
    assert stages["x"].peak_bytes >= stages["x"].held_bytes

    values: Values = {of_x.name: x, of_y.name: y}
    stages["x"].run(values)
    kept = {name: values[name] for name in stages["x"].gives}
    for again in (y, torch.randn(5)):
        values[of_y.name] = again
        stages["y"].run(values)
        for name, expected in zip(results, function(x, again), strict=True):
            assert torch.equal(values[name], expected)
    assert all(values[name] is value for name, value in kept.items())


def test_upstream_is_everything_that_a_result_depends_on() -> None:
    module = trace(lambda a, b: (a + 1, (a + 1) * b), torch.ones(2), torch.ones(2))
    first, second = module.graph.output_node().args[0]
    assert {node.op for node in upstream(module.graph, [first])} == {"placeholder", "call_function"}
    assert len(upstream(module.graph, [first])) == 2
    assert upstream(module.graph, [first]) < upstream(module.graph, [second])

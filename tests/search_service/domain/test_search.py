from __future__ import annotations

import json
import re
from itertools import product
from typing import Any

import pytest

from search_service.domain.errors import IllegalMove, InvalidSpec, UnreadableSpec
from search_service.domain.search import (
    LEGAL_MOVES,
    Method,
    SearchStatus,
    check_move,
    check_space,
    size_in_words,
)
from search_service.domain.space import CandidateSpace
from search_service.storage import codec

RUNNABLE: dict[str, Any] = {
    "tasks": {"family": "glyphs"},
    "model": {"network": "conv4"},
    "meta_training": {},
    "max_degradation": 0.01,
}
SINUSOID: dict[str, Any] = {
    **RUNNABLE,
    "tasks": {"family": "sinusoid"},
    "model": {"network": "mlp"},
    "degradation_bound": 1.0,
}


def changed(spec: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(spec))
    *parents, last = dotted.split(".")
    place = result
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return result


def test_defaults_are_written_out() -> None:
    spec = codec.spec_from_json(RUNNABLE)
    assert (spec.tasks.ways, spec.tasks.shots, spec.tasks.queries) == (5, 1, 15)
    assert (spec.tasks.support_size, spec.tasks.query_size, spec.tasks.outputs) == (5, 75, 5)
    assert (spec.model.filters, spec.model.pooling, spec.model.hidden) == (64, "max", None)
    assert tuple(spec.units) == ("conv1", "conv2", "conv3", "conv4", "head")
    spec = codec.spec_from_json(SINUSOID)
    assert (spec.tasks.ways, spec.tasks.outputs, spec.tasks.metric) == (None, 1, "negative_mse")
    assert tuple(spec.units) == ("layer1", "layer2", "head")


@pytest.mark.parametrize("document", [RUNNABLE, SINUSOID, changed(SINUSOID, "model.hidden", [3, 4])])
def test_a_spec_survives_its_json(document: dict[str, Any]) -> None:
    spec = codec.spec_from_json(document)
    stored = json.loads(json.dumps(codec.spec_to_json(spec)))
    assert codec.spec_from_json(stored) == spec
    assert codec.spec_to_json(codec.stored_spec(stored)) == stored


@pytest.mark.parametrize(
    ("base", "field", "value", "reason"),
    [
        (RUNNABLE, "name", " ", "printable"),
        (RUNNABLE, "name", "x" * 201, "1 to 200"),
        (RUNNABLE, "tasks.ways", 1, "2 to 100"),
        (RUNNABLE, "tasks.shots", 0, "1 to 100"),
        (RUNNABLE, "tasks.queries", 1001, "1 to 1000"),
        (changed(RUNNABLE, "tasks.family", "omniglot"), "tasks.queries", 20, "20 drawings per class"),
        (SINUSOID, "tasks.ways", 5, "no classes"),
        (RUNNABLE, "model.hidden", [4], "no hidden layers"),
        (RUNNABLE, "model.filters", 0, "1 to 1024"),
        (RUNNABLE, "model.pooling", "mean", "must be 'max' or 'stride'"),
        (SINUSOID, "model.filters", 4, "no filters"),
        (SINUSOID, "model.pooling", "max", "no filters or pooling"),
        (SINUSOID, "model.hidden", [], "number of layers"),
        (SINUSOID, "model.hidden", [0], "width"),
        (SINUSOID, "model.network", "conv4", "conv4 needs images"),
        (RUNNABLE, "meta_training.outer_loss", "first_step", "must be 'last_step' or 'every_step'"),
        (RUNNABLE, "meta_training.inner_steps", 21, "1 to 20"),
        (RUNNABLE, "meta_training.inner_rate", 0, "above 0"),
        (RUNNABLE, "meta_training.outer_rate", float("nan"), "above 0"),
        (RUNNABLE, "meta_training.meta_batch", 0, "1 to 1024"),
        (RUNNABLE, "meta_training.iterations", 0, "1 to 1000000"),
        (RUNNABLE, "meta_training.seed", -1, "must be 0 to"),
        (RUNNABLE, "meta_training", None, "either meta_training or checkpoint"),
        (RUNNABLE, "space.max_steps", 65, "1 to 64"),
        (RUNNABLE, "baseline.steps", 0, "1 to 64"),
        (RUNNABLE, "baseline.rate", float("inf"), "above 0"),
        (RUNNABLE, "episodes.block", 1, "2 to 1000"),
        (RUNNABLE, "episodes.validation", 30, "not a whole number of blocks of 16"),
        (RUNNABLE, "episodes.confirmation", 10, "16 to 1000000"),
        (RUNNABLE, "max_degradation", 0, "above 0"),
        (RUNNABLE, "max_degradation", float("nan"), "above 0"),
        (RUNNABLE, "max_degradation", 1, "is no limit"),
        (RUNNABLE, "degradation", "relative", "for regression"),
        (RUNNABLE, "confidence", 0.4, "above 0.5 and at most 0.9999"),
        (RUNNABLE, "device", "gpu", "'cpu' or 'cuda:<name>'"),
        (RUNNABLE, "priority", 1001, "-1000 to 1000"),
        (RUNNABLE, "seed", -1, "must be 0 to"),
        (RUNNABLE, "runtime", "fast", "must be 'eager'"),
    ],
)
def test_each_refusal_names_the_field_and_the_reason(base: dict[str, Any], field: str, value: Any, reason: str) -> None:
    spec = json.loads(json.dumps(base))
    *parents, last = field.split(".")
    place = spec
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    with pytest.raises(UnreadableSpec) as refused:
        codec.spec_from_json(spec)
    expected = "model.network" if field == "model.network" else field
    reasons = {problem.field: problem.reason for problem in refused.value.problems}
    assert expected in reasons, reasons
    assert reason in reasons[expected]


@pytest.mark.parametrize(
    ("sampler", "units", "max_steps", "field", "said"),
    [
        ("ordered", 5, 4, "method.sampler", "954,304 candidates; ordered lists them all, at most 100,000"),
        ("ordered", 40, 10, "method.sampler", "about 2^400 candidates"),
        ("auto", 512, 64, "space", "more than 2^512 candidates"),
        ("tpe", 64, 9, "space", "more than 2^512 candidates"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_by_its_size(
    sampler: str, units: int, max_steps: int, field: str, said: str
) -> None:
    with pytest.raises(InvalidSpec, match=re.escape(said)) as refused:
        check_space(CandidateSpace("per_step", units, max_steps), Method(sampler=sampler))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("sampler", "units", "max_steps", "chosen"),
    [
        ("auto", 5, 2, "ordered"),
        ("auto", 5, 4, "tpe"),
        ("auto", 40, 10, "tpe"),
        ("ordered", 5, 2, "ordered"),
        ("gp", 5, 2, "gp"),
        ("hub:some_package", 5, 4, "hub:some_package"),
    ],
)
def test_a_method_is_chosen_and_says_why(sampler: str, units: int, max_steps: int, chosen: str) -> None:
    space, method = CandidateSpace("per_step", units, max_steps), Method(sampler=sampler)
    check_space(space, method)
    name, reason = method.chosen_for(space)
    assert name == chosen
    assert size_in_words(space) in reason


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"sampler": "cmaes"}, "method.sampler", "must be one of auto, ordered, tpe, gp, nsga2, random or hub:"),
        ({"sampler": "hub:"}, "method.sampler", "must be one of"),
        ({"sampler": "ordered", "trials": 5}, "method.trials", "is for samplers"),
        ({"trials": 0}, "method.trials", "1 to 100000"),
        ({"episodes": 0}, "method.episodes", "1 to"),
        ({"seconds": float("inf")}, "method.seconds", "above 0"),
    ],
)
def test_a_method_that_makes_no_sense_is_refused(changes: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(UnreadableSpec) as refused:
        codec.spec_from_json({**RUNNABLE, "method": changes})
    assert [problem.field for problem in refused.value.problems] == [field]
    assert reason in refused.value.problems[0].reason


def test_units_may_be_grouped_and_split() -> None:
    groups = [["conv1", "conv2"], ["conv3.convolution"], ["conv3.norm", "conv4"], ["head.weight"], ["head.bias"]]
    spec = codec.spec_from_json({**RUNNABLE, "space": {"units": groups}})
    assert tuple(spec.units) == ("conv1+conv2", "conv3.convolution", "conv3.norm+conv4", "head.weight", "head.bias")
    assert spec.units["conv3.convolution"] == ("conv3.convolution.weight", "conv3.convolution.bias")
    assert sorted(name for names in spec.units.values() for name in names) == sorted(
        name for names in spec.model.units.values() for name in names
    )


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ([["conv1", "conv2"], ["conv3"], ["conv4"]], "in no unit: head.weight, head.bias"),
        ([["conv1"], ["conv2"], ["conv3"], ["conv4"], ["conv1.norm", "head"]], "'conv1.norm.weight' is in 'conv1'"),
        ([["conv5"]], "the network has no 'conv5'; it has conv1, conv2"),
        ([["conv2"], ["conv1"], ["conv3"], ["conv4"], ["head"]], "from input to output"),
        ([[], ["conv1", "conv2", "conv3", "conv4", "head"]], "a unit is empty"),
    ],
)
def test_units_name_every_parameter_once_in_order(groups: list[list[str]], reason: str) -> None:
    with pytest.raises(UnreadableSpec) as refused:
        codec.spec_from_json({**RUNNABLE, "space": {"units": groups}})
    assert reason in str(refused.value)


@pytest.mark.parametrize(("present", "wanted"), list(product(SearchStatus, SearchStatus)))
def test_only_legal_moves_pass(present: SearchStatus, wanted: SearchStatus) -> None:
    if wanted in LEGAL_MOVES[present]:
        check_move("it", present, wanted)
    else:
        with pytest.raises(IllegalMove, match=f"search it is {present} and cannot become {wanted}"):
            check_move("it", present, wanted)


def test_a_search_ends_for_good() -> None:
    final = {status for status in SearchStatus if status.is_final}
    assert final == {SearchStatus.SUCCEEDED, SearchStatus.FAILED, SearchStatus.CANCELLED}
    assert all(wanted not in LEGAL_MOVES[SearchStatus.QUEUED] for wanted in (SearchStatus.SUCCEEDED,))


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"episodes": {"confirmation": 352}}, "episodes.confirmation", "takes at least 368"),
        ({"certificate": "empirical_bernstein", "episodes": {"confirmation": 352}}, "episodes.confirmation", "368"),
        ({"degradation_bound": 0.5}, "degradation_bound", "no accuracy loses more than 1"),
        ({"confidence": 0.5}, "confidence", "above 0.5"),
        ({"certificate": "t_test"}, "certificate", "'betting'"),
    ],
)
def test_a_proof_that_cannot_succeed_is_refused(changes: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(UnreadableSpec) as refused:
        codec.spec_from_json({**RUNNABLE, **changes})
    assert [problem.field for problem in refused.value.problems] == [field]
    assert reason in refused.value.problems[0].reason


def test_the_least_number_of_confirmation_episodes() -> None:
    spec = codec.spec_from_json({**RUNNABLE, "episodes": {"confirmation": 368}})
    assert spec.fewest_confirmation_episodes == 368  # ln(40) / -ln(0.99), rounded up
    assert spec.degradation_bound == 1.0
    asymptotic = codec.spec_from_json({**RUNNABLE, "certificate": "asymptotic", "episodes": {"confirmation": 64}})
    assert asymptotic.fewest_confirmation_episodes == 64


def test_regression_names_the_bound_of_its_losses() -> None:
    unbounded = {key: value for key, value in SINUSOID.items() if key != "degradation_bound"}
    with pytest.raises(UnreadableSpec, match="name one"):
        codec.spec_from_json(unbounded)
    with pytest.raises(UnreadableSpec, match="must be above max_degradation"):
        codec.spec_from_json({**SINUSOID, "degradation_bound": 0.01})
    assert codec.spec_from_json({**SINUSOID, "degradation_bound": 2}).fewest_confirmation_episodes == 736

"""The examples are specs that the service accepts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from search_service.domain.search import SearchSpec

EXAMPLES = Path(__file__).parents[2] / "examples"
FAMILIES = {
    "glyphs_5way_1shot": "glyphs",
    "omniglot_5way_1shot": "omniglot",
    "omniglot_5way_1shot_compiled": "omniglot",
    "omniglot_per_step": "omniglot",
    "sinusoid": "sinusoid",
}


def test_each_is_listed_here_with_its_task_family() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_a_search_spec(name: str) -> None:
    text = (EXAMPLES / f"{name}.yaml").read_text()
    spec = TypeAdapter(SearchSpec).validate_python(yaml.safe_load(text))
    assert spec.tasks.family == FAMILIES[name]
    assert spec.meta_training is not None, "runs as it stands, without a checkpoint made before"
    assert spec.device == "cpu"

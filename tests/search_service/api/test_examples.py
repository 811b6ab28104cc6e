from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from search_service.api.examples import SPEC_EXAMPLES

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = {"glyphs": "glyphs_5way_1shot", "omniglot": "omniglot_5way_1shot", "sinusoid": "sinusoid"}


@pytest.mark.parametrize("name", SPEC_EXAMPLES)
def test_what_the_form_offers_is_what_the_examples_hold(name: str) -> None:
    assert SPEC_EXAMPLES[name]["value"] == yaml.safe_load((EXAMPLES / f"{FILES[name]}.yaml").read_text())

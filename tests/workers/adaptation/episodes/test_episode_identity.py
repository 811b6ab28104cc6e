"""An episode is the same whoever draws it, whenever, and with whichever others."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_service.domain.evaluation import Split
from search_service.domain.search import TaskFamily
from workers.adaptation.episodes import EpisodeBatch, Episodes, open_task_family

REPOSITORY = Path(__file__).resolve().parents[4]
FIELDS = ("support_x", "support_y", "query_x", "query_y")
FAMILIES = ("sinusoid", "glyphs", "omniglot")
SEEDS = st.integers(0, 2**63 - 1)
SPLITS = st.sampled_from(list(Split))
FEW = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=FAMILIES)
def episodes(request: pytest.FixtureRequest, small_dir: Path) -> Episodes:
    return open_task_family(TaskFamily(family=request.param, shots=2, queries=4), small_dir)


def content(batch: EpisodeBatch) -> str:
    digest = hashlib.sha256(batch.digest.encode())
    for name in FIELDS:
        digest.update(getattr(batch, name).tobytes())
    return digest.hexdigest()


@FEW
@given(
    split=SPLITS,
    seed=SEEDS,
    start=st.integers(0, 10**6),
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4),
)
def test_an_episode_does_not_depend_on_how_draws_are_batched(
    episodes: Episodes, split: Split, seed: int, start: int, sizes: list[int]
) -> None:
    whole = episodes.draw(split, seed, start, sum(sizes))
    ends = np.cumsum([0, *sizes])
    parts = [episodes.draw(split, seed, start + int(end), size) for end, size in zip(ends[:-1], sizes, strict=True)]
    for name in FIELDS:
        together = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(getattr(whole, name), together)


@FEW
@given(split=SPLITS, seed=SEEDS, start=st.integers(0, 10**6))
def test_the_digest_tells_episodes_apart_and_nothing_else(
    episodes: Episodes, split: Split, seed: int, start: int
) -> None:
    def digest(split: Split = split, seed: int = seed, start: int = start, count: int = 2) -> str:
        return episodes.draw(split, seed, start, count).digest

    other_split = Split.TEST if split is not Split.TEST else Split.TRAIN
    assert digest() == digest()
    different = [digest(), digest(other_split), digest(seed=seed + 1), digest(start=start + 1), digest(count=3)]
    assert len(set(different)) == len(different)


def test_the_digest_depends_on_shots_and_queries(small_dir: Path) -> None:
    tasks = [TaskFamily(family="omniglot", shots=shots, queries=6 - shots) for shots in (1, 2)]
    first, second = (open_task_family(task, small_dir).draw(Split.TEST, 0, 0, 1).digest for task in tasks)
    assert first != second


@pytest.mark.parametrize("family", FAMILIES)
def test_another_process_draws_the_same(family: str, small_dir: Path) -> None:
    here = open_task_family(TaskFamily(family=family), small_dir).draw(Split.TEST, 7, 3, 5)  # type: ignore[arg-type]
    program = f"""
import hashlib, sys
from pathlib import Path
from search_service.domain.evaluation import Split
from search_service.domain.search import TaskFamily
from workers.adaptation.episodes import open_task_family
episodes = open_task_family(TaskFamily(family={family!r}), Path(sys.argv[1]))
episodes.draw(Split.TEST, 8, 0, 2)
batch = episodes.draw(Split.TEST, 7, 3, 5)
digest = hashlib.sha256(batch.digest.encode())
for name in {FIELDS!r}:
    digest.update(getattr(batch, name).tobytes())
assert "torch" not in sys.modules and "sqlalchemy" not in sys.modules
print(digest.hexdigest())
"""
    command = [sys.executable, "-c", program, str(small_dir)]
    there = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    assert there.stdout.strip() == content(here)


@pytest.mark.parametrize(
    ("family", "digest"),
    [
        ("sinusoid", "23dadc43463bd738612f298ec8cea95abd7e52f3787c962ff1260396b77cae0a"),
        ("glyphs", "b80ae7b247b6e0ce1a87802162baf14a74ac06c69d010edc2b45f7bfd3602ecc"),
    ],
)
def test_episodes_are_those_of_every_earlier_release(family: str, digest: str) -> None:
    # stored evaluations speak of these episodes: whoever changes them raises ENGINE_VERSION
    batch = open_task_family(TaskFamily(family=family), None).draw(Split.VALIDATION, 1, 0, 10)  # type: ignore[arg-type]
    assert batch.digest == digest


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"start": -1}, {"count": -1}])
def test_negative_numbers_are_refused(episodes: Episodes, wrong: dict[str, int]) -> None:
    arguments = {"seed": 0, "start": 0, "count": 1} | wrong
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must not be negative"):
        episodes.draw(Split.TRAIN, **arguments)

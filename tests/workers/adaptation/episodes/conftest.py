"""Small data directories that look like Omniglot, and the real one where this machine has it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[4]
CHARACTERS = {"train": 8, "val": 6, "test": 7}
DRAWINGS = 20


@pytest.fixture(scope="session")
def small_images() -> np.ndarray:
    """`uint8 [21, 20, 28, 28, 1]`: every drawing is different, and none looks the same after a turn."""
    count = sum(CHARACTERS.values()) * DRAWINGS
    images = np.full((count, 28, 28), 255, dtype=np.uint8)
    images[:, 2, 3:20] = 0
    images[:, 5, 4] = 255 - np.arange(count) // 256
    images[:, 5, 5] = 255 - np.arange(count) % 256
    return images.reshape(-1, DRAWINGS, 28, 28, 1)


@pytest.fixture
def write_small(tmp_path: Path, small_images: np.ndarray) -> Callable[..., Path]:
    """Writes a small `omniglot28.npz`, with any array replaced or (None) left out; returns its folder."""

    def write(**replaced: np.ndarray | None) -> Path:
        arrays: dict[str, np.ndarray | None] = {
            "images": small_images,
            "class_names": np.array([f"images_background/Made/character{k:02}" for k in range(len(small_images))]),
            "split": np.repeat(list(CHARACTERS), list(CHARACTERS.values())),
            "meta": np.array("{}"),
        } | replaced
        np.savez(tmp_path / "omniglot28.npz", **{name: a for name, a in arrays.items() if a is not None})
        return tmp_path

    return write


@pytest.fixture
def small_dir(write_small: Callable[..., Path]) -> Path:
    """A data directory with a small converted file."""
    return write_small()


@pytest.fixture(scope="session")
def originals() -> dict[str, bytes]:
    """Original-like files by path: 8 characters in two sets, 3 drawings each, 105x105, one bit per pixel."""
    generator = np.random.default_rng(0)
    files = {}
    for folder, alphabet in (("images_background", "Greek"), ("images_evaluation", "Tengwar")):
        for character in range(1, 5):
            for drawing in range(1, 4):
                paper = np.ones((105, 105), dtype=bool)
                row, column = generator.integers(10, 80, size=2)
                paper[row : row + 15, column : column + 4] = False
                file = io.BytesIO()
                Image.fromarray(paper).save(file, format="PNG")
                files[f"{folder}/{alphabet}/character{character:02}/{character:04}_{drawing:02}.png"] = file.getvalue()
    return files


@pytest.fixture(scope="session")
def omniglot_dir() -> Path:
    """The data directory with the real Omniglot."""
    named = os.environ.get("LAMBDA_SEARCH_DATA_DIR")
    candidates = [Path(named)] if named else []
    candidates.append(REPOSITORY.parent / "shared" / "data")
    for candidate in candidates:
        if (candidate / "omniglot28.npz").is_file():
            return candidate
    pytest.skip("no omniglot28.npz: set LAMBDA_SEARCH_DATA_DIR to a folder that has it")

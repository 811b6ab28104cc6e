"""Omniglot from the data directory: the converted file, or the original folders.

Every character's quarter-turns count as classes of their own in the training split, as in Santoro et al.
(arXiv 1605.06065) and in MAML's settings; an episode may hold two turns of one
character. Validation and test characters stay upright: their classes are the handwritten characters themselves.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from search_service.domain.errors import DatasetUnavailable
from search_service.domain.evaluation import Split
from workers.adaptation.episodes.classification import IMAGE_SIDE, INK
from workers.adaptation.episodes.omniglot_drawings import SPLIT_NAMES, OmniglotDrawings, read_drawings

OMNIGLOT_FILE = "omniglot28.npz"
ORIGINAL_FOLDERS = ("images_background", "images_evaluation")
TRAIN_TURNS = 4  # quarter-turns of a training character, each a class

_REMEDY = "run `lambda-search datasets fetch omniglot`, or set LAMBDA_SEARCH_DATA_DIR to the folder that has it"
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


class OmniglotPool:
    """Omniglot's characters by split; training class ``4 * k + t`` is character ``k`` after ``t`` quarter-turns."""

    def __init__(self, drawings: OmniglotDrawings) -> None:
        self.drawings = drawings.images.shape[1]
        self._upright = {
            split: INK - drawings.images[drawings.split == name, ..., 0]  # [characters, D, 28, 28], ink 255
            for split, name in SPLIT_NAMES.items()
        }
        self._images: dict[Split, npt.NDArray[np.uint8]] = {}

    def class_count(self, split: Split) -> int:
        """Classes of a split: characters, times four in the training split."""
        return len(self._upright[split]) * (TRAIN_TURNS if split is Split.TRAIN else 1)

    def images(self, split: Split, classes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """All drawings of a split: `uint8 [class_count * drawings, 28, 28]`, 255 ink and 0 paper."""
        if split not in self._images:
            upright = self._upright[split]
            turns = TRAIN_TURNS if split is Split.TRAIN else 1
            turned = np.stack([np.rot90(upright, turn, axes=(2, 3)) for turn in range(turns)], axis=1)
            self._images[split] = turned.reshape(-1, IMAGE_SIDE, IMAGE_SIDE)
        return self._images[split]


def load_omniglot(data_dir: Path | None) -> OmniglotDrawings:
    """Read the converted file, or else convert the original folders in memory (some seconds, nothing is stored).

    Args:
        data_dir: holds `omniglot28.npz`, or `images_background` and `images_evaluation`, or these in `omniglot`.

    Raises:
        DatasetUnavailable: nothing there, or it cannot be read; says where, what is wrong and what to do.
    """
    reason = omniglot_unavailable(data_dir)
    if data_dir is None or reason is not None:
        raise DatasetUnavailable("omniglot", reason or _missing(data_dir))
    path = data_dir / OMNIGLOT_FILE
    if not path.exists():
        return read_drawings(_original_files(_original_root(data_dir) or data_dir))
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return OmniglotDrawings(images=arrays["images"], class_names=arrays["class_names"], split=arrays["split"])
    except _UNREADABLE as error:
        raise DatasetUnavailable("omniglot", _corrupt(path, str(error))) from error


def omniglot_unavailable(data_dir: Path | None) -> str | None:
    """Why Omniglot cannot be used from ``data_dir``, or None. Cheap: reads headers and names, no drawings."""
    if data_dir is None:
        return _missing(None)
    path = data_dir / OMNIGLOT_FILE
    try:
        if path.exists():
            wrong = _wrong_contents(path)
            return None if wrong is None else _corrupt(path, wrong)
    except _UNREADABLE as error:
        return _corrupt(path, str(error))
    return _missing(data_dir) if _original_root(data_dir) is None else None


def _wrong_contents(path: Path) -> str | None:
    """What the file's headers, names and splits show to be wrong, or None."""
    with zipfile.ZipFile(path) as archive:
        missing = {f"{name}.npy" for name in ("images", "class_names", "split")} - set(archive.namelist())
        if missing:
            return f"it lacks {', '.join(sorted(missing))}"
        with archive.open("images.npy") as member:
            shape, dtype = _array_header(member)
    with np.load(path, allow_pickle=False) as arrays:
        class_names, split = arrays["class_names"], arrays["split"]
    if dtype != np.uint8 or len(shape) != 5 or shape[2:] != (IMAGE_SIDE, IMAGE_SIDE, 1):
        return f"its images are {dtype} {list(shape)}, not uint8 [characters, drawings, 28, 28, 1]"
    if class_names.shape != shape[:1] or split.shape != shape[:1]:
        return f"it has {shape[0]} characters, {class_names.size} names and {split.size} entries in split"
    if len(np.unique(class_names)) != len(class_names):
        return "a character occurs twice in it"
    unknown = sorted(set(split.tolist()) - set(SPLIT_NAMES.values()), key=str)
    if unknown:
        return f"its split '{unknown[0]}' is none of {', '.join(SPLIT_NAMES.values())}"
    return None


def _array_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and dtype of an array in the npy format, without its data."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    return shape, dtype


def _original_root(data_dir: Path) -> Path | None:
    """The folder with drawings in at least one of the original folders, or None."""
    for root in (data_dir, data_dir / "omniglot"):
        if any(next((root / name).glob("*/*/*.png"), None) for name in ORIGINAL_FOLDERS):
            return root
    return None


def _original_files(root: Path) -> Iterator[tuple[str, bytes]]:
    for folder in ORIGINAL_FOLDERS:
        paths = {path.relative_to(root).as_posix(): path for path in (root / folder).glob("*/*/*.png")}
        for name in sorted(paths, key=_by_character):
            try:
                yield name, paths[name].read_bytes()
            except OSError as error:
                raise DatasetUnavailable("omniglot", f"{paths[name]} cannot be read ({error})") from error


def _by_character(path: str) -> tuple[str, str]:
    """Sorts files as their characters' names sort, then by file name."""
    character, _, drawing = path.rpartition("/")
    return character, drawing


def _missing(data_dir: Path | None) -> str:
    if data_dir is None:
        return f"no data directory is set: {_REMEDY}"
    return f"{data_dir} has neither {OMNIGLOT_FILE} nor {' and '.join(ORIGINAL_FOLDERS)}: {_REMEDY}"


def _corrupt(path: Path, wrong: str) -> str:
    return f"{path} is corrupt ({wrong}): delete it and {_REMEDY}"

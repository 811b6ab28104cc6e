"""Omniglot as arrays, and how it is made from the original drawings (Lake et al., Science 2015)."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image

from search_service.domain.errors import DatasetUnavailable
from search_service.domain.evaluation import Split
from workers.adaptation.episodes.classification import IMAGE_SIDE

SPLIT_NAMES = {Split.TRAIN: "train", Split.VALIDATION: "val", Split.TEST: "test"}
"""How the splits are called in the file."""

SPLIT_SIZES = {Split.TRAIN: 1028, Split.VALIDATION: 172, Split.TEST: 423}
CHARACTERS = sum(SPLIT_SIZES.values())  # of the complete set
VALIDATION_ALPHABETS = frozenset(
    f"images_background/{alphabet}"
    for alphabet in ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
)
PARTIAL_SPLIT_SEED = 20160613

Names = npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True, kw_only=True)
class OmniglotDrawings:
    """Every drawing of C characters, D of each.

    Args:
        images: `uint8 [C, D, 28, 28, 1]`, 0 ink and 255 paper.
        class_names: `[C]`, for instance `images_background/Greek/character07`, sorted.
        split: `[C]`, `train`, `val` or `test`.
    """

    images: npt.NDArray[np.uint8]
    class_names: Names
    split: Names


def read_drawings(files: Iterable[tuple[str, bytes]]) -> OmniglotDrawings:
    """Convert PNG files, resized to 28x28 with a Lanczos filter; characters and drawings are sorted by name.

    Args:
        files: path as `images_background/<Alphabet>/<character>/<drawing>.png`, and content; sorted by path.

    Raises:
        DatasetUnavailable: no files, one is no image, or the characters differ in their number of drawings.
    """
    names, characters = [], []
    for name, group in groupby(files, key=lambda file: str(PurePosixPath(file[0]).parent)):
        names.append(name)
        characters.append(np.stack([_shrink(path, content) for path, content in group]))
    if not names:
        raise DatasetUnavailable("omniglot", "there are no drawings in it")
    drawings = len(characters[0])
    for name, character in zip(names, characters, strict=True):
        if len(character) != drawings:
            reason = f"{name} has {len(character)} drawings and {names[0]} has {drawings}; unpack the originals again"
            raise DatasetUnavailable("omniglot", reason)
    class_names = np.array(names)
    return OmniglotDrawings(images=np.stack(characters)[..., None], class_names=class_names, split=split_of(names))


def split_of(class_names: list[str]) -> Names:
    """The split of each character.

    The complete set is split as by Vinyals et al. (2016, arXiv 1606.04080), in the form that torchmeta publishes. That
    form follows a rule over the sorted names: the last 423 are for test, five alphabets of the background set for
    validation, the rest for training. A part of the set is shuffled by a fixed seed and divided in the same
    proportions.
    """
    split = np.full(len(class_names), SPLIT_NAMES[Split.TRAIN], dtype="<U5")
    order = np.argsort(np.array(class_names), kind="stable")
    tests = round(len(class_names) * SPLIT_SIZES[Split.TEST] / CHARACTERS)
    validations = round(len(class_names) * SPLIT_SIZES[Split.VALIDATION] / CHARACTERS)
    alphabets = np.array([name.rpartition("/")[0] for name in class_names])
    in_validation = np.isin(alphabets, sorted(VALIDATION_ALPHABETS))
    if len(class_names) == CHARACTERS and in_validation.sum() == validations:
        split[in_validation] = SPLIT_NAMES[Split.VALIDATION]
    else:
        generator = np.random.Generator(np.random.PCG64(PARTIAL_SPLIT_SEED))
        order = order[generator.random(len(order)).argsort(kind="stable")]
        rest = order[: len(order) - tests]
        split[rest[len(rest) - validations :]] = SPLIT_NAMES[Split.VALIDATION]
    split[order[len(order) - tests :]] = SPLIT_NAMES[Split.TEST]
    return split


def _shrink(path: str, content: bytes) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            small = image.convert("L").resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetUnavailable("omniglot", f"{path} is not a PNG image ({error})") from error
    return np.asarray(small, dtype=np.uint8)

"""Omniglot from the converted file and from the original folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from search_service.domain.errors import DatasetUnavailable
from search_service.domain.evaluation import Split
from search_service.domain.search import TaskFamily
from workers.adaptation.episodes import open_task_family, unavailable_reason
from workers.adaptation.episodes.omniglot import OmniglotPool, load_omniglot
from workers.adaptation.episodes.omniglot_drawings import split_of

TASK = TaskFamily(family="omniglot")
EVERY_CLASS = np.arange(0)


def write_files(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class TestConvertedFile:
    def test_only_training_classes_are_turned(self, small_dir: Path, small_images: np.ndarray) -> None:
        pool = OmniglotPool(load_omniglot(small_dir))
        assert [pool.class_count(split) for split in Split] == [8 * 4, 6, 7]
        ink = 255 - small_images[..., 0]
        train = pool.images(Split.TRAIN, EVERY_CLASS).reshape(8, 4, 20, 28, 28)
        for turn in range(4):
            np.testing.assert_array_equal(train[:, turn], np.rot90(ink[:8], turn, axes=(2, 3)))
        np.testing.assert_array_equal(pool.images(Split.VALIDATION, EVERY_CLASS).reshape(6, 20, 28, 28), ink[8:14])
        np.testing.assert_array_equal(pool.images(Split.TEST, EVERY_CLASS).reshape(7, 20, 28, 28), ink[14:])

    def test_no_drawing_is_in_two_splits(self, small_dir: Path) -> None:
        pool = OmniglotPool(load_omniglot(small_dir))
        seen = [{image.tobytes() for image in pool.images(split, EVERY_CLASS)} for split in Split]
        assert len(set.union(*seen)) == sum(len(images) for images in seen) == (8 * 4 + 6 + 7) * 20

    def test_ink_is_one_and_paper_is_zero(self, small_dir: Path) -> None:
        batch = open_task_family(TASK, small_dir).draw(Split.TEST, 0, 0, 2)
        assert (batch.support_x[:, :, 0, 2, 3:20] == 1.0).all()
        assert (batch.support_x[:, :, 0, 10:, :] == 0.0).all()

    def test_too_few_classes_are_refused(self, small_dir: Path) -> None:
        with pytest.raises(DatasetUnavailable, match="validation split has 6 classes, too few for tasks of 7 ways"):
            open_task_family(TaskFamily(family="omniglot", ways=7), small_dir)

    def test_a_replaced_file_is_read_again(self, small_dir: Path, write_small: Callable[..., Path]) -> None:
        assert open_task_family(TASK, small_dir).class_count(Split.TEST) == 7
        write_small(split=np.repeat(["train", "val", "test"], [7, 5, 9]))
        assert open_task_family(TASK, small_dir).class_count(Split.TEST) == 9


class TestUnavailable:
    def test_usable_families_have_no_reason(self, small_dir: Path) -> None:
        assert unavailable_reason("omniglot", small_dir) is None
        assert unavailable_reason("glyphs", None) is None
        assert unavailable_reason("sinusoid", None) is None

    def test_an_unknown_family_is_named(self) -> None:
        assert unavailable_reason("cifar", None) == "there is no task family 'cifar'"

    def check(self, data_dir: Path | None, *texts: str) -> None:
        reason = unavailable_reason("omniglot", data_dir)
        assert reason is not None
        with pytest.raises(DatasetUnavailable) as caught:
            open_task_family(TASK, data_dir)
        assert caught.value.reason == reason
        for text in (*texts, "lambda-search datasets fetch omniglot", "LAMBDA_SEARCH_DATA_DIR"):
            assert text in reason

    def test_no_data_directory(self) -> None:
        self.check(None, "no data directory is set")

    def test_a_folder_that_is_empty_or_missing(self, tmp_path: Path) -> None:
        self.check(tmp_path, str(tmp_path), "has neither")
        self.check(tmp_path / "missing", str(tmp_path / "missing"), "has neither")

    @pytest.mark.parametrize("kept_bytes", [0, 100, 5000, -30])
    def test_a_truncated_file(self, small_dir: Path, kept_bytes: int) -> None:
        path = small_dir / "omniglot28.npz"
        path.write_bytes(path.read_bytes()[:kept_bytes])
        self.check(small_dir, str(path), "is corrupt")

    def test_a_file_that_is_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "omniglot28.npz").mkdir()
        self.check(tmp_path, "is corrupt")

    @pytest.mark.parametrize(
        ("replaced", "text"),
        [
            ({"split": None}, "it lacks split.npy"),
            ({"images": np.zeros((21, 20, 28, 28), np.uint8)}, "its images are uint8 [21, 20, 28, 28], not"),
            ({"images": np.zeros((21, 20, 28, 28, 1), np.float32)}, "its images are float32"),
            ({"split": np.array(["train"] * 20)}, "21 characters, 21 names and 20 entries in split"),
            ({"split": np.array(["train"] * 20 + ["dev"])}, "its split 'dev' is none of train, val, test"),
            ({"class_names": np.array(["twice"] * 21)}, "a character occurs twice"),
            ({"class_names": np.array([None] * 21)}, "allow_pickle"),
        ],
    )
    def test_a_file_of_another_form(
        self, write_small: Callable[..., Path], replaced: dict[str, np.ndarray | None], text: str
    ) -> None:
        self.check(write_small(**replaced), text)

    def test_damaged_pixels_show_when_they_are_read(self, small_dir: Path) -> None:
        path = small_dir / "omniglot28.npz"
        content = bytearray(path.read_bytes())
        content[5000] ^= 0xFF
        path.write_bytes(bytes(content))
        with pytest.raises(DatasetUnavailable, match=r"is corrupt .*CRC"):
            open_task_family(TASK, small_dir)


class TestOriginalFolders:
    @pytest.mark.parametrize("below", ["", "omniglot"])
    def test_they_are_converted_in_memory(self, tmp_path: Path, originals: dict[str, bytes], below: str) -> None:
        write_files(tmp_path / below, originals)
        assert unavailable_reason("omniglot", tmp_path) is None
        drawings = load_omniglot(tmp_path)
        assert drawings.images.shape == (8, 3, 28, 28, 1)
        assert drawings.class_names[0] == "images_background/Greek/character01"
        assert drawings.class_names.tolist() == sorted(drawings.class_names)
        assert drawings.images.max() == 255
        # 8 in the proportions of 1028 : 172 : 423
        assert np.unique(drawings.split, return_counts=True)[1].tolist() == [2, 5, 1]
        assert not (tmp_path / "omniglot28.npz").exists()

    def test_the_converted_file_goes_first(self, small_dir: Path, originals: dict[str, bytes]) -> None:
        write_files(small_dir, originals)
        assert len(load_omniglot(small_dir).class_names) == 21

    def test_a_missing_drawing_is_named(self, tmp_path: Path, originals: dict[str, bytes]) -> None:
        write_files(tmp_path, originals)
        (tmp_path / "images_evaluation/Tengwar/character02/0002_03.png").unlink()
        with pytest.raises(DatasetUnavailable, match="Tengwar/character02 has 2 drawings"):
            load_omniglot(tmp_path)

    def test_a_broken_drawing_is_named(self, tmp_path: Path, originals: dict[str, bytes]) -> None:
        broken = "images_background/Greek/character02/0002_01.png"
        write_files(tmp_path, originals | {broken: originals[broken][:60]})
        with pytest.raises(DatasetUnavailable, match=f"{broken} is not a PNG image"):
            load_omniglot(tmp_path)


def test_a_partial_split_is_fixed_and_covers_every_character_once() -> None:
    names = [f"images_background/Greek/character{number:03}" for number in range(100)]
    split = split_of(names)
    np.testing.assert_array_equal(split, split_of(names))
    np.testing.assert_array_equal(split, split_of(names[::-1])[::-1])
    assert dict(zip(*np.unique(split, return_counts=True), strict=True)) == {"train": 63, "val": 11, "test": 26}


class TestRealOmniglot:
    def test_the_rule_gives_the_split_of_vinyals(self, omniglot_dir: Path) -> None:
        drawings = load_omniglot(omniglot_dir)
        names = drawings.class_names.tolist()
        np.testing.assert_array_equal(split_of(names), drawings.split)

    def test_pixel_nearest_neighbour(self, omniglot_dir: Path) -> None:
        episodes = open_task_family(TASK, omniglot_dir)
        assert [episodes.class_count(split) for split in Split] == [4 * 1028, 172, 423]
        batch = episodes.draw(Split.TEST, 0, 0, 200)
        support, query = batch.support_x.reshape(200, 5, 784), batch.query_x.reshape(200, 75, 784)
        distances = (support**2).sum(axis=2)[:, None] - 2 * query @ support.swapaxes(1, 2)
        accuracy = (distances.argmin(axis=2) == batch.query_y).mean()
        assert 0.40 < accuracy < 0.46

"""Glyphs: invented characters that are alike within a class, and about as hard as Omniglot."""

from __future__ import annotations

import hashlib

import numpy as np

from search_service.domain.evaluation import Split
from search_service.domain.search import TaskFamily
from workers.adaptation.episodes import open_task_family
from workers.adaptation.episodes.glyphs import GLYPH_CLASSES, GLYPH_DRAWINGS, GlyphPool, render_class


def test_a_class_is_twenty_drawings_with_ink() -> None:
    for number in range(0, 2000, 100):
        images = render_class(number)
        assert images.shape == (GLYPH_DRAWINGS, 28, 28)
        assert images.dtype == np.uint8
        share = (images > 127).mean(axis=(1, 2))
        assert (share > 0.01).all()
        assert (share < 0.5).all()
        assert len(np.unique(images.reshape(GLYPH_DRAWINGS, -1), axis=0)) == GLYPH_DRAWINGS


def test_splits_are_disjoint_runs_of_classes() -> None:
    pool = GlyphPool()
    first = 0
    for split in Split:
        count = GLYPH_CLASSES[split]
        assert pool.class_count(split) == count
        ends = np.array([0, count - 1])
        images = pool.images(split, ends).reshape(count, GLYPH_DRAWINGS, 28, 28)
        np.testing.assert_array_equal(images[0], render_class(first))
        np.testing.assert_array_equal(images[-1], render_class(first + count - 1))
        first += count
    assert first == 2000


def test_only_what_is_drawn_is_rendered() -> None:
    pool = GlyphPool()
    images = pool.images(Split.TEST, np.array([[3, 5], [5, 3]]))
    rendered = images.reshape(-1, GLYPH_DRAWINGS * 784).any(axis=1)
    assert np.flatnonzero(rendered).tolist() == [3, 5]


def test_pixels_are_those_of_every_earlier_release() -> None:
    # stored evaluations speak of these pixels: whoever changes them raises ENGINE_VERSION
    digest = hashlib.sha256(b"".join(render_class(number).tobytes() for number in (0, 1, 1999)))
    assert digest.hexdigest() == "eb48d5a9a2552f8810302ca47000a9e89d8935d8c358cef3e28685c797a1993f"


def test_pixel_nearest_neighbour_does_about_as_well_as_on_omniglot() -> None:
    batch = open_task_family(TaskFamily(family="glyphs"), None).draw(Split.TEST, 0, 0, 200)
    support, query = batch.support_x.reshape(200, 5, 784), batch.query_x.reshape(200, 75, 784)
    distances = (support**2).sum(axis=2)[:, None] - 2 * query @ support.swapaxes(1, 2)
    accuracy = (distances.argmin(axis=2) == batch.query_y).mean()
    assert 0.40 < accuracy < 0.46  # Omniglot: 0.43; chance: 0.20

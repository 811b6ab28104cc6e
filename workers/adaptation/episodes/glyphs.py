"""Invented characters: a task family as hard as Omniglot that needs no download.

A class is a random program of two to five pen strokes; each drawing of it performs the program with a shaky hand:
jittered control points, a small affine change, another pen width. The idea of characters as stroke programs, and of
strokes that start on earlier ones, is from Lake et al., "Human-level concept learning through probabilistic program
induction" (Science 2015); the distributions here are our own.

Class ``c`` is a pure function of ``[GLYPH_SEED, c]``, and arithmetic is float64 before the final rounding, so pixels
agree between machines. Changing any constant here changes every glyph: raise ``ENGINE_VERSION`` with it.
"""

from __future__ import annotations

from functools import cache
from threading import Lock

import numpy as np
import numpy.typing as npt

from search_service.domain.evaluation import Split
from workers.adaptation.episodes.classification import IMAGE_SIDE, INK

GLYPH_SEED = 0x676C7970
GLYPH_DRAWINGS = 20  # per class, as Omniglot has
GLYPH_CLASSES = {Split.TRAIN: 1200, Split.VALIDATION: 300, Split.TEST: 500}
"""Classes are numbered on from split to split: train 0 to 1199, validation 1200 to 1499, test 1500 to 1999."""

STROKES = (2, 5)  # fewest, most
CONTROL_POINTS = (2, 5)  # of a stroke, fewest, most
POINTS_PER_SPAN = 20  # of the polyline, between two control points of a curve; fewer show as beads of ink
POINTS_PER_LINE = 40  # of a straight stroke
ATTACHED = 0.6  # chance that a stroke starts on an earlier one
SPAN_LENGTH = (0.3, 0.7)  # between control points, before the glyph is fitted into its box
CURL = 1.3  # radians, largest change of direction that a stroke makes at every control point
TURN = 0.7  # radians, largest change of direction at one control point beyond the stroke's curl
BOX = (0.40, 0.66)  # width and height of a glyph, of the image's side
MAX_STRETCH = 2.0  # most that fitting may stretch one side beyond the other

# A drawing's departures from its program; lengths are fractions of the image's side. Tuned so that pixel nearest
# neighbour does about as well as on Omniglot (5-way 1-shot).
POINT_JITTER = 0.035
TURN_JITTER = 0.2  # radians
SCALE_JITTER = 0.28
SHEAR_JITTER = 0.2
SHIFT_JITTER = 0.11
PEN_WIDTH = (0.014, 0.019)  # standard deviation of the pen's profile

Points = npt.NDArray[np.float64]


class GlyphPool:
    """Glyph classes by split, rendered when first drawn and kept: a short job pays for what it draws."""

    drawings = GLYPH_DRAWINGS

    def __init__(self) -> None:
        self._images: dict[Split, npt.NDArray[np.uint8]] = {}
        self._ready: dict[Split, npt.NDArray[np.bool_]] = {}
        self._rendering = Lock()

    def class_count(self, split: Split) -> int:
        """Classes of a split."""
        return GLYPH_CLASSES[split]

    def images(self, split: Split, classes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """All drawings of a split, `uint8 [class_count * 20, 28, 28]`, of which those of ``classes`` are ready."""
        with self._rendering:
            if split not in self._images:
                shape = (GLYPH_CLASSES[split] * GLYPH_DRAWINGS, IMAGE_SIDE, IMAGE_SIDE)
                self._images[split] = np.zeros(shape, dtype=np.uint8)
                self._ready[split] = np.zeros(GLYPH_CLASSES[split], dtype=np.bool_)
            images, ready = self._images[split], self._ready[split]
            for number in np.unique(classes[~ready[classes]]).tolist():
                rows = slice(number * GLYPH_DRAWINGS, (number + 1) * GLYPH_DRAWINGS)
                images[rows] = render_class(_first_class(split) + number)
                ready[number] = True
        return images


def render_class(number: int) -> npt.NDArray[np.uint8]:
    """All drawings of class ``number``: `uint8 [20, 28, 28]`, 255 ink and 0 paper."""
    generator = np.random.Generator(np.random.PCG64([GLYPH_SEED, number]))
    strokes = _program(generator)
    jitter = _Jitter(generator)
    polylines = [_curve(len(stroke)) @ jitter.points(stroke) for stroke in strokes]
    return _ink([jitter.affine(polyline) for polyline in polylines], jitter.pen_width)


def _first_class(split: Split) -> int:
    splits = list(GLYPH_CLASSES)
    return sum(GLYPH_CLASSES[earlier] for earlier in splits[: splits.index(split)])


def _uniform(generator: np.random.Generator, bounds: tuple[float, float], *shape: int) -> Points:
    return bounds[0] + (bounds[1] - bounds[0]) * generator.random(shape)


def _whole(generator: np.random.Generator, bounds: tuple[int, int]) -> int:
    return bounds[0] + int(generator.random() * (bounds[1] - bounds[0] + 1))


def _program(generator: np.random.Generator) -> list[Points]:
    """The strokes of a class, each `[control points, 2]` as (x, y), centred on 0 and fitted into a box."""
    strokes: list[Points] = []
    for _ in range(_whole(generator, STROKES)):
        controls = _whole(generator, CONTROL_POINTS)
        start = _uniform(generator, (0.0, 1.0), 2)
        if strokes and generator.random() < ATTACHED:
            earlier = strokes[int(generator.random() * len(strokes))]
            curve = _curve(len(earlier)) @ earlier
            start = curve[int(generator.random() * len(curve))]
        # a walk that sets out towards the middle, then turns at each control point
        to_middle = np.arctan2(*(0.5 - start)[::-1])
        curl = _uniform(generator, (-CURL, CURL))
        turns = curl + _uniform(generator, (-TURN, TURN), controls - 1)
        angles = to_middle + np.cumsum(turns) - curl
        lengths = _uniform(generator, SPAN_LENGTH, controls - 1)
        steps = lengths[:, None] * np.stack((np.cos(angles), np.sin(angles)), axis=1)
        strokes.append(np.concatenate((start[None], start + np.cumsum(steps, axis=0))))
    everything = np.concatenate(strokes)
    low, high = everything.min(axis=0), everything.max(axis=0)
    extent = np.maximum(high - low, (high - low).max() / MAX_STRETCH)
    scale = _uniform(generator, BOX, 2) / extent
    return [(stroke - (low + high) / 2) * scale for stroke in strokes]


class _Jitter:
    """How the 20 drawings of a class depart from its program."""

    def __init__(self, generator: np.random.Generator) -> None:
        turn, shear = (_uniform(generator, (-size, size), GLYPH_DRAWINGS) for size in (TURN_JITTER, SHEAR_JITTER))
        scale = np.exp(_uniform(generator, (-SCALE_JITTER, SCALE_JITTER), GLYPH_DRAWINGS, 2))
        self._shift = _uniform(generator, (-SHIFT_JITTER, SHIFT_JITTER), GLYPH_DRAWINGS, 1, 2)
        self.pen_width = _uniform(generator, PEN_WIDTH, GLYPH_DRAWINGS)
        self._generator = generator
        rows = ((np.cos(turn), np.sin(turn)), (shear - np.sin(turn), np.cos(turn)))
        # [20, 2, 2], applied from the right to points (x, y)
        self._linear = np.stack([np.stack(row, axis=-1) for row in rows], axis=1) * scale[:, None, :]

    def points(self, stroke: Points) -> Points:
        """A stroke's control points `[n, 2]` as each drawing places them, `[20, n, 2]`."""
        return stroke + _uniform(self._generator, (-POINT_JITTER, POINT_JITTER), GLYPH_DRAWINGS, *stroke.shape)

    def affine(self, polyline: Points) -> Points:
        """Polylines `[20, p, 2]` around 0, turned, sheared, scaled and moved into the unit square."""
        placed: Points = polyline @ self._linear + self._shift + 0.5
        return placed


@cache
def _curve(controls: int) -> Points:
    """Catmull-Rom curve as a matrix `[points, controls]`: times control points, it gives the polyline's points."""
    if controls == 2:  # a straight line
        along = np.linspace(0.0, 1.0, POINTS_PER_LINE)
        return np.stack((1 - along, along), axis=1)
    # the curve needs one more point beyond each end: the mirror image of the second one
    extended = np.zeros((controls + 2, controls))
    extended[1:-1] = np.eye(controls)
    extended[0, :2] = (2, -1)
    extended[-1, -2:] = (-1, 2)
    along = np.linspace(0.0, 1.0, POINTS_PER_SPAN, endpoint=False)
    powers = np.stack((np.ones_like(along), along, along**2, along**3), axis=1)
    basis = 0.5 * np.array(((0, 2, 0, 0), (-1, 0, 1, 0), (2, -5, 4, -1), (-1, 3, -3, 1)), dtype=np.float64)
    spans = [powers @ basis @ extended[span : span + 4] for span in range(controls - 1)]
    return np.concatenate((*spans, extended[-2:-1]))


def _ink(polylines: list[Points], pen_width: Points) -> npt.NDArray[np.uint8]:
    """Draw strokes `[20, p, 2]` with a round soft pen.

    Ink is the integral of a Gaussian pen along the stroke. A Gaussian is a product of its parts in x and in y, so all
    pixels together cost one matrix product of `[28, points]` and `[points, 28]` per drawing.
    """
    middles = np.concatenate([(line[:, 1:] + line[:, :-1]) / 2 for line in polylines], axis=1)  # [20, m, 2]
    lengths = np.concatenate([np.hypot(*np.moveaxis(np.diff(line, axis=1), 2, 0)) for line in polylines], axis=1)
    pixels = (np.arange(IMAGE_SIDE) + 0.5) / IMAGE_SIDE
    width = pen_width[:, None, None, None]
    profile = np.exp(-0.5 * ((middles[..., None] - pixels) / width) ** 2)  # [20, m, 2, 28]
    weights = lengths[..., None] / (np.sqrt(2 * np.pi) * pen_width[:, None, None])
    columns, rows = profile[:, :, 0], profile[:, :, 1] * weights
    # an infinite straight stroke peaks at 1 in its middle; the gain makes its core solid, as a pen's is
    ink = np.clip(1.6 * (rows.swapaxes(1, 2) @ columns), 0.0, 1.0)
    drawn: npt.NDArray[np.uint8] = np.rint(ink * INK).astype(np.uint8)
    return drawn

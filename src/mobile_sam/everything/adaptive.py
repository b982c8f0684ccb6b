"""Fast mode: points are decoded from coarse to fine, and only where they promise something new.

Two things tell that a point would bring nothing new. It lies in confident masks that were asked for at places which
look like it; or it looks almost the same as a point close by that was decoded. How alike two places look is the cosine
of what the image encoder says of them. It tells a window from the wall around it; the area of a mask, which TinySAM
goes by (arXiv 2312.13789), does not. docs/evaluation.md has what is lost and won, docs/log.md what else was tried.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.embedding import EMBEDDING_STRIDE
from mobile_sam.core.prompts import LOW_RES_STRIDE
from mobile_sam.everything.candidates import DrawnMask
from mobile_sam.everything.proposals import PointDecoder, Tell

ALIKE = 0.6
"""A mask speaks for the points in it that are alike to its own, by this cosine or more."""

NUM_MASKS = 2
"""So many masks must speak for a point before it is passed over."""

ALMOST_SAME = 0.95
"""A point is passed over for a decoded neighbour that is alike by this cosine or more."""

NEIGHBOUR_STEPS = 2
"""Neighbours are so many steps of the grid away at most, along either axis."""

POINTS_PER_STEP = 16
"""After so many points it is asked again which are explained. An engine's batch does not matter: all find the same."""

CONFIDENT_IOU, CONFIDENT_STABILITY = 0.88, 0.95
"""Masks speak for points only if they are at least so good, however low the thresholds are set."""


def propose_where_needed(decoder: PointDecoder, points: NDArray[np.float64], tell: Tell) -> None:
    """Decode points until all are decoded or explained.

    Args:
        decoder: of the crop.
        points: (P, 2) the crop's points as shares of its sides.
        tell: told of points that are decoded, and of those that are passed over.
    """
    explained = _Explained(decoder, points)
    for level, rows in enumerate(levels(points)):
        num_open = len(rows)
        while num_open:
            rows = rows if level == 0 else rows[~explained.is_explained(rows)]
            some, rows = rows[:POINTS_PER_STEP], rows[POINTS_PER_STEP:]
            for decoded_rows, masks in decoder.decode(some):
                explained.learn(decoded_rows, masks)
            tell(num_open - len(rows))
            num_open = len(rows)


def levels(points: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Order points from coarse to fine: every sixteenth, which are decoded whatever comes, then ever closer ones.

    Within a level the order is shuffled, always in the same way, so that neighbours come at different times.

    Args:
        points: (P, 2) shares; a square grid as `core.grids.point_grid` makes it, or any.

    Returns:
        Indices of the points, in levels; each point is in one of them.
    """
    shuffle = np.random.default_rng(0).permutation
    side = round(len(points) ** 0.5)
    row, column = np.divmod(np.arange(len(points)), side)
    is_grid = side * side == len(points) and np.allclose(points, (np.stack([column, row], axis=1) + 0.5) / side)
    if not is_grid:
        order = shuffle(len(points))
        num_first = -(-len(points) // 16)
        return [order[:num_first], order[num_first:]]
    steps = (
        (row % 4 == 1) & (column % 4 == 1),
        (row % 4 == 3) & (column % 4 == 3),
        (row % 2 == 1) & (column % 2 == 1),
        (row + column) % 2 == 0,
        np.ones(len(points), bool),
    )
    level_of = np.argmax(steps, axis=0)  # the first that holds
    return [shuffle(np.flatnonzero(level_of == level)) for level in range(len(steps))]


class _Explained:
    """What is known of the points, decoded or not.

    Attributes:
        num_masks: (P,) how many masks speak for each point.
        has_neighbour: (P,) whether a decoded neighbour is almost the same.
    """

    def __init__(self, decoder: PointDecoder, points: NDArray[np.float64]) -> None:
        self.threshold = decoder.candidates.mask_threshold
        self.points = points
        self.reach = (NEIGHBOUR_STEPS + 0.5) / max(len(points), 1) ** 0.5
        coords_xy = decoder.prompts.coords_xy[:, 0]  # (P, 2) model pixels
        features = decoder.candidates.embedding.features[0]  # (C, h, w)
        C, h, w = features.shape
        column, row = np.minimum(coords_xy // EMBEDDING_STRIDE, (w - 1, h - 1)).astype(int).T
        cells, self.cell_of = np.unique(row * w + column, return_inverse=True)  # (U,) of the embedding, (P,)
        looks = features.reshape(C, -1)[:, cells]  # (C, U)
        looks = looks / np.maximum(np.linalg.norm(looks, axis=0), 1e-12)
        # All at once, not as they are needed: BLAS threads that wait for more hold up the decoder (docs/log.md).
        self.likeness = looks.T @ looks  # (U, U)
        low_res_side = max(h, w) * EMBEDDING_STRIDE // LOW_RES_STRIDE
        self.low_res_x, self.low_res_y = np.minimum(coords_xy // LOW_RES_STRIDE, low_res_side - 1).astype(int).T
        self.num_masks = np.zeros(len(points), int)
        self.has_neighbour = np.zeros(len(points), bool)

    def is_explained(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which of some points (R,) need not be decoded: (R,)."""
        return (self.num_masks[rows] >= NUM_MASKS) | self.has_neighbour[rows]

    def learn(self, rows: NDArray[np.int64], masks: list[DrawnMask]) -> None:
        """Take note of points (R,) that were decoded, and of the masks that they gave."""
        for row in rows.tolist():
            is_near = np.abs(self.points - self.points[row]).max(axis=1) <= self.reach  # (P,)
            self.has_neighbour |= is_near & (self._likeness_to(row) >= ALMOST_SAME)
        for candidate, logits in masks:
            if candidate.predicted_iou > CONFIDENT_IOU and candidate.low_res_stability >= CONFIDENT_STABILITY:
                is_inside = logits[self.low_res_y, self.low_res_x] > self.threshold  # (P,)
                self.num_masks += is_inside & (self._likeness_to(candidate.prompt_row) >= ALIKE)

    def _likeness_to(self, row: int) -> NDArray[np.float32]:
        """Cosines of all points with one: (P,)."""
        likeness: NDArray[np.float32] = self.likeness[self.cell_of[row]][self.cell_of]
        return likeness

"""Measured masks, one row each: what every protocol that compares masks produces, and every report starts from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobile_sam.core.prompts import Prompt


@dataclass(frozen=True)
class Measurement:
    """One mask of one model, compared with the true mask or with the reference's.

    Attributes:
        picture: id of the picture.
        object: id of the annotated object, or of the prompt; unique within the picture.
        protocol: name of the protocol.
        model: name of the model.
        step: number of prompts given so far: 1 for the first box or click, 2 after the first further click, ...
        iou: intersection over union, 0 to 1; an empty mask has 0.
        predicted_iou: what the model said of the mask; NaN where it said nothing.
        mask_token: which of the decoder's four masks was taken.
        area_px: what the object is put into an area bin by.
        area_bin: name of that bin, such as "small".
        category: name of the object's category, or "".
    """

    picture: str
    object: str
    protocol: str
    model: str
    step: int
    iou: float
    predicted_iou: float
    mask_token: int
    area_px: float
    area_bin: str
    category: str = ""

    def to_row(self) -> list[Any]:
        """Return all but the picture's id as a list for JSON, in which NaN becomes None."""
        values = [getattr(self, name) for name in COLUMNS[1:]]
        return [None if value != value else value for value in values]

    @classmethod
    def from_row(cls, picture: str, row: Sequence[Any]) -> Measurement:
        """Return the measurement that `to_row` wrote."""
        values: list[Any] = [math.nan if value is None else value for value in row]
        return cls(picture, *values)


@dataclass(frozen=True, eq=False)
class Attempt:
    """A measurement with what it was made from.

    Attributes:
        measurement: the numbers.
        prompt: what was asked.
        truth: (H, W) bool, the true mask or the reference's.
        predicted: (H, W) bool, the model's.
    """

    measurement: Measurement
    prompt: Prompt
    truth: NDArray[np.bool_]
    predicted: NDArray[np.bool_]


COLUMNS = tuple(Measurement.__dataclass_fields__)


@dataclass(frozen=True, eq=False)
class MeasurementTable:
    """Measurements as columns of equal length; the attributes are those of `Measurement`, (N,) each."""

    picture: NDArray[np.str_]
    object: NDArray[np.str_]
    protocol: NDArray[np.str_]
    model: NDArray[np.str_]
    step: NDArray[np.int64]
    iou: NDArray[np.float64]
    predicted_iou: NDArray[np.float64]
    mask_token: NDArray[np.int64]
    area_px: NDArray[np.float64]
    area_bin: NDArray[np.str_]
    category: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.iou)

    def __getitem__(self, rows: slice | NDArray[Any]) -> MeasurementTable:
        """Return some of the rows, chosen by a slice, a (N,) bool array or indices."""
        return MeasurementTable(*(getattr(self, name)[rows] for name in COLUMNS))

    @classmethod
    def of(cls, measurements: Sequence[Measurement]) -> MeasurementTable:
        """Put measurements into columns."""
        kinds: dict[str, type] = {"str": str, "int": np.int64, "float": np.float64}
        return cls(
            *(
                np.array([getattr(row, name) for row in measurements], kinds[str(field.type)])
                for name, field in Measurement.__dataclass_fields__.items()
            )
        )

    def rows_of_objects(self) -> dict[tuple[str, str], int]:
        """Return the row of each picture and object; for measurements of one protocol, model and step.

        Raises:
            ValueError: an object has two.
        """
        row_of: dict[tuple[str, str], int] = {}
        for row, key in enumerate(zip(self.picture.tolist(), self.object.tolist(), strict=True)):
            if key in row_of:
                raise ValueError(
                    f"object {key[1]} of picture {key[0]} is measured twice by {self.model[0]} in step {self.step[0]} "
                    f"of {self.protocol[0]}; keep one of the rows"
                )
            row_of[key] = row
        return row_of

    def paired_with(self, other: MeasurementTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the objects that two tables share: rows of this one and of the other, (K,) each, in this one's order.

        Raises:
            ValueError: an object has two rows in one of them.
        """
        other_row_of = other.rows_of_objects()
        shared = [(row, other_row_of[key]) for key, row in self.rows_of_objects().items() if key in other_row_of]
        rows, other_rows = np.array(shared, np.int64).reshape(-1, 2).T
        return rows, other_rows

    def where(self, **values: Any) -> MeasurementTable:
        """Return the rows whose columns have these values: `table.where(protocol="box", step=1)`."""
        is_wanted = np.ones(len(self), bool)
        for name, value in values.items():
            is_wanted &= getattr(self, name) == value
        return self[is_wanted]

"""MaskData: columns of what is known about each mask, as lists, arrays or tensors; torch only where tensors come in."""

from __future__ import annotations

import sys
from collections.abc import ItemsView
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Tell whether a value is a torch tensor, without importing torch: there is none before somebody else did."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_array(values: NDArray[Any] | torch.Tensor) -> NDArray[Any]:
    """The values as an array of the same shape and dtype; bfloat16, which numpy lacks, becomes float32.

    A tensor on the CPU and an array share their memory with the result.
    """
    if not is_tensor(values):
        return np.asarray(values)
    values = values.detach().cpu()
    is_bfloat16 = str(values.dtype) == "torch.bfloat16"
    return np.asarray((values.float() if is_bfloat16 else values).numpy())


class MaskData:
    """A table about masks: each column a list, an array or a tensor with one entry, or row, per mask.

    Columns are read, set and deleted by name as in a dict. None stands for a column that is not filled yet.

    Args:
        columns: the first columns by name.

    Raises:
        ValueError: if a column is of another type.

    >>> table = MaskData(areas=np.array([5, 7, 9]), names=["a", "b", "c"])
    >>> table.filter(np.array([True, False, True]))
    >>> table["areas"].tolist(), table["names"]
    ([5, 9], ['a', 'c'])
    """

    def __init__(self, **columns: Any) -> None:
        self._stats: dict[str, Any] = {}
        for name, values in columns.items():
            self[name] = values

    def __setitem__(self, key: str, item: Any) -> None:
        if item is not None and not isinstance(item, (list, np.ndarray)) and not is_tensor(item):
            raise ValueError(
                f"{key} must be a list, a numpy array or a torch tensor, got {type(item).__name__}; wrap it in a list"
            )
        self._stats[key] = item

    def __delitem__(self, key: str) -> None:
        del self._stats[key]

    def __getitem__(self, key: str) -> Any:
        return self._stats[key]

    def items(self) -> ItemsView[str, Any]:
        """Names and columns."""
        return self._stats.items()

    def filter(self, keep: NDArray[Any] | torch.Tensor) -> None:
        """Keep some masks, in every column.

        Args:
            keep: (N,) bool, which of the N masks to keep; or (K,) whole numbers, the masks to keep in their new order.

        Raises:
            ValueError: if keep is neither, or has not one entry for each mask.
        """
        indices = _kept_indices(keep)
        for name, column in self._stats.items():
            if column is None:
                continue
            if indices.dtype == np.bool_ and len(indices) != len(column):
                raise ValueError(f"keep must have an entry for each of the {len(column)} {name}, got {len(indices)}")
            self._stats[name] = _rows(column, indices)

    def cat(self, new_stats: MaskData) -> None:
        """Append the masks of another table; what is appended is copied, columns missing here are taken over.

        Raises:
            ValueError: if a column is of two types in the two tables.
        """
        for name, new_column in new_stats.items():
            column = self._stats.get(name)
            if column is None:
                self._stats[name] = deepcopy(new_column)
            elif is_tensor(column) and is_tensor(new_column):
                import torch

                self._stats[name] = torch.cat([column, new_column], dim=0)
            elif isinstance(column, np.ndarray) and isinstance(new_column, np.ndarray):
                self._stats[name] = np.concatenate([column, new_column], axis=0)
            elif isinstance(column, list) and isinstance(new_column, list):
                self._stats[name] = column + deepcopy(new_column)
            else:
                types = f"{type(column).__name__} here and {type(new_column).__name__} in new_stats"
                raise ValueError(f"{name} must be of one type in both tables, got {types}; convert one, as by to_numpy")

    def to_numpy(self) -> None:
        """Turn every tensor into an array of the same dtype, bfloat16 into float32."""
        for name, column in self._stats.items():
            if is_tensor(column):
                self._stats[name] = to_array(column)


def _kept_indices(keep: NDArray[Any] | torch.Tensor) -> NDArray[Any]:
    """What to index columns with: (N,) bool or (K,) int64."""
    indices = to_array(keep)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "biu"):
        raise ValueError(
            f"keep must be (N,) bool or (K,) whole numbers, got {indices.dtype} of shape {indices.shape};"
            " compare first, as in scores > 0.5"
        )
    return indices if indices.dtype == np.bool_ else indices.astype(np.int64)


def _rows(column: Any, indices: NDArray[Any]) -> Any:
    if is_tensor(column):
        import torch

        return column[torch.tensor(indices, device=column.device)]
    if isinstance(column, list):
        return [column[i] for i in (np.flatnonzero(indices) if indices.dtype == np.bool_ else indices)]
    return column[indices]

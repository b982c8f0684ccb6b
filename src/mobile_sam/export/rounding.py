"""Round weights to int8 so that the layers' outputs, not the weights, stay near what they were.

Rounding each weight to its nearest step is not best: what one weight is rounded by can be made up for by the next ones,
as far as their inputs are correlated, which is what calibration tells (GPTQ, Frantar et al. 2022, arXiv 2210.17323;
OBQ, Frantar and Alistarh 2022, arXiv 2208.11580). The weights stay float32 numbers, on the grid that a quantizer with
one symmetric scale an output channel finds again, so that its own rounding changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

INT8_MAX = 127
DAMPING = 0.01
"""Share of the mean of the diagonal that is added to it, so that inputs that hardly vary do not decide."""
MAX_ROWS = 8192
"""Inputs of a layer that are taken from one picture; as many channels as a layer has at most, several times over."""


def round_weights(
    network: nn.Module, inputs: Sequence[NDArray[np.float32]], is_wanted: Callable[[str, nn.Module], bool]
) -> list[str]:
    """Round the weights of a network's linear and convolution layers in place.

    Args:
        network: called with one input at a time; in eval mode.
        inputs: calibration, each what the network takes, without the batch axis.
        is_wanted: tells of a layer, by its name and module, whether it will be quantized. Grouped convolutions are
            never rounded.

    Returns:
        Names of the layers that were rounded.
    """
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and getattr(module, "groups", 1) == 1 and is_wanted(name, module)
    }
    correlations = _input_correlations(network, layers, inputs)
    for name, layer in layers.items():
        rows = layer.weight.detach().flatten(1)  # (out, in)
        layer.weight.data.copy_(round_rows(rows, correlations[name]).view_as(layer.weight))
    return list(layers)


def round_rows(weights: Tensor, correlation: Tensor) -> Tensor:
    """Round a matrix, column by column, each column's error spread over those that follow.

    Args:
        weights: (out, in) float32.
        correlation: (in, in), the sum of x x^T over the inputs x.

    Returns:
        (out, in) float32: whole multiples, -127 to 127, of each row's greatest weight over 127.
    """
    steps = weights.abs().amax(dim=1).double() / INT8_MAX  # (out,)
    steps[steps == 0] = 1.0
    damped = correlation.double().clone()
    damped.diagonal().add_(DAMPING * damped.diagonal().mean())
    damped.diagonal().clamp_(min=1e-12)
    order = damped.diagonal().argsort(descending=True)  # those that matter most are rounded first
    damped, rest = damped[order][:, order], weights.double()[:, order]
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    rounded = torch.empty_like(rest)
    for column in range(rest.shape[1]):
        exact = rest[:, column]
        rounded[:, column] = (exact / steps).round().clamp(-INT8_MAX, INT8_MAX) * steps
        error = (exact - rounded[:, column]) / upper[column, column]
        rest[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
    answer = torch.empty_like(rounded)
    answer[:, order] = rounded
    rows, greatest = torch.arange(len(weights)), weights.abs().argmax(dim=1)
    answer[rows, greatest] = weights[rows, greatest].double()  # is on the grid, and gives a quantizer the same scale
    return answer.float()


def _input_correlations(
    network: nn.Module, layers: dict[str, nn.Linear | nn.Conv2d], inputs: Sequence[NDArray[np.float32]]
) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}

    def add(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            rows = _rows(module, given[0])
            rows = rows[:: -(-len(rows) // MAX_ROWS)]
            sums[name] = sums.get(name, 0.0) + rows.T @ rows

        return hook

    hooks = [layer.register_forward_pre_hook(add(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            for one in inputs:
                network(torch.from_numpy(one)[None])
    finally:
        for handle in hooks:
            handle.remove()
    return sums


def _rows(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer multiplies its weights with: (rows, in)."""
    if isinstance(layer, nn.Conv2d):
        patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
        return patches.transpose(1, 2).flatten(0, 1)
    return x.reshape(-1, x.shape[-1])

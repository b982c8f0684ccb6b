"""What can be said of a Core ML package where Core ML does not run: its interface, its operations, its weights.

The package is read back from disk. Each weight of the module is looked up among the constants of the program by its
values, in any layout: numbers in ascending order are the same numbers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mobile_sam.modeling.mask_decoder import MaskDecoder
from mobile_sam.modeling.tiny_vit_sam import Attention, ConvBN

MAX_RANK = 5
"""Axes of a tensor that Core ML takes; conversion lets more pass, and the device does not."""

MIN_VALUES = 64  # of a weight; fewer numbers are found by chance
TOLERANCES = {"fp32": 1e-6, "fp16": 1e-3, "int8": 5e-3}
"""Greatest difference over the greatest value of a weight: rounding, with room; 1/254 in int8."""


def check_package(
    path: Path, module: nn.Module, precision: str, input_names: Sequence[str], output_names: Sequence[str]
) -> dict[str, Any]:
    """Read a package back and compare it with the module that it was made of.

    Args:
        path: the `.mlpackage`.
        module: what was converted, a graph of `mobile_sam.export.four_axes`.
        precision: that it was converted in.
        input_names: that it shall have, in order.
        output_names: that it shall have, in order.

    Returns:
        Facts for the report: version, interface, operations by type, which weights were found.

    Raises:
        RuntimeError: other names, tensors of more than five axes, constants that are not finite, or weights that
            are not there.
    """
    import coremltools as ct

    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    inputs, outputs = _interface(spec.description.input), _interface(spec.description.output)
    if [*inputs] != [*input_names] or [*outputs] != [*output_names]:
        raise RuntimeError(
            f"{path.name} has inputs {[*inputs]} and outputs {[*outputs]} in place of what was asked for"
        )
    operations = program_operations(path)
    too_many = sorted({op.op_type for op in operations if any(len(one.shape) > MAX_RANK for one in op.outputs)})
    if too_many:
        raise RuntimeError(f"{path.name} has tensors of more than {MAX_RANK} axes, made by {', '.join(too_many)}")
    constants = _constants(operations)
    if not all(np.isfinite(one).all() for one in constants):
        raise RuntimeError(f"{path.name} has constants that are not finite")
    expected = dict(expected_weights(module))
    missing = missing_weights(expected, constants, TOLERANCES[precision])
    if missing:
        raise RuntimeError(f"{path.name} lacks weights of the model: {', '.join(missing)}")
    return {
        "specification_version": spec.specificationVersion,
        "inputs": inputs,
        "outputs": outputs,
        "operations": dict(sorted(Counter(op.op_type for op in operations if op.op_type != "const").items())),
        "weights_found": len(expected),
        "values_found": sum(weight.size for weight in expected.values()),
        "weight_tolerance": TOLERANCES[precision],
    }


def expected_weights(module: nn.Module) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Weights that a converted graph must hold, as it holds them: BatchNorm within its convolution, biases spread.

    Vectors are left out, for converters merge them, and so are zeros, which converters drop.
    """
    for name, weight in _converted_weights(module):
        if weight.size >= MIN_VALUES and weight.any():
            yield name, weight


def _converted_weights(module: nn.Module) -> Iterator[tuple[str, NDArray[np.float32]]]:
    merged = set()
    for name, part in module.named_modules():
        if isinstance(part, ConvBN):
            bn = part.bn
            assert bn.running_mean is not None
            assert bn.running_var is not None
            fused, _ = fuse_conv_bn_weights(
                part.c.weight, None, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
            )
            yield f"{name}.c.weight", fused.detach().numpy()
            merged.add(f"{name}.c.weight")
        elif isinstance(part, Attention):
            with torch.no_grad():
                yield f"{name}.attention_biases", part.attention_biases[:, part.attention_bias_idxs].numpy()
            merged.add(f"{name}.attention_biases")
        elif isinstance(part, MaskDecoder):
            tokens = {
                f"{name}.{one}.weight": part.get_parameter(f"{one}.weight") for one in ("iou_token", "mask_tokens")
            }
            yield f"{name}.mask_tokens.weight", torch.cat([*tokens.values()]).detach().numpy()
            merged.update(tokens)
    for name, parameter in module.named_parameters():
        if parameter.ndim >= 2 and name not in merged:
            yield name, parameter.detach().numpy()


def missing_weights(
    expected: dict[str, NDArray[np.float32]], constants: Sequence[NDArray[Any]], tolerance: float
) -> list[str]:
    """Names of the weights whose values are in no constant.

    Args:
        expected: by name, of any shapes.
        constants: of any shapes and floating types.
        tolerance: greatest difference over the greatest absolute value of the weight.
    """
    by_size = defaultdict(list)
    for constant in constants:
        by_size[constant.size].append(np.sort(constant.astype(np.float32), axis=None))
    missing = []
    for name, weight in expected.items():
        values = np.sort(weight, axis=None)
        allowed = tolerance * np.abs(values).max()
        if not any(np.abs(values - constant).max() <= allowed for constant in by_size[values.size]):
            missing.append(name)
    return missing


def _interface(described: Any) -> dict[str, str]:
    """Type and shape of each input or output of a specification, in words."""
    words = {}
    for one in described:
        if one.type.WhichOneof("Type") == "imageType":
            words[one.name] = f"image RGB {one.type.imageType.width}x{one.type.imageType.height}"
        else:
            array = one.type.multiArrayType
            kind = type(array).ArrayDataType.Name(array.dataType).lower()
            words[one.name] = f"{kind} [{', '.join(map(str, array.shape))}]"
    return words


def program_operations(path: Path) -> list[Any]:
    """Operations of a package's program, in coremltools' intermediate language, constants among them."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    weights = path / "Data" / "com.apple.CoreML" / "weights"
    program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=str(weights))
    return [op for function in program.functions.values() for op in function.operations]


def _constants(operations: Sequence[Any]) -> list[NDArray[Any]]:
    """Floating constants, also those stored as integers with a scale; what is repeated for each prompt once."""
    constants = []
    for op in operations:
        value = op.outputs[0].val if op.op_type == "const" else None
        if op.op_type.startswith("constexpr_"):
            value = op.materialized_val_inference()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size >= MIN_VALUES:
            is_repeated = value.ndim == 3 and len(value) > 1 and bool((value == value[:1]).all())
            constants.append(value[:1] if is_repeated else value)
    return constants

"""Programs of torch.export: which sizes are free, and how attention is recorded."""

import pytest
import torch

from mobile_sam.build_sam import build_sam_vit_t_1m
from mobile_sam.export.programs import dynamic_points, fixed_counts, record, recordables
from mobile_sam.export.target import MAX_POINTS, ExportOptions
from mobile_sam.modeling.common import attention_written_out


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return recordables(build_sam_vit_t_1m(input_side=256).eval(), ExportOptions(), 1, 1)["encoder"]


def operators(program):
    return {str(node.target).split(".")[1] for node in program.graph.nodes if str(node.target).startswith("aten.")}


def test_attention_is_recorded_as_one_operator_or_written_out_with_the_same_result(encoder):
    fused = record(encoder)
    with attention_written_out():
        written_out = record(encoder)
    assert "scaled_dot_product_attention" in operators(fused) - operators(written_out)
    assert {"matmul", "softmax"} <= operators(written_out)
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(written_out.module()(image), fused.module()(image), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "free_axes"),
    [
        (ExportOptions(), {"P", "N"}),
        (ExportOptions(num_prompts=2), {"N"}),
        (ExportOptions(num_points=3), {"P"}),
    ],
)
def test_what_is_not_asked_for_is_free(options, free_axes):
    free = dynamic_points(options, "decoder", 5)
    assert [{dim.__name__ for dim in axes.values()} for axes in free] == [set(), free_axes, free_axes, set(), set()]
    ((*image, coords, labels),) = dynamic_points(options, "joint", 4)
    assert [*image, coords] == [{}, {}, labels]


def test_nothing_is_free_where_both_numbers_are_asked_for():
    assert dynamic_points(ExportOptions(num_prompts=1, num_points=2), "decoder", 5) is None
    assert dynamic_points(ExportOptions(), "encoder", 1) is None


def test_targets_of_fixed_sizes_take_one_prompt_of_the_usual_points_unless_told():
    assert fixed_counts(ExportOptions()) == (1, MAX_POINTS)
    assert fixed_counts(ExportOptions(num_prompts=3, num_points=2)) == (3, 2)

"""Weights rounded for what they multiply: on a quantizer's grid, and with nearer outputs than rounding each alone."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from mobile_sam.export.rounding import round_rows, round_weights

STEPS = 127  # int8, symmetric


def steps_of(weights):
    return weights.abs().amax(dim=1, keepdim=True).double() / STEPS


def nearest(weights):
    """Each weight alone to the nearest multiple of its row's step."""
    steps = steps_of(weights)
    return ((weights.double() / steps).round() * steps).float()


def correlation_of(inputs):
    return inputs.T @ inputs


def correlated_inputs(num_inputs=256, width=32, seed=0):
    """Inputs that lie near a plane of three dimensions, as activations do."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(num_inputs, 3, generator=generator) @ torch.randn(3, width, generator=generator)
    return spread + 0.1 * torch.randn(num_inputs, width, generator=generator)


@pytest.fixture
def weights():
    return torch.randn(16, 32, generator=torch.Generator().manual_seed(1))


def output_error(inputs, found, weights):
    return float(torch.linalg.norm(inputs @ (found - weights).T))


def test_rows_are_whole_multiples_of_their_step_within_int8(weights):
    multiples = round_rows(weights, correlation_of(correlated_inputs())).double() / steps_of(weights)
    assert_allclose(multiples, multiples.round(), atol=1e-4)
    assert multiples.abs().max() <= STEPS + 1e-4


def test_the_greatest_weight_of_a_row_stays_so_that_its_step_is_found_again(weights):
    rounded = round_rows(weights, correlation_of(correlated_inputs()))
    greatest = weights.abs().argmax(dim=1, keepdim=True)
    assert torch.equal(rounded.gather(1, greatest), weights.gather(1, greatest))
    assert torch.equal(rounded.abs().amax(dim=1), weights.abs().amax(dim=1))


def test_rounding_what_is_rounded_to_the_nearest_changes_nothing(weights):
    """So that a quantizer with the same scale leaves it as it is."""
    rounded = round_rows(weights, correlation_of(correlated_inputs()))
    assert_allclose(nearest(rounded), rounded, atol=1e-6)


def test_outputs_are_nearer_than_with_each_weight_rounded_alone(weights):
    inputs = correlated_inputs()
    rounded = round_rows(weights, correlation_of(inputs))
    assert output_error(inputs, rounded, weights) < 0.5 * output_error(inputs, nearest(weights), weights)
    assert torch.linalg.norm(rounded - weights) > torch.linalg.norm(nearest(weights) - weights)  # that is the price


def test_two_inputs_that_are_one_round_their_sum(weights):
    """What one of two equal inputs loses the other gains: the sum is as near as one step allows."""
    pair = torch.tensor([[1.0, 0.304 / 127, 0.304 / 127, 0.304 / 127]])  # each 0.304 steps, together 0.912
    inputs = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 1]]).repeat(50, 1)
    rounded = round_rows(pair, correlation_of(inputs)).double() * 127
    assert_allclose(rounded[0, 1:].sum(), 1, atol=1e-4)  # each rounded alone: 0


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_inputs_that_have_nothing_to_do_with_each_other_are_rounded_to_the_nearest(weights, scale):
    assert_allclose(round_rows(weights, scale * torch.eye(32)), nearest(weights), atol=1e-6)


@pytest.mark.parametrize("correlation", [torch.zeros(32, 32), torch.ones(32, 32)])
def test_inputs_that_never_vary_are_no_obstacle(weights, correlation):
    rounded = round_rows(weights, correlation)
    assert torch.isfinite(rounded).all()
    assert (rounded - weights).abs().max() <= 32 * steps_of(weights).max()


def test_a_row_of_zeros_stays(weights):
    weights[3] = 0
    rounded = round_rows(weights, correlation_of(correlated_inputs()))
    assert not rounded[3].any()
    assert torch.isfinite(rounded).all()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.linear, self.kept = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, image):
        x = self.depthwise(self.conv(image).relu()).flatten(2).transpose(1, 2)  # (B, L, 8)
        return self.kept(self.linear(self.norm(x)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture
def inputs():
    smooth = np.random.default_rng(0).normal(size=(4, 3, 4, 4)).astype(np.float32)
    return [np.kron(one, np.ones((1, 4, 4), np.float32)) for one in smooth]  # each (3, 16, 16)


def test_the_layers_that_are_wanted_are_rounded_and_no_other(network, inputs):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    asked = {}

    def is_wanted(name, layer):
        asked[name] = layer
        return name != "kept"

    assert round_weights(network, inputs, is_wanted) == ["conv", "linear"]
    assert asked == {name: getattr(network, name) for name in ("conv", "linear", "kept")}  # no grouped convolution
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["conv.weight", "linear.weight"]
    for name in changed:
        rows = network.state_dict()[name].flatten(1)
        multiples = rows.double() / steps_of(before[name].flatten(1))
        assert_allclose(multiples, multiples.round(), atol=1e-4)
    network(torch.from_numpy(inputs[0])[None])
    assert not network.conv._forward_pre_hooks


@pytest.mark.parametrize("name", ["conv", "linear"])
def test_a_layers_outputs_are_nearer_than_with_each_weight_rounded_alone(network, inputs, name):
    seen, layer = [], getattr(network, name)
    handle = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        for one in inputs:
            network(torch.from_numpy(one)[None])
        handle.remove()
        x, exact = torch.cat(seen), layer.weight.clone()
        expected = layer(x)
        layer.weight.copy_(nearest(exact.flatten(1)).view_as(exact))
        alone = float(torch.linalg.norm(layer(x) - expected))
        layer.weight.copy_(exact)
        round_weights(network, inputs, lambda asked, _: asked == name)
        together = float(torch.linalg.norm(layer(x) - expected))
    assert together < 0.9 * alone

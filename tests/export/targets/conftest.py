from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mobile_sam.build_sam import build_sam_vit_t, build_sam_vit_t_1m
from mobile_sam.core.geometry import LongSideResize
from mobile_sam.core.images import read_image
from mobile_sam.core.manifest import ExportManifest
from mobile_sam.core.prompts import Prompt, PromptBatch
from mobile_sam.engines.exported import ExportedEngine
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.engines.runtimes import open_graph
from mobile_sam.export.programs import recordables
from mobile_sam.export.runner import EngineRunner
from mobile_sam.export.target import ExportOptions
from mobile_sam.export.targets import get_target
from mobile_sam.modeling import Sam


@pytest.fixture(scope="session")
def sam() -> Sam:
    """The bundled weights."""
    return build_sam_vit_t("mobile_sam").eval()


@pytest.fixture(scope="session")
def tiny_sam() -> Sam:
    """A small model of random weights, for what does not depend on them."""
    torch.manual_seed(0)
    return build_sam_vit_t_1m(input_side=256).eval()


@pytest.fixture(scope="session")
def tiny_sam_without_zeros() -> Sam:
    """With random numbers also where a fresh model has zeros, as in the biases of attention: converters drop them."""
    torch.manual_seed(0)
    tiny = build_sam_vit_t_1m(input_side=256).eval()
    for parameter in tiny.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return tiny


@pytest.fixture(scope="session")
def export_to(tmp_path_factory):
    """Write an export with its manifest, and open it: (target, sam, options) -> engine."""

    def write(target: str, sam: Sam, options: ExportOptions) -> ExportedEngine:
        folder = tmp_path_factory.mktemp(target)
        written = get_target(target).write(sam, options, folder)
        side, model_id = sam.image_encoder.img_size, TorchEngine(sam).model_id
        ExportManifest(
            target, written.runtime, options.precision or "fp32", model_id, "vit_t", side,
            options.input_hw or (side, side), options.preprocess, written.num_prompts, written.num_points,
            written.graphs,
        ).write(folder)  # fmt: skip
        return ExportedEngine(folder, num_threads=1)

    return write


@pytest.fixture(scope="session")
def errors_by_role(examples):
    """What the graphs of an export compute for one picture, against the modules that they were made of."""

    def compare(
        engine: ExportedEngine, sam: Sam, options: ExportOptions, prompts: Sequence[Prompt]
    ) -> dict[str, float]:
        image = read_image(examples / "chelsea.png")
        resize = LongSideResize((image.shape[0], image.shape[1]), engine.input_side)
        points = engine.fit_points(PromptBatch.from_prompts(prompts, resize))
        image_inputs = engine.encoder_inputs(engine.normalise_and_pad(resize.resize_image(image)))
        modules = {role: module for role, (module, _) in recordables(sam, options, 1, 1).items()}
        features = in_torch(modules["encoder"], image_inputs)[0]
        s = features.shape[-1]
        mask = np.random.default_rng(0).normal(0, 5, (1, 1, 4 * s, 4 * s)).astype(np.float32)
        inputs = {
            "encoder": image_inputs,
            "decoder": [features, *points, mask, np.ones(1, np.float32)],
            "joint": [*image_inputs, *points],
        }
        errors = {}
        for role, name in engine.manifest.graphs.items():
            found = open_graph(engine.name, engine.folder / name, num_threads=1)(inputs[role])
            expected = in_torch(modules[role], inputs[role])
            assert [one.dtype for one in found] == [np.float32] * len(expected)
            assert [one.shape for one in found] == [one.shape for one in expected]
            errors[role] = max(map(relative_error, found, expected))
        return errors

    return compare


def in_torch(module: torch.nn.Module, inputs: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
    with torch.no_grad():
        found = module(*map(torch.from_numpy, inputs))
    return [one.numpy() for one in (found if isinstance(found, tuple) else (found,))]


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="session")
def nearness(examples, sam):
    """How near an export of the bundled weights is to PyTorch on the astronaut: embedding error, worst mask IoU."""

    def measure(engine: ExportedEngine) -> tuple[float, float]:
        image = read_image(examples / "astronaut.png")
        prompts = [Prompt.of(points=[[220, 200]]), Prompt.of(box=[350, 2, 465, 290], points=[[400, 100]], labels=[1])]
        runners = [EngineRunner(engine), EngineRunner(TorchEngine(sam))]
        error = relative_error(*(runner.encode(image) for runner in runners))
        drawn = [np.concatenate([runner.draw(runner.decode(prompt)) for prompt in prompts]) for runner in runners]
        ious = [(ours & theirs).sum() / (ours | theirs).sum() for ours, theirs in zip(*drawn, strict=True)]
        return error, min(ious)

    return measure

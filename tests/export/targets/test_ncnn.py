"""Target ncnn: both graphs compute what PyTorch does, on tiny models for each option and with the bundled weights."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mobile_sam import Prompt, read_image
from mobile_sam.core.errors import WeightsError
from mobile_sam.core.manifest import ExportManifest
from mobile_sam.engines.exported import ExportedEngine
from mobile_sam.engines.pytorch import TorchEngine
from mobile_sam.engines.runtimes import open_graph
from mobile_sam.export.modules import DecoderGraph, EncoderGraph, JointGraph
from mobile_sam.export.runner import EngineRunner
from mobile_sam.export.target import ExportOptions
from mobile_sam.export.targets import ncnn as target
from mobile_sam.modeling.sam import Sam

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

SIDE = 256  # of tiny_sam
NUM_POINTS = 4
OPTION_SETS = {
    "plain": ExportOptions(num_points=NUM_POINTS),
    "rich": ExportOptions(num_points=NUM_POINTS, preprocess=True, input_hw=(192, SIDE), joint=True),
}


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def in_torch(module, *inputs):
    with torch.no_grad():
        found = module.eval()(*map(torch.from_numpy, inputs))
    return [one.numpy() for one in (found if isinstance(found, tuple) else (found,))]


def engine_of(sam: Sam, options: ExportOptions, folder) -> ExportedEngine:
    written = target.write(sam, options, folder)
    side = sam.image_encoder.img_size
    ExportManifest(
        target="ncnn", runtime=written.runtime, precision=options.precision or "fp32", model_id="mine",
        architecture="vit_t", input_side=side, input_hw=options.input_hw or (side, side),
        has_preprocessing=options.preprocess, num_prompts=written.num_prompts, num_points=written.num_points,
        graphs=written.graphs,
    ).write(folder)  # fmt: skip
    return ExportedEngine(folder, num_threads=1)


@pytest.fixture(scope="module")
def tiny_sam(tiny_sam_without_zeros) -> Sam:
    return tiny_sam_without_zeros


@pytest.fixture(scope="module", params=sorted(OPTION_SETS))
def exported(request, tiny_sam, tmp_path_factory):
    """Options, and the engine over what they gave."""
    options = OPTION_SETS[request.param]
    return options, engine_of(tiny_sam, options, tmp_path_factory.mktemp("ncnn"))


def graph(engine, role):
    return open_graph("ncnn", engine.folder / engine.manifest.graphs[role], num_threads=1)


def pictures(options):
    """What the encoder takes: noise, for graphs with preprocessing only in a part of the frame."""
    rng = np.random.default_rng(0)
    h, w = options.input_hw or (SIDE, SIDE)
    if not options.preprocess:
        return [rng.normal(size=(1, 3, h, w)).astype(np.float32)]
    return [rng.integers(0, 256, (h, w, 3)).astype(np.uint8), np.array([h - 40, w], np.float32)]


LABELS = [[1, 0, -1, -10], [2, 3, 1, -10], [2, 3, -10, -10], [1, -1, -10, -10]]


def prompts_of(labels):
    coords_xy = np.random.default_rng(1).uniform(0, SIDE, (1, NUM_POINTS, 2)).astype(np.float32)
    return coords_xy, np.array([labels], np.float32)


def test_the_encoder_computes_what_pytorch_does(exported, tiny_sam):
    options, engine = exported
    inputs = pictures(options)
    (expected,) = in_torch(EncoderGraph(tiny_sam, options.input_hw, options.preprocess), *inputs)
    (found,) = graph(engine, "encoder")(inputs)
    assert found.shape == expected.shape
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("has_mask", [0.0, 1.0])
@pytest.mark.parametrize("labels", LABELS)
def test_the_decoder_computes_what_pytorch_does_for_every_kind_of_point(exported, tiny_sam, labels, has_mask):
    _, engine = exported
    rng = np.random.default_rng(2)
    features = rng.normal(size=(1, 256, SIDE // 16, SIDE // 16)).astype(np.float32)
    mask = 5 * rng.normal(size=(1, 1, SIDE // 4, SIDE // 4)).astype(np.float32)
    inputs = [features, *prompts_of(labels), mask, np.array([has_mask], np.float32)]
    expected_logits, expected_iou = in_torch(DecoderGraph(tiny_sam), *inputs)
    logits, iou = graph(engine, "decoder")(inputs)
    assert logits.shape == expected_logits.shape
    assert relative_error(logits, expected_logits) < 1e-5
    assert_allclose(iou, expected_iou, atol=1e-5)


def test_the_joint_graph_goes_from_pixels_to_masks(exported, tiny_sam):
    options, engine = exported
    if not options.joint:
        assert "joint" not in engine.manifest.graphs
        return
    inputs = [*pictures(options), *prompts_of(LABELS[0])]
    encoder = EncoderGraph(tiny_sam, options.input_hw, options.preprocess)
    expected_logits, expected_iou = in_torch(JointGraph(encoder, DecoderGraph(tiny_sam)), *inputs)
    logits, iou = graph(engine, "joint")(inputs)
    assert relative_error(logits, expected_logits) < 1e-5
    assert_allclose(iou, expected_iou, atol=1e-5)


def test_weights_in_fp16_take_half_of_the_bytes_and_answer_nearly_the_same(tiny_sam, tmp_path):
    engines = {}
    for precision in ("fp32", "fp16"):
        (tmp_path / precision).mkdir()
        engines[precision] = engine_of(tiny_sam, ExportOptions(precision=precision), tmp_path / precision)
    sizes = {name: (one.folder / "decoder.ncnn.bin").stat().st_size for name, one in engines.items()}
    assert sizes["fp16"] < 0.7 * sizes["fp32"]
    inputs = pictures(OPTION_SETS["plain"])
    found = {name: graph(one, "encoder")(inputs)[0] for name, one in engines.items()}
    assert 0 < relative_error(found["fp16"], found["fp32"]) < 0.01


def test_the_bundled_weights_answer_as_in_pytorch(sam, examples, tmp_path):
    runners = [EngineRunner(engine_of(sam, ExportOptions(), tmp_path)), EngineRunner(TorchEngine(sam, device="cpu"))]
    image = read_image(examples / "chelsea.png")
    found, expected = (runner.encode(image) for runner in runners)
    assert relative_error(found, expected) < 1e-4
    for prompt in (Prompt.of([(220, 130)]), Prompt.of(box=(100, 20, 400, 290))):
        drawn, wanted = (runner.draw(runner.decode(prompt)) for runner in runners)
        ious = (drawn & wanted).sum(axis=(1, 2)) / (drawn | wanted).sum(axis=(1, 2))
        assert ious.min() > 0.999


def test_more_than_one_prompt_at_once_is_refused(tiny_sam, tmp_path):
    with pytest.raises(ValueError, match="one prompt at a time, got num_prompts=3"):
        target.write(tiny_sam, ExportOptions(num_prompts=3), tmp_path)


def test_an_image_encoder_other_than_tiny_vit_is_refused(tiny_sam, tmp_path, monkeypatch):
    monkeypatch.setitem(tiny_sam._modules, "image_encoder", torch.nn.Conv2d(3, 256, 16, stride=16))
    tiny_sam.image_encoder.img_size = SIDE
    with pytest.raises(ValueError, match="models with TinyViT, and this one has Conv2d"):
        target.write(tiny_sam, ExportOptions(), tmp_path)


def test_an_operation_that_ncnn_does_not_have_is_an_error(tmp_path):
    class Choice(torch.nn.Module):
        def forward(self, x):
            return torch.where(x > 0, x, 0.5 * x.flip(2))

    with pytest.raises(RuntimeError, match=r"no layer of ncnn for .*torch\.where"):
        target.convert(Choice(), (torch.ones(1, 3, 4),), tmp_path / "a.ncnn.param", has_fp16_weights=False)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "encoder.ncnn.param"
    path.write_text("7767517\n")
    path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"encoder\.ncnn\.param"):
        open_graph("ncnn", path)

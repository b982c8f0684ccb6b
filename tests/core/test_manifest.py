"""export.json: what is written is read, damage is told, and files that are not those exported are refused."""

import hashlib
import json

import pytest

from mobile_sam.core.errors import WeightsError
from mobile_sam.core.manifest import MODEL_FOLDER, OPENVINO_ENGINE, ExportManifest

FULL = ExportManifest(
    target="ncnn", runtime="ncnn", precision="fp16", model_id="0123456789abcdef", architecture="vit_t", input_side=512,
    input_hw=(384, 512), has_preprocessing=True, num_prompts=4, num_points=6, graphs={"encoder": "encoder.param"},
    files={"encoder.param": "ab" * 32}, versions={"ncnn": "1.0"}, notes=("Keep dry.", "This side up."),
)  # fmt: skip


@pytest.mark.parametrize("manifest", [FULL, ExportManifest("coreml", None, "fp32", "id", "vit_t")])
def test_what_is_written_is_read(tmp_path, manifest):
    manifest.write(tmp_path)
    assert ExportManifest.read(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["export.json"]


def test_defaults_are_sams_square_and_free_numbers(tmp_path):
    manifest = ExportManifest("onnx", MODEL_FOLDER, "fp32", "id", "vit_t")
    assert (manifest.input_side, manifest.input_hw, manifest.has_preprocessing) == (1024, (1024, 1024), False)
    assert (manifest.num_prompts, manifest.num_points) == (None, None)


@pytest.mark.parametrize(("runtime", "engine"), [(OPENVINO_ENGINE, "openvino"), ("ncnn", "ncnn"), (None, None)])
def test_the_engine_is_named_as_users_name_it(runtime, engine):
    assert ExportManifest("some", runtime, "fp32", "id", "vit_t").engine == engine


def changed(**values):
    def change(told):
        return {key: value for key, value in (told | values).items() if value != "left out"}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(format=2), "of another version of mobile-sam"),
        (changed(format="left out"), "missing or damaged"),
        (changed(target="left out"), "missing or damaged"),
        (changed(colour="red"), "missing or damaged"),
        (changed(input_hw="left out"), "missing or damaged"),
        (changed(input_hw=None), "missing or damaged"),
        (changed(input_hw=[1024]), "missing or damaged"),
        (changed(input_hw=["a", "b"]), "missing or damaged"),
        (changed(notes=3), "missing or damaged"),
        (lambda told: [told], "missing or damaged"),
    ],
)
def test_a_damaged_manifest_is_told_with_what_to_do(tmp_path, change, message):
    FULL.write(tmp_path)
    path = tmp_path / "export.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(WeightsError, match=rf"export\.json is {message}.*; make it again with `mobile-sam export`"):
        ExportManifest.read(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\x00", b"[]", b"3", b"null"])
def test_what_is_no_manifest_is_told_likewise(tmp_path, content):
    if content is not None:
        (tmp_path / "export.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"export\.json is missing or damaged .*make it again with"):
        ExportManifest.read(tmp_path)


def test_files_are_checked_by_their_sha256(tmp_path):
    contents = {"encoder.bin": b"weights", "parts/decoder.bin": b"more"}
    (tmp_path / "parts").mkdir()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    manifest = ExportManifest("some", "ncnn", "fp32", "id", "vit_t", files=sums)
    manifest.check_files(tmp_path)
    (tmp_path / "notes.txt").write_text("what else lies there is nobody's business")
    manifest.check_files(tmp_path)
    (tmp_path / "parts" / "decoder.bin").write_bytes(b"mere")
    with pytest.raises(WeightsError, match=r"decoder\.bin is missing or is not what was exported; make it again with"):
        manifest.check_files(tmp_path)
    (tmp_path / "parts" / "decoder.bin").unlink()
    with pytest.raises(WeightsError, match=r"decoder\.bin is missing or is not"):
        manifest.check_files(tmp_path)

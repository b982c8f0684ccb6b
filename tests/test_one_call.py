import logging

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from mobile_sam import SAM, EverythingConfig, Results, SamAutomaticMaskGenerator, SamPredictor
from mobile_sam.core.errors import ImageReadError
from mobile_sam.core.weights import ENCODER_PREFIX, bundled_weights_path, fingerprint_of_file
from mobile_sam.engines import choose_engine
from mobile_sam.one_call import list_pictures

HW = (128, 256)  # model pixels are four times smaller, so DiscEngine's discs have radii of 10, 20, 30, 40
PICTURE = np.random.default_rng(0).integers(0, 256, (*HW, 3), np.uint8)
A, B, C, D = [40, 40], [100, 60], [200, 100], [160, 50]


@pytest.fixture
def sam(disc_engine):
    return SAM(disc_engine)


@pytest.fixture
def folder(tmp_path):
    """Three pictures, one of them broken, and a text."""
    for name in ("b.png", "a.JPG"):
        Image.fromarray(PICTURE).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff but no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def centre(mask):
    y, x = np.nonzero(mask)
    return [x.mean(), y.mean()]


@pytest.mark.parametrize(
    ("points", "labels", "expected"),  # expected: points and labels of each object
    [
        (A, None, [([A], [1])]),
        (A, 1, [([A], [1])]),
        (A, [1], [([A], [1])]),
        (np.array(A), np.array([1]), [([A], [1])]),
        ([A, B], None, [([A], [1]), ([B], [1])]),
        ([A, B], [1, 1], [([A], [1]), ([B], [1])]),
        ([A, B, C], [[1], [1], [1]], [([A], [1]), ([B], [1]), ([C], [1])]),
        ([[A, B]], [[1, 0]], [([A, B], [1, 0])]),
        ([[A, B]], [1, 0], [([A, B], [1, 0])]),
        ([[A, B]], None, [([A, B], [1, 1])]),
        ([[A, B], [C, D]], [[1, 0], [0, 1]], [([A, B], [1, 0]), ([C, D], [0, 1])]),
        ([[A], [B]], [1, 1], [([A], [1]), ([B], [1])]),
    ],
)
def test_points_of_each_shape_are_the_documented_objects(sam, points, labels, expected):
    (results,) = sam.predict(PICTURE, points=points, labels=labels)
    assert len(results) == len(expected)
    for prompt, mask, (points_xy, point_labels) in zip(results.prompts, results.masks.data, expected, strict=True):
        assert_array_equal(prompt.points_xy, points_xy)
        assert_array_equal(prompt.labels, point_labels)
        objects_xy = np.array(points_xy)[np.array(point_labels) == 1]
        assert_allclose(centre(mask), objects_xy.mean(axis=0), atol=1)
    assert_array_equal(results.boxes.cls, range(len(expected)))


@pytest.mark.parametrize("bboxes", [[20, 30, 60, 70], [[20, 30, 60, 70]], [[20, 30, 60, 70], [100, 20, 140, 60]]])
def test_each_box_is_an_object(sam, bboxes):
    (results,) = sam(PICTURE, bboxes=bboxes)
    rows = np.array(bboxes).reshape(-1, 4)
    assert len(results) == len(rows)
    for prompt, mask, (x1, y1, x2, y2) in zip(results.prompts, results.masks.data, rows, strict=True):
        assert_array_equal(prompt.box_xyxy, [x1, y1, x2, y2])
        assert_allclose(centre(mask), [(x1 + x2) / 2, (y1 + y2) / 2], atol=1)


def test_points_and_boxes_of_a_row_are_one_object(sam):
    (results,) = sam.predict(PICTURE, points=[A, B], labels=[1, 0], bboxes=[[20, 30, 60, 70], [100, 20, 140, 60]])
    assert len(results) == 2
    assert_array_equal(results.prompts[1].points_xy, [B])
    assert_array_equal(results.prompts[1].labels, [0])
    assert_array_equal(results.prompts[1].box_xyxy, [100, 20, 140, 60])
    assert_allclose(centre(results.masks.data[1]), [120, 40], atol=1)  # of the box alone: B is background


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
@pytest.mark.parametrize("num_masks", [1, 2])
def test_binary_masks_of_any_dtype_are_objects(sam, dtype, num_masks):
    masks = np.zeros((num_masks, *HW), dtype)
    masks[:, 20:61, 80:121] = 255 if dtype == np.uint8 else 1
    (results,) = sam.predict(PICTURE, masks=masks if num_masks == 2 else masks[0])
    assert len(results) == num_masks
    for mask in results.masks.data:
        assert_allclose(centre(mask), [100, 40], atol=2)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"labels": [1]}, "no prompt"),
        ({"labels": [1], "bboxes": [1, 2, 3, 4]}, "labels came without points"),
        ({"points": [A, B], "bboxes": [[1, 2, 3, 4]]}, r"same objects, row by row, got \{'points': 2, 'bboxes': 1\}"),
        ({"bboxes": [[1, 2, 3, 4]], "masks": np.zeros((2, *HW))}, "same objects, row by row"),
        ({"points": [A, B], "labels": 1}, r"labels must be \(2, 1\), one for each point, got shape \(\)"),
        ({"points": [A, B], "labels": [1, 0, 1]}, r"labels must be \(2, 1\), one for each point, got shape \(3,\)"),
        ({"points": [[A, B], [C, D]], "labels": [1, 0, 0, 1]}, r"labels must be \(2, 2\).* got shape \(4,\)"),
        ({"points": [[A, B]] * 3, "labels": [[1, 0, 1]] * 2}, r"labels must be \(3, 2\).* got shape \(2, 3\)"),
        ({"points": [[A, B]], "labels": [[1], [1, 0]]}, "labels must be a rectangular array"),
        ({"points": [[A, B], [C]]}, "points must be a rectangular array: every object the same number of values"),
        ({"points": 3}, r"points must be \[x, y\], \(N, 2\) or \(N, K, 2\), got shape \(\)"),
        ({"points": [1, 2, 3]}, r"got shape \(3,\)"),
        ({"points": [[[1, 2, 3]]]}, r"got shape \(1, 1, 3\)"),
        ({"points": []}, r"points must not be empty, got shape \(0,\)"),
        ({"bboxes": np.zeros((0, 4))}, r"bboxes must not be empty, got shape \(0, 4\); leave it out"),
        ({"bboxes": [1, 2, 3]}, r"bboxes must be \[x1, y1, x2, y2\] or \(N, 4\), got shape \(3,\)"),
        ({"bboxes": [[1, 2, 3, 4, 0.9]]}, r"got shape \(1, 5\)"),
        ({"bboxes": [30, 2, 3, 40]}, "swapped or equal corners"),
        ({"masks": np.zeros(5)}, r"masks must be \(H, W\) or \(N, H, W\), got shape \(5,\)"),
        ({"masks": [[[1, 0], [1]]]}, "masks must be a rectangular array"),
        ({"masks": np.full((256, 256), -3.5)}, "masks of dtype float64 must hold 0 and 1 only; pass prob"),
        ({"masks": np.ones((5, 5), bool)}, r"must have the picture's size \(128, 256\), got \(5, 5\)"),
        ({"points": [300, 20]}, r"point \(300, 20\) lies outside the picture of 256 x 128 px"),
        ({"points": A, "image_format": "rgb"}, "image_format must be one of RGB, BGR, got 'rgb'"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(sam, prompts, message):
    with pytest.raises(ValueError, match=message):
        sam.predict(PICTURE, **prompts)


def test_three_masks_for_each_prompt_know_whose_they_are(sam):
    (results,) = sam.predict(PICTURE, points=[A, B], multimask_output=True)
    assert len(results) == 6
    assert_array_equal(results.prompt_index, [0, 0, 0, 1, 1, 1])
    assert_array_equal(results.boxes.cls, results.prompt_index)
    assert_allclose(results.boxes.conf, [0.6, 0.7, 0.8] * 2)
    assert (np.diff(results.masks.data[:3].sum(axis=(1, 2))) > 0).all()


def test_arrays_are_bgr_unless_called_rgb_and_files_know(sam, folder):
    png = str(folder / "b.png")
    for source, image_format, expected in (
        (PICTURE, "BGR", PICTURE),
        (PICTURE, "RGB", PICTURE[:, :, ::-1]),
        (png, "BGR", PICTURE[:, :, ::-1]),
        (png, "RGB", PICTURE[:, :, ::-1]),
        (Image.open(png), "BGR", PICTURE[:, :, ::-1]),
    ):
        (results,) = sam.predict(source, points=A, image_format=image_format)
        assert_array_equal(results.orig_img, expected)
        assert results.path == (png if isinstance(source, str) else "")
    (by_default,) = sam.predict(PICTURE, points=A)
    assert_array_equal(by_default.orig_img, PICTURE)


@pytest.mark.parametrize("form", ["folder", "path", "pattern", "list"])
def test_a_broken_picture_among_others_is_logged_and_left_out(sam, folder, caplog, form):
    source = {
        "folder": str(folder),
        "path": folder,
        "pattern": str(folder / "*.[jpJP]*"),
        "list": [folder / "a.JPG", str(folder / "b.png"), folder / "broken.jpg"],
    }[form]
    with caplog.at_level(logging.ERROR, logger="mobile_sam"):
        results = sam.predict(source, points=A)
    assert [one.path for one in results] == [str(folder / "a.JPG"), str(folder / "b.png")]
    (record,) = caplog.records
    assert "broken.jpg" in record.getMessage()


def test_a_list_may_mix_pictures_folders_and_patterns(sam, folder):
    (folder / "broken.jpg").unlink()
    results = sam.predict([PICTURE, str(folder), str(folder / "b*"), Image.fromarray(PICTURE)], points=A)
    assert [one.path.rpartition("/")[2] for one in results] == ["", "a.JPG", "b.png", "b.png", ""]


def test_broken_pictures_alone_are_an_error(sam, folder, caplog):
    (folder / "broken2.png").write_bytes(b"")
    for source in (folder / "broken.jpg", [folder / "broken.jpg", folder / "broken2.png"], [folder / "broken.jpg"]):
        with pytest.raises(ImageReadError, match="broken"):
            sam.predict(source, points=A)
    assert len(caplog.records) == 1  # of two, the first; the last is the error


@pytest.mark.parametrize(
    ("make_source", "error", "message"),
    [
        (lambda folder: folder / "nowhere.jpg", FileNotFoundError, r"no picture at .*nowhere\.jpg"),
        (lambda folder: str(folder / "*.gif"), FileNotFoundError, r"no file matches .*\*\.gif"),
        (lambda folder: [], ValueError, "source is an empty list"),
        (lambda folder: folder / "empty", ValueError, r"empty holds no picture \(\.bmp, "),
        (lambda folder: 5, ValueError, "source must be a path, bytes"),
    ],
)
def test_a_source_without_pictures_is_an_error(sam, folder, make_source, error, message):
    (folder / "empty").mkdir()
    with pytest.raises(error, match=message):
        sam.predict(make_source(folder), points=A)


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(folder):
    odd = folder / "odd[1].png"
    odd.write_bytes((folder / "b.png").read_bytes())
    assert list_pictures(str(odd)) == [str(odd)]
    assert list_pictures(odd) == [odd]


def test_a_stream_segments_a_picture_when_it_is_reached(sam, disc_engine, monkeypatch):
    encoded, encode = [], disc_engine.encode

    def counted(images, **options):
        encoded.extend(images)
        return encode(images, **options)

    monkeypatch.setattr(disc_engine, "encode", counted)
    stream = sam.predict([PICTURE] * 3, points=A, stream=True)
    assert len(encoded) == 0
    assert isinstance(next(stream), Results)
    assert len(encoded) == 1
    assert len(list(stream)) == 2
    assert len(encoded) == 3


def test_a_stream_refuses_wrong_prompts_at_once(sam):
    for wrong in ({"labels": [1]}, {"points": [1, 2, 3]}, {"points": A, "image_format": "HSV"}):
        with pytest.raises(ValueError, match=r"no prompt|points must|image_format"):
            sam.predict([PICTURE] * 2, stream=True, **wrong)


def test_without_prompts_everything_is_segmented(disc_engine, sam):
    settings = EverythingConfig(points_per_side=3, pred_iou_thresh=0.7, stability_score_thresh=0.5)
    records = SamAutomaticMaskGenerator.from_config(settings, disc_engine).generate(PICTURE)
    (results,) = sam.predict(np.ascontiguousarray(PICTURE[:, :, ::-1]), everything=settings)
    assert len(results) == len(records) > 3
    for mask, prompt, record in zip(results.masks.data, results.prompts, records, strict=True):
        assert_array_equal(mask, record["segmentation"])
        assert_allclose(prompt.points_xy, record["point_coords"])
    assert_allclose(results.boxes.conf, [record["predicted_iou"] for record in records])


def test_a_picture_with_nothing_in_it_gives_no_rows(sam):
    (results,) = sam.predict(PICTURE)  # no disc is predicted to be as good as SAM's defaults ask for
    assert (len(results), results.masks.data.shape, results.summary()) == (0, (0, *HW), [])
    assert results.plot().shape == (*HW, 3)


def test_settings_for_everything_do_not_go_with_prompts(sam):
    with pytest.raises(ValueError, match="everything= came together with prompts"):
        sam.predict(PICTURE, points=A, everything=EverythingConfig(mode="fast"))
    with pytest.raises(ValueError, match="multimask_output is for prompts, and there are none"):
        sam.predict(PICTURE, multimask_output=True)
    with pytest.raises(ValueError, match="config must be an EverythingConfig, got str"):
        sam.predict(PICTURE, everything="fast")


def test_the_time_spent_is_told_in_parts(sam):
    (results,) = sam.predict(PICTURE, points=A)
    assert set(results.speed) == {"preprocess", "inference", "postprocess"}
    assert all(0 <= spent_ms < 10_000 for spent_ms in results.speed.values())
    assert results.speed["inference"] > 0


@pytest.mark.parametrize("arguments", [("mobile_sam.pt",), ("mobile_sam",), ()])
def test_the_bundled_weights_need_no_file(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = {"engine": choose_engine()[0], "model_id": fingerprint_of_file(bundled_weights_path(), ENCODER_PREFIX)}
    assert SAM(*arguments).info() == expected


def test_one_call_answers_as_the_predictor(cat_predictor, examples):
    (results,) = SAM(cat_predictor.engine)(examples / "chelsea.png", points=[225, 150], labels=[1])
    expected, scores, _ = cat_predictor.predict([[225, 150]], [1], multimask_output=False)
    assert_array_equal(results.masks.data, expected)
    assert_allclose(results.boxes.conf, scores, atol=1e-5)


def test_a_file_of_the_bundled_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mobile_sam.pt").write_bytes(b"someone's own weights")
    with pytest.raises(ValueError, match=r"mobile_sam\.pt is not a PyTorch checkpoint"):
        SAM("mobile_sam.pt")


@pytest.mark.parametrize("name", ["nowhere.pt", "nowhere.safetensors"])
def test_a_checkpoint_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=name):
        SAM(tmp_path / name)


def test_an_engine_may_serve_both_interfaces(disc_engine):
    (results,) = SAM(disc_engine)(PICTURE, points=A)
    predictor = SamPredictor(engine=disc_engine)
    predictor.set_image(PICTURE, "BGR")
    assert_array_equal(results.masks.data, predictor.predict([A], [1], multimask_output=False)[0])

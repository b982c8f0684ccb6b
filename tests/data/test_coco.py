"""COCO and LVIS files: what is read, what is left out, and what is said about it."""

import hashlib
import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mobile_sam.core.images import write_image
from mobile_sam.data.coco import read_coco

HEIGHT, WIDTH = 20, 30
SQUARE = [5, 5, 15, 5, 15, 15, 5, 15]  # covers the pixels 5 to 14 of both axes
L_SHAPE = [2, 2, 20, 2, 20, 8, 9, 8, 9, 18, 2, 18]


def image(**changes):
    return {"id": 1, "file_name": "one.png", "height": HEIGHT, "width": WIDTH} | changes


def annotation(**changes):
    whole = {"id": 11, "image_id": 1, "category_id": 3, "segmentation": [SQUARE], "bbox": [5, 5, 10, 10], "area": 99.5}
    return {key: value for key, value in (whole | changes).items() if value is not ...}


def rle_of(mask):
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(length) for length in code["size"]], "counts": code["counts"].decode()}


def plain_rle_of(mask):
    """Runs down the columns, counted one pixel at a time."""
    counts, last = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != last:
            counts.append(0)
            last = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


@pytest.fixture
def some_mask():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:9, 4:20] = True
    mask[5:7, 8:12] = False
    return mask


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    write_image(tmp_path / "pictures" / "one.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return tmp_path


@pytest.fixture
def read(folder):
    def read(annotations=(), images=None, categories=({"id": 3, "name": "cat"},)):
        content = {"images": images or [image()], "annotations": annotations, "categories": categories}
        (folder / "instances.json").write_text(json.dumps(content))
        return read_coco(folder / "instances.json", folder / "pictures")

    return read


def kinds_of(dataset):
    return [(problem.kind, problem.is_left_out) for problem in dataset.problems]


def test_a_polygon_becomes_the_mask_that_it_outlines(read):
    dataset = read([annotation()])
    (picture,), () = dataset.pictures, dataset.problems
    (cat,) = picture.instances
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[5:15, 5:15] = True
    assert_array_equal(cat.mask, expected)
    assert (cat.id, cat.box_xyxy, cat.area_px) == ("11", (5, 5, 15, 15), 99.5)
    assert (cat.category, cat.category_id, cat.is_crowd, cat.point_xy) == ("cat", 3, False, None)
    assert (picture.id, picture.path.name, picture.size_hw) == ("1", "one.png", (HEIGHT, WIDTH))
    assert (dataset.kind, dataset.name) == ("coco", "instances.json")


def test_all_forms_of_segmentation_read_as_pycocotools_reads_them(read, folder, some_mask):
    segmentations = [[L_SHAPE], [SQUARE, L_SHAPE], [[1.5, 1.2, 28.7, 3.3, 12.1, 19.9]]]
    segmentations += [rle_of(some_mask), plain_rle_of(some_mask)]
    dataset = read([annotation(id=number, segmentation=form) for number, form in enumerate(segmentations)])
    reference = COCO(folder / "instances.json")
    instances = dataset.pictures[0].instances
    assert len(instances) == len(segmentations)
    for instance in instances:
        assert_array_equal(instance.mask, reference.annToMask(reference.anns[int(instance.id)]).astype(bool))


def test_plain_and_compressed_run_lengths_are_one_mask(read, some_mask):
    forms = [annotation(id=1, segmentation=rle_of(some_mask)), annotation(id=2, segmentation=plain_rle_of(some_mask))]
    compressed, plain = read(forms).pictures[0].instances
    assert compressed.rle == plain.rle
    assert_array_equal(plain.mask, some_mask)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"segmentation": []}, "empty mask"),
        ({"segmentation": [[100, 100, 120, 100, 120, 120]]}, "empty mask"),
        ({"segmentation": [[5, 5, 5, 5, 5, 5]]}, "empty mask"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}, "empty mask"),
        ({"segmentation": [[1, 1, 9, 1, 9]]}, "malformed segmentation"),
        ({"segmentation": [[1, 1, 9, 1, 9, 9, 5]]}, "malformed segmentation"),
        ({"segmentation": [[1, 1, 9, 9]]}, "malformed segmentation"),  # pycocotools would take it for a box
        ({"segmentation": [SQUARE, [1, 1]]}, "malformed segmentation"),
        ({"segmentation": [["1", "1", "9", "1", "9", "9"]]}, "malformed segmentation"),
        ({"segmentation": [[[1, 1], [9, 1], [9, 9]]]}, "malformed segmentation"),
        ({"segmentation": [[1, 1, [9], 1, 9, 9]]}, "malformed segmentation"),
        ({"segmentation": SQUARE}, "malformed segmentation"),
        ({"segmentation": [[1, 1, 9, 1, float("nan"), 9]]}, "malformed segmentation"),
        ({"segmentation": [[1, 1, 9, 1, float("inf"), 9]]}, "malformed segmentation"),
        ({"segmentation": [[1, 1, 2e9, 1, 2e9, 9]]}, "malformed segmentation"),  # would fill the memory
        ({"segmentation": [[None] * 6]}, "malformed segmentation"),
        ({"segmentation": "one.png"}, "malformed segmentation"),
        ({"segmentation": {"counts": "0"}}, "malformed segmentation"),
        ({"segmentation": {"size": [HEIGHT, WIDTH]}}, "malformed segmentation"),
        ({"segmentation": {"size": [HEIGHT, float("inf")], "counts": "0"}}, "malformed segmentation"),
        ({"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}, "malformed segmentation"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH + 1]}}, "malformed segmentation"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]}}, "malformed segmentation"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "not run lengths"}}, "malformed segmentation"),
        ({"segmentation": {"size": [WIDTH, HEIGHT], "counts": [0, HEIGHT * WIDTH]}}, "mask of another size"),
        ({"segmentation": None}, "missing key"),
        ({"segmentation": ...}, "missing key"),
        ({"id": ...}, "missing key"),
        ({"id": [11]}, "missing key"),
        ({"image_id": ...}, "missing key"),
        ({"image_id": {"a": 1}}, "missing key"),
        ({"image_id": 77}, "annotation of an unknown picture"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_left_out_and_the_next_one_is_read(read, changes, kind):
    dataset = read([annotation(**changes), annotation(id=12)])
    assert kinds_of(dataset) == [(kind, True)]
    assert [instance.id for instance in dataset.pictures[0].instances] == ["12"]


@pytest.mark.parametrize("record", [None, 7, "annotation", [1, 2]])
def test_a_record_that_is_no_object_lacks_its_keys(read, record):
    dataset = read([record, annotation()])
    assert kinds_of(dataset) == [("missing key", True)]
    assert dataset.num_instances == 1


@pytest.mark.parametrize(
    ("mark", "is_crowd"),
    [
        *((mark, True) for mark in (1, True, "1")),
        *((mark, False) for mark in (0, False, "0", None, "", "false", "no", 2, -1, 0.5, [], [1], {})),
    ],
)
def test_crowds_stay_and_are_marked(read, some_mask, mark, is_crowd):
    dataset = read([annotation(iscrowd=mark, segmentation=plain_rle_of(some_mask))])
    assert [instance.is_crowd for instance in dataset.pictures[0].instances] == [is_crowd]
    assert dataset.problems == ()


@pytest.mark.parametrize(
    ("overshoot_px", "kinds"), [(0.0, []), (0.9, []), (1.5, [("polygon outside the picture", False)])]
)
@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_corners_more_than_a_pixel_outside_are_noted_and_clipped(read, side, overshoot_px, kinds):
    x1, y1, x2, y2 = {
        "left": (-overshoot_px, 0, 10, 10),
        "top": (0, -overshoot_px, 10, 10),
        "right": (20, 10, WIDTH + overshoot_px, 20),
        "bottom": (20, 10, 30, HEIGHT + overshoot_px),
    }[side]
    dataset = read([annotation(segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]])])
    assert kinds_of(dataset) == kinds
    assert dataset.pictures[0].instances[0].mask_px == 100


@pytest.mark.parametrize(
    "bbox",
    [
        [5, 5, 0, 10],
        [5, 5, 10, -1],
        [5, 5, 10],
        [5, 5, 10, None],
        ["5", 5, 10, 10],
        [5, 5, float("nan"), 10],
        [5, 5, float("inf"), 10],
        [1e308, 5, 1e308, 10],
        [100, 5, 10, 10],  # beside the picture
        [-50, 5, 10, 10],
        {"x": 5},
        7,
    ],
)
def test_a_malformed_box_gives_way_to_the_tight_one(read, bbox):
    dataset = read([annotation(bbox=bbox)])
    assert kinds_of(dataset) == [("malformed box", False)]
    assert dataset.pictures[0].instances[0].box_xyxy == (5, 5, 15, 15)


@pytest.mark.parametrize("bbox", [None, ...])
def test_a_missing_box_is_the_tight_one_without_a_problem(read, bbox):
    dataset = read([annotation(bbox=bbox)])
    assert dataset.problems == ()
    assert dataset.pictures[0].instances[0].box_xyxy == (5, 5, 15, 15)


def test_an_annotated_box_is_kept_though_it_is_not_tight(read):
    assert read([annotation(bbox=[-1.5, 4, 20, 12.25])]).pictures[0].instances[0].box_xyxy == (-1.5, 4, 18.5, 16.25)


@pytest.mark.parametrize("area", [..., None, 0, -3, "99", float("nan"), float("inf"), True])
def test_without_a_sound_area_the_pixels_are_counted(read, area):
    assert read([annotation(area=area)]).pictures[0].instances[0].area_px == 100


@pytest.mark.parametrize("category_id", [4, "cat", None, ..., [3]])
def test_an_unknown_category_is_noted_and_the_object_stays(read, category_id):
    dataset = read([annotation(category_id=category_id)])
    assert kinds_of(dataset) == [("unknown category", False)]
    assert dataset.pictures[0].instances[0].category == ""


def test_a_file_without_categories_has_none_to_miss(read):
    dataset = read([annotation(category_id=...)], categories=())
    assert dataset.problems == ()
    assert (dataset.pictures[0].instances[0].category, dataset.pictures[0].instances[0].category_id) == ("", 0)


@pytest.mark.parametrize("categories", [None, "cat", [None, 3, {"id": 3}, {"name": "cat"}]])
def test_malformed_categories_leave_the_objects_without_a_name(read, categories):
    dataset = read([annotation()], categories=categories)
    assert kinds_of(dataset) == [("unknown category", False)]
    assert dataset.pictures[0].instances[0].category_id == 3


def test_of_repeated_annotation_ids_the_first_stays(read):
    again = [annotation(segmentation=[L_SHAPE]), annotation(id="11"), annotation(id=11.0), annotation(id=12)]
    dataset = read([annotation(), *again])
    assert kinds_of(dataset) == [("repeated annotation id", True)] * 3
    assert [(instance.id, instance.mask_px) for instance in dataset.pictures[0].instances] == [("11", 100), ("12", 100)]


def test_a_broken_record_does_not_take_its_id_from_a_sound_one(read):
    dataset = read([annotation(segmentation=[]), annotation(), annotation(segmentation=[[1]])])
    assert kinds_of(dataset) == [("empty mask", True), ("repeated annotation id", True)]
    assert [(instance.id, instance.mask_px) for instance in dataset.pictures[0].instances] == [("11", 100)]


def test_annotations_that_are_numbered_anew_in_each_picture_stay_and_are_noted(read):
    places = [(1, 1), (2, 1), (1, 2), (2, 2), (2, 1), (2, 3)]  # picture and annotation, by turns
    records = [annotation(image_id=picture, id=number) for picture, number in places]
    dataset = read(records, [image(), image(id=2)])
    assert [[i.id for i in picture.instances] for picture in dataset.pictures] == [["1", "2"], ["2/1", "2/2", "3"]]
    assert [(problem.where, problem.is_left_out) for problem in dataset.problems] == [
        ("annotation 1 of picture 2", False),
        ("annotation 2 of picture 2", False),
        ("annotation 1 of picture 2", True),
    ]
    assert dataset.count_problems() == {"repeated annotation id": 3}
    assert "came before in picture 1; here it becomes 2/1" in dataset.problems[0].message


def test_an_id_whose_first_record_was_broken_is_free_for_another_picture(read):
    records = [annotation(segmentation=[]), annotation(image_id=2), annotation()]
    dataset = read(records, [image(), image(id=2)])
    assert [[i.id for i in picture.instances] for picture in dataset.pictures] == [["1/11"], ["11"]]


def test_made_up_ids_do_not_meet_those_of_the_file(read):
    records = [annotation(id=7), annotation(id="2/7", image_id=2), annotation(id=7, image_id=2)]
    dataset = read(records, [image(), image(id=2)])
    assert kinds_of(dataset) == [("repeated annotation id", True)]
    assert [[i.id for i in picture.instances] for picture in dataset.pictures] == [["7"], ["2/7"]]


def test_ids_may_be_text_and_meet_numbers(read):
    dataset = read([annotation(id="a", image_id="1"), annotation(id="b", image_id="x/y")], [image(), image(id="x/y")])
    assert [(p.id, [i.id for i in p.instances]) for p in dataset.pictures] == [("1", ["a"]), ("x/y", ["b"])]


def test_of_repeated_picture_ids_the_first_stays_with_all_annotations(read, folder):
    write_image(folder / "pictures" / "two.png", np.zeros((5, 5), np.uint8))
    dataset = read([annotation()], [image(), image(id="1", file_name="two.png", height=5, width=5)])
    assert kinds_of(dataset) == [("repeated picture id", True)]
    assert [(p.path.name, len(p.instances)) for p in dataset.pictures] == [("one.png", 1)]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"file_name": "gone.png"}, "missing picture"),
        ({"file_name": "x" * 5000}, "missing picture"),
        ({"file_name": "\0"}, "missing picture"),
        ({"file_name": None}, "missing key"),
        ({"file_name": 5}, "missing key"),
        ({"file_name": ""}, "missing key"),
        ({"file_name": ".."}, "missing key"),
        ({"height": None}, "missing key"),
        ({"height": 0}, "malformed picture size"),
        ({"width": -30}, "malformed picture size"),
        ({"width": 30.5}, "malformed picture size"),
        ({"width": "30"}, "malformed picture size"),
        ({"width": float("inf")}, "malformed picture size"),
        ({"width": 10**400}, "malformed picture size"),
        ({"height": 10**6, "width": 10**6}, "malformed picture size"),
    ],
)
def test_a_picture_that_cannot_be_used_is_one_problem_that_counts_its_annotations(read, changes, kind):
    images = [image(id=2, **changes), image()]
    dataset = read([annotation(id=21, image_id=2), annotation(id=22, image_id=2), annotation()], images)
    assert kinds_of(dataset) == [(kind, True)]
    assert dataset.problems[0].where == "picture 2"
    assert "its 2 annotations are left out" in dataset.problems[0].message
    assert [picture.id for picture in dataset.pictures] == ["1"]


@pytest.mark.parametrize("record", [{"file_name": "one.png", "height": 5, "width": 5}, None, "one.png"])
def test_a_picture_without_an_id_is_left_out(read, record):
    dataset = read([annotation()], [record, image()])
    assert kinds_of(dataset) == [("missing key", True)]
    assert dataset.num_instances == 1


def test_pictures_without_instances_stay(read):
    dataset = read([])
    assert (len(dataset.pictures), dataset.num_instances, dataset.problems) == (1, 0, ())


@pytest.mark.parametrize(
    "changes",
    [
        {"file_name": "deep/er/two.png"},
        {"file_name": "elsewhere/two.png"},
        {"file_name": "elsewhere\\two.png"},
        {"file_name": "../elsewhere/two.png"},
        {"file_name": "/data/elsewhere/two.png"},
        {"file_name": "C:\\data\\two.png"},
        {"file_name": None, "coco_url": "http://images.cocodataset.org/train2017/two.png"},
    ],
)
def test_a_picture_is_found_by_its_path_or_by_its_last_part(read, folder, changes):
    name = changes["file_name"] if changes["file_name"] == "deep/er/two.png" else "two.png"
    (folder / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "pictures" / name).touch()
    assert read(images=[image(**changes)]).pictures[0].path == folder / "pictures" / name


def test_a_name_that_leads_out_of_the_folder_is_not_followed(read, folder):
    (folder / "secret.png").touch()
    images = [image(), image(id=2, file_name="../secret.png"), image(id=3, file_name=str(folder / "secret.png"))]
    assert kinds_of(read(images=images)) == [("missing picture", True)] * 2


def test_lvis_pictures_are_found_below_the_folder_of_their_split(read, folder):
    (folder / "pictures" / "val2017").mkdir()
    (folder / "pictures" / "val2017" / "7.jpg").touch()
    record = {"id": 7, "coco_url": "http://images.cocodataset.org/val2017/7.jpg", "height": HEIGHT, "width": WIDTH}
    dataset = read([annotation(image_id=7)], [record])
    assert (dataset.kind, dataset.num_instances, dataset.problems) == ("lvis", 1, ())
    assert dataset.pictures[0].path == folder / "pictures" / "val2017" / "7.jpg"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_windows_editors_are_read(folder, encoding):
    content = {"images": [image()], "annotations": [annotation()], "categories": [{"id": 3, "name": "Kätzchen"}]}
    (folder / "i.json").write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    assert read_coco(folder / "i.json", folder / "pictures").pictures[0].instances[0].category == "Kätzchen"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("\x89PNG", "is not JSON"),
        ("[" * 200_000, "nested too deeply"),
        ("[]", "a list, as files of results are; expected an object"),
        ("null", "holds None; expected an object"),
        ("{}", r"has no list 'images' \(its keys: none\)"),
        ('{"images": {}, "annotations": []}', "has no list 'images'"),
        ('{"images": [], "annotations": 5}', "has no list 'annotations'"),
        ('{"images": [], "annotations": []}', "no picture that can be used .*it lists none"),
        ('{"images": [{"id": 1}, {}], "annotations": []}', "2 x missing key.*the first: picture 1: lacks height"),
    ],
)
def test_a_file_that_is_no_annotation_file_is_refused(folder, text, message):
    (folder / "i.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        read_coco(folder / "i.json", folder / "pictures")


def test_what_is_not_there_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"no annotation file at .*gone.json"):
        read_coco(folder / "gone.json", folder / "pictures")
    with pytest.raises(ValueError, match="is a folder, expected a JSON file"):
        read_coco(folder, folder / "pictures")
    (folder / "i.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(FileNotFoundError, match=r"no folder of pictures at .*gone"):
        read_coco(folder / "i.json", folder / "gone")
    with pytest.raises(ValueError, match="is a file, expected the folder of pictures"):
        read_coco(folder / "i.json", folder / "i.json")


def test_the_hash_is_of_the_file(folder, read):
    assert read().sha256 == hashlib.sha256((folder / "instances.json").read_bytes()).hexdigest()


def test_problems_say_which_annotation_they_are_about(read):
    dataset = read([annotation(segmentation=[]), annotation(id=..., segmentation=[]), annotation(image_id=...)])
    assert [problem.where for problem in dataset.problems] == [
        "annotation 11 of picture 1",
        "annotation without id of picture 1",
        "annotation 11",
    ]

"""One door for every form of dataset, and lists of bare pictures."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobile_sam.data.sources import is_annotated, list_picture_files, open_dataset

HEIGHT, WIDTH = 10, 14


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    return path


def mask(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[2:5, 3:7] = 255
    values[8, 8] = 100
    Image.fromarray(values).save(path)


def coco_file(path):
    annotation = {"id": 5, "image_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], "bbox": [1, 1, 8, 8]}
    image = {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}
    path.write_text(json.dumps({"images": [image], "annotations": [annotation]}))
    return path


def sa1b_file(path):
    annotation = {"id": 5, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [3, 5, HEIGHT * WIDTH - 8]}}
    header = {"image_id": 1, "width": WIDTH, "height": HEIGHT, "file_name": "sa_1.jpg"}
    path.write_text(json.dumps({"image": header, "annotations": [annotation]}))


@pytest.mark.parametrize("place", ["a.png", "images/a.png"])
def test_a_json_file_finds_its_pictures_beside_it_or_in_images(tmp_path, place):
    path = picture(tmp_path / place)
    dataset = open_dataset(coco_file(tmp_path / "instances.json"))
    assert (dataset.kind, dataset.num_instances, dataset.pictures[0].path) == ("coco", 1, path)


def test_the_pictures_of_a_json_file_may_be_elsewhere(tmp_path):
    picture(tmp_path / "images" / "a.png")
    wanted = picture(tmp_path / "elsewhere" / "a.png")
    dataset = open_dataset(coco_file(tmp_path / "instances.JSON"), pictures=tmp_path / "elsewhere")
    assert dataset.pictures[0].path == wanted


@pytest.mark.parametrize("name", ["images", "pictures"])
def test_a_folder_with_pictures_and_masks_below_it_is_a_mask_folder(tmp_path, name):
    picture(tmp_path / name / "a.png")
    mask(tmp_path / "masks" / "a.png")
    dataset = open_dataset(tmp_path, mask_kind="binary")
    assert (dataset.kind, dataset.num_instances) == ("mask folder (binary)", 1)


def test_masks_may_be_named_and_their_kind_is_passed_on(tmp_path):
    picture(tmp_path / "a.png")
    mask(tmp_path / "elsewhere" / "a.png")
    kinds = {
        mask_kind: open_dataset(tmp_path, masks=tmp_path / "elsewhere", mask_kind=mask_kind).pictures[0].instances
        for mask_kind in ("auto", "binary", "labels")
    }
    areas_px = {mask_kind: [instance.area_px for instance in instances] for mask_kind, instances in kinds.items()}
    assert areas_px == {"auto": [], "binary": [12], "labels": [1]}  # 255 is void


def test_a_folder_of_sa1b_is_known_by_its_names(tmp_path):
    picture(tmp_path / "sa_1.jpg")
    sa1b_file(tmp_path / "sa_1.json")
    dataset = open_dataset(tmp_path)
    assert (dataset.kind, dataset.pictures[0].instances[0].mask_px) == ("sa-1b", 5)


@pytest.mark.parametrize(
    ("places", "source", "expected"),
    [
        (["set.json"], "set.json", True),
        (["set.JSON"], "set.JSON", True),
        ([], "gone.json", True),  # whoever opens it says so
        (["folder.json/a.png"], "folder.json", False),
        (["a.png"], "a.png", False),
        (["a.png"], "", False),
        (["a.png", "instances.json"], "", False),
        (["sa_1.json", "sa_1.jpg"], "", True),
        (["sa_1.jpg"], "", False),
        (["masks/a.png", "images/a.png"], "", True),
        (["masks/a.png", "pictures/a.png"], "", True),
        (["masks/a.png", "a.png"], "", False),
        (["images/a.png"], "", False),
        (["masks", "images/a.png"], "", False),  # a file
        ([], "gone", False),
    ],
)
def test_it_is_told_beforehand_what_holds_annotations(tmp_path, places, source, expected):
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert is_annotated(tmp_path / source) is is_annotated(str(tmp_path / source)) is expected
    if not expected:
        with pytest.raises((ValueError, FileNotFoundError), match=r"nothing at|no known form|no \.json file"):
            open_dataset(tmp_path / source)


def test_an_annotation_file_among_pictures_is_refused(tmp_path):
    path, annotations = picture(tmp_path / "a.png"), coco_file(tmp_path / "instances.json")
    for sources in ([annotations], [path, annotations]):
        with pytest.raises(ValueError, match=r"instances.json is an annotation file; name one annotation file alone"):
            list_picture_files(sources)
    assert [p.id for p in list_picture_files([tmp_path]).pictures] == ["a.png"]


def test_what_has_no_known_form_is_told_the_forms(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"no known form; expected a COCO or LVIS file.*images/.*sa_1\.json"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match=r"a.png is no .json file; expected a COCO or LVIS file"):
        open_dataset(tmp_path / "a.png")
    coco_file(tmp_path / "instances.json")
    with pytest.raises(ValueError, match=r"perhaps you mean .*instances.json"):
        open_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nothing at .*gone"):
        open_dataset(tmp_path / "gone")


def test_folders_that_a_source_has_no_use_for_are_refused(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="holds its own masks"):
        open_dataset(coco_file(tmp_path / "instances.json"), masks=tmp_path)
    with pytest.raises(ValueError, match=r"give pictures .* with a .json file only"):
        open_dataset(tmp_path, pictures=tmp_path)


def test_folders_list_their_pictures_by_name_without_those_below(tmp_path):
    for name in ("b.PNG", "a.jpg", "deep/c.png", ".hidden.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.png").mkdir()
    dataset = list_picture_files([tmp_path])
    assert [(p.id, p.path, p.instances, p.size_hw) for p in dataset.pictures] == [
        ("a.jpg", tmp_path / "a.jpg", (), None),
        ("b.PNG", tmp_path / "b.PNG", (), None),
    ]
    assert (dataset.kind, dataset.name, dataset.problems) == ("pictures", tmp_path.name, ())


def test_repeated_names_become_paths_from_the_common_folder(tmp_path):
    for name in ("x/a.png", "x/b.png", "y/z/a.png"):
        picture(tmp_path / name)
    dataset = list_picture_files([tmp_path / "y" / "z", tmp_path / "x"])
    assert [p.id for p in dataset.pictures] == ["y/z/a.png", "x/a.png", "b.png"]
    assert dataset.name == "z and 1 more"


def test_a_picture_named_twice_is_listed_once(tmp_path):
    path = picture(tmp_path / "a.png")
    dataset = list_picture_files([path, tmp_path, tmp_path / "." / "a.png"])
    assert [p.path for p in dataset.pictures] == [path]
    assert [problem.kind for problem in dataset.problems] == ["repeated picture"] * 2


@pytest.fixture
def links(tmp_path):
    """Links with names of their own, as a store of files by their hash has them."""
    for name in ("0f3c", "77aa"):
        picture(tmp_path / "blobs" / f"{name}.png")
    for link, target in {"cat.png": "0f3c", "dog.png": "77aa", "more/cat.png": "77aa", "again.png": "0f3c"}.items():
        (tmp_path / "shown" / link).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shown" / link).symlink_to(tmp_path / "blobs" / f"{target}.png")
    return tmp_path / "shown"


def test_links_keep_their_names_while_repeats_are_found_by_what_they_lead_to(links):
    dataset = list_picture_files([links / "cat.png", links])
    assert [(p.id, p.path) for p in dataset.pictures] == [
        ("cat.png", links / "cat.png"),
        ("dog.png", links / "dog.png"),
    ]
    assert [problem.kind for problem in dataset.problems] == ["repeated picture"] * 2
    assert dataset.name == "cat.png and 1 more"


def test_repeated_names_of_links_become_paths_to_the_links(links):
    dataset = list_picture_files([links / "cat.png", links / "more"])
    assert [p.id for p in dataset.pictures] == ["cat.png", "more/cat.png"]


def test_linked_folders_keep_their_names(tmp_path):
    for day, store in (("monday", "x1"), ("friday", "x2")):
        picture(tmp_path / "store" / store / "a.png")
        (tmp_path / day).symlink_to(tmp_path / "store" / store)
    dataset = list_picture_files([tmp_path / "monday", tmp_path / "friday"])
    assert [p.id for p in dataset.pictures] == ["monday/a.png", "friday/a.png"]


def test_a_way_up_from_a_linked_folder_is_another_picture(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "store" / "a.png")
    (tmp_path / "store" / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "store" / "deep")
    dataset = list_picture_files([tmp_path / "a.png", tmp_path / "link" / ".." / "a.png"])
    assert [p.id for p in dataset.pictures] == ["a.png", "store/a.png"]


def test_files_and_relative_folders_are_taken_as_they_are_named(tmp_path, monkeypatch):
    odd = picture(tmp_path / "a.png").rename(tmp_path / "a.picture")
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "b.png")
    dataset = list_picture_files([odd, Path(os.curdir)])
    assert [(p.id, p.path) for p in dataset.pictures] == [("a.picture", odd), ("b.png", Path("b.png"))]


def test_the_hash_depends_on_names_and_sizes_but_not_on_the_place(tmp_path):
    for folder in ("one", "two"):
        picture(tmp_path / folder / "a.png")
    first, second = (list_picture_files([tmp_path / folder]).sha256 for folder in ("one", "two"))
    (tmp_path / "two" / "a.png").write_bytes(b"of another size")
    assert first == second != list_picture_files([tmp_path / "two"]).sha256


def test_sources_without_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no pictures were named"):
        list_picture_files([])
    with pytest.raises(ValueError, match="holds no picture"):
        list_picture_files([tmp_path])
    with pytest.raises(FileNotFoundError, match="gone"):
        list_picture_files([tmp_path / "gone"])


def test_paths_may_be_text(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert [picture.id for picture in list_picture_files([str(tmp_path)]).pictures] == ["a.png"]
    with pytest.raises(FileNotFoundError, match="nothing at"):
        open_dataset(str(tmp_path / "b.json"))

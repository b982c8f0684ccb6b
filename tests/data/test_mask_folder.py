"""Folders of masks: which values are objects, and what is said where that cannot be known."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from mobile_sam.data.mask_folder import read_mask_folder

HEIGHT, WIDTH = 12, 16
LEFT, RIGHT, CORNER = np.s_[2:6, 1:5], np.s_[4:9, 8:14], np.s_[10:12, 0:3]
LEFT_BOX, RIGHT_BOX, CORNER_BOX = (1, 2, 5, 6), (8, 4, 14, 9), (0, 10, 3, 12)


def values_with(regions, dtype=np.uint8):
    """(H, W) with a value in each region, 0 elsewhere."""
    values = np.zeros((HEIGHT, WIDTH), dtype)
    for region, value in regions:
        values[region] = value
    return values


def palette(values):
    image = Image.fromarray(values)
    image.putpalette([value for index in range(256) for value in (index, 255 - index, index // 2)])
    assert image.mode == "P"
    return image


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "cat.jpg")
    return tmp_path


@pytest.fixture
def read(folder):
    def read(mask=None, mask_kind="auto", name="cat.png"):
        if mask is not None:
            (folder / "masks" / name).parent.mkdir(exist_ok=True)
            (Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask).save(folder / "masks" / name)
        return read_mask_folder(folder / "images", folder / "masks", mask_kind)

    return read


def kinds_of(dataset):
    return [problem.kind for problem in dataset.problems]


def boxes_of(dataset):
    return {instance.id: instance.box_xyxy for instance in dataset.pictures[0].instances}


BINARY = {"cat.png": LEFT_BOX}
LABELS = {"cat.png#1": LEFT_BOX, "cat.png#2": RIGHT_BOX}


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (values_with([(LEFT, 255)]), BINARY),
        (values_with([(LEFT, 1)]), BINARY),
        (values_with([(LEFT, 7)]), BINARY),
        (values_with([(LEFT, True)], bool), BINARY),
        (values_with([(LEFT, 65535)], np.uint16), BINARY),
        (palette(values_with([(LEFT, 1)])), BINARY),
        (Image.fromarray(values_with([(LEFT, 255)])).convert("RGB"), BINARY),
        (Image.fromarray(values_with([(LEFT, 255)])).convert("RGBA"), BINARY),
        (values_with([(LEFT, 1), (RIGHT, 2)]), LABELS),
        (values_with([(LEFT, 1), (RIGHT, 2)], np.uint16), LABELS),
        (values_with([(LEFT, 255), (RIGHT, 300)], np.uint16), {"cat.png#255": LEFT_BOX, "cat.png#300": RIGHT_BOX}),
        (palette(values_with([(LEFT, 1), (RIGHT, 2)])), LABELS),
        (palette(values_with([(LEFT, 1), (RIGHT, 2), (CORNER, 255)])), LABELS),  # 255 is void
        (values_with([(LEFT, 1), (RIGHT, 254)]), {"cat.png#1": LEFT_BOX, "cat.png#254": RIGHT_BOX}),
    ],
)
def test_auto_tells_one_object_from_labels(read, mask, expected):
    dataset = read(mask)
    assert boxes_of(dataset) == expected
    assert dataset.problems == ()


def soft_disc(largest, dtype=np.uint8, side_px=64, radius_px=20):
    """(H, W), an anti-aliased disc: how much of each pixel it covers, times the largest value."""
    fine = (np.arange(side_px * 16) + 0.5) / 16 - side_px / 2
    covered = (fine**2 + fine[:, None] ** 2 < radius_px**2).reshape(side_px, 16, side_px, 16).mean((1, 3))
    return np.round(covered * largest).astype(dtype)


def tiles(num_tiles, dtype, first_label=1, step=1, side_px=8):
    """(side_px, num_tiles * side_px), a label in each tile, the tiles having gaps of two columns."""
    labels = np.repeat(np.arange(num_tiles) * step + first_label, side_px).astype(dtype)
    labels[np.arange(labels.size) % side_px >= side_px - 2] = 0
    return np.tile(labels, (side_px, 1))


@pytest.fixture
def read_large(folder, read):
    """Like `read`, the picture having the mask's size."""

    def read_large(mask, mask_kind="auto"):
        height, width = mask.shape if isinstance(mask, np.ndarray) else mask.size[::-1]
        Image.new("RGB", (width, height)).save(folder / "images" / "cat.jpg")
        return read(mask, mask_kind)

    return read_large


@pytest.mark.parametrize(
    "disc", [soft_disc(65535, np.uint16), soft_disc(1000, np.uint16), soft_disc(254), soft_disc(200)]
)
def test_one_object_with_a_soft_edge_is_not_taken_for_labels(read_large, disc):
    dataset = read_large(disc)
    assert kinds_of(dataset) == ["ambiguous mask"]
    assert "pass mask_kind 'binary' or 'labels'" in dataset.problems[0].message.lower()
    (instance,) = read_large(disc, "binary").pictures[0].instances
    assert instance.mask_px == pytest.approx(np.pi * 20**2, rel=0.02)
    assert instance.box_xyxy == (12, 12, 52, 52)


@pytest.mark.parametrize(
    "labels",
    [
        tiles(20, np.uint8),
        tiles(20, np.uint16),
        tiles(20, np.uint16, first_label=300, step=1000),
        tiles(20, np.uint8, first_label=10, step=12),
        tiles(8, np.uint8),
    ],
)
def test_labels_of_like_sizes_are_objects(read_large, labels):
    dataset = read_large(labels)
    expected = {
        f"cat.png#{labels[0, 8 * tile]}": (8 * tile, 0, 8 * tile + 6, 8) for tile in range(labels.shape[1] // 8)
    }
    assert boxes_of(dataset) == expected
    assert dataset.problems == ()


@pytest.mark.parametrize("num_labels", [8, 20])
def test_a_last_label_that_is_the_largest_makes_many_values_ambiguous_but_in_palettes(read_large, num_labels):
    labels = np.concatenate(
        [tiles(num_labels - 1, np.uint8), np.full((60, 8 * (num_labels - 1)), num_labels, np.uint8)]
    )
    assert read_large(palette(labels)).num_instances == num_labels
    assert read_large(labels, "labels").num_instances == num_labels
    assert read_large(labels).num_instances == (num_labels if num_labels <= 8 else 0)


def test_many_labels_are_not_held_as_masks_at_once(read_large):
    labels = np.arange(1, 301, dtype=np.uint16).repeat(600).reshape(300, 600)  # a row each
    tracemalloc.start()
    try:
        assert read_large(labels).num_instances == 300
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 300 * labels.size / 3  # 300 masks of a byte a pixel


@pytest.mark.parametrize(
    ("mask_kind", "expected"),
    [("auto", "mask folder"), ("binary", "mask folder (binary)"), ("labels", "mask folder (labels)")],
)
def test_the_kind_of_the_dataset_tells_how_masks_were_read(read, mask_kind, expected):
    assert read(values_with([(LEFT, 1)]), mask_kind).kind == expected


def test_a_mask_comes_back_pixel_by_pixel(read):
    wanted = np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5
    (picture,) = read(wanted).pictures
    (instance,) = picture.instances
    assert_array_equal(instance.mask, wanted)
    assert instance.area_px == np.count_nonzero(wanted)
    assert (picture.id, picture.size_hw) == ("cat.jpg", (HEIGHT, WIDTH))


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (values_with([(LEFT, 255), (RIGHT, 1)]), "ambiguous mask"),
        (values_with([(LEFT, 255), (RIGHT, 128)]), "ambiguous mask"),
        (values_with([(LEFT, 0.5), (RIGHT, 1)], np.float32), "ambiguous mask"),
        (values_with([(LEFT, np.nan), (RIGHT, 1)], np.float32), "unreadable mask"),
        (values_with([]), "empty mask"),
        (palette(values_with([])), "empty mask"),
        (values_with([])[:5], "mask of another size"),
        (values_with([(LEFT, 255)]).T.copy(), "mask of another size"),
        (np.stack([values_with([(LEFT, 255)]), values_with([(RIGHT, 255)]), values_with([])], 2), "colour mask"),
        (Image.fromarray(values_with([(LEFT, 255)])).convert("CMYK"), "colour mask"),
    ],
)
def test_a_mask_that_cannot_be_used_is_a_problem_and_its_picture_stays(read, mask, kind):
    dataset = read(mask, name="cat.tif")
    assert kinds_of(dataset) == [kind]
    assert dataset.problems[0].where == "mask cat.tif of picture cat.jpg"
    assert [(picture.id, picture.instances) for picture in dataset.pictures] == [("cat.jpg", ())]


def test_what_is_ambiguous_asks_for_a_mask_kind_and_obeys_it(read):
    mask = values_with([(LEFT, 255), (RIGHT, 100)])
    assert "pass mask_kind 'binary' or 'labels'" in read(mask).problems[0].message.lower()
    assert boxes_of(read(mask, "binary")) == BINARY
    assert boxes_of(read(mask, "labels")) == {"cat.png#100": RIGHT_BOX}


@pytest.mark.parametrize(
    ("values", "kind"), [([(LEFT, 255)], "empty mask"), ([(LEFT, 255), (RIGHT, 1)], None), ([], "empty mask")]
)
def test_in_labels_255_is_void(read, values, kind):
    dataset = read(values_with(values), "labels")
    assert kinds_of(dataset) == ([kind] if kind else [])
    assert list(boxes_of(dataset).values()) == ([] if kind else [RIGHT_BOX])


def test_labels_must_be_whole_numbers(read):
    halves = values_with([(LEFT, 0.5), (RIGHT, 1)], np.float32)
    assert kinds_of(read(halves, "labels", "cat.tif")) == ["ambiguous mask"]
    assert boxes_of(read(2 * halves, "labels", "cat.tif")) == {"cat.tif#1": LEFT_BOX, "cat.tif#2": RIGHT_BOX}


def test_in_a_jpeg_labels_are_never_guessed(read):
    assert kinds_of(read(values_with([(LEFT, 60), (RIGHT, 200)]), name="cat.jpg")) == ["ambiguous mask"]
    expected = values_with([(LEFT, 255), (RIGHT, 255)]) > 0
    (instance,) = read(values_with([(LEFT, 255), (RIGHT, 255)]), "binary", "cat.jpg").pictures[0].instances
    assert np.count_nonzero(instance.mask != expected) <= 3


def test_transparent_pixels_are_background(read):
    white = np.full((HEIGHT, WIDTH), 255, np.uint8)
    opacity = values_with([(LEFT, 255)])
    assert boxes_of(read(np.stack([white, white, white, opacity], 2))) == BINARY
    assert boxes_of(read(np.stack([white, opacity], 2))) == BINARY


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".webp", ".PNG"])
def test_masks_may_be_of_any_picture_format(read, folder, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(values_with([(LEFT, 255)])).save(folder / "masks" / f"cat{suffix}", **options)
    dataset = read()
    assert boxes_of(dataset) == {f"cat{suffix}": LEFT_BOX}
    assert dataset.problems == ()


@pytest.mark.parametrize("mask_kind", ["auto", "binary", "labels"])
def test_a_sub_folder_holds_one_object_a_file(read, mask_kind):
    read(values_with([(LEFT, 255)]), mask_kind, "cat/left.png")
    dataset = read(values_with([(RIGHT, 255), (CORNER, 30)]), mask_kind, "cat/right.png")
    assert boxes_of(dataset) == {"cat/left.png": LEFT_BOX, "cat/right.png": RIGHT_BOX}
    assert dataset.problems == ()


def test_one_broken_file_of_a_sub_folder_leaves_the_others(read, folder):
    read(values_with([(LEFT, 255)]), name="cat/left.png")
    read(values_with([(RIGHT, 255)]), name="cat/right.png")
    whole = (folder / "masks" / "cat" / "right.png").read_bytes()
    (folder / "masks" / "cat" / "right.png").write_bytes(whole[: len(whole) // 2])
    (folder / "masks" / "cat" / "text.png").write_text("no picture")
    (folder / "masks" / "cat" / "empty.png").touch()
    dataset = read()
    assert kinds_of(dataset) == ["unreadable mask"] * 3
    assert boxes_of(dataset) == {"cat/left.png": LEFT_BOX}


def test_what_lacks_its_other_half_is_left_out_and_counted(read, folder):
    Image.new("RGB", (4, 4)).save(folder / "images" / "dog.png")
    (folder / "images" / "cow.png").write_text("no picture")
    for name in ("cat.png", "cow.png", "horse.png", "goat/1.png"):
        dataset = read(values_with([(LEFT, 255)]), name=name)
    assert [(problem.kind, problem.where) for problem in dataset.problems] == [
        ("unreadable picture", "cow.png"),
        ("picture without masks", "dog.png"),
        ("mask without a picture", "goat/1.png"),
        ("mask without a picture", "horse.png"),
    ]
    assert [picture.id for picture in dataset.pictures] == ["cat.jpg"]


def test_of_two_pictures_with_one_stem_the_first_has_the_mask(read, folder):
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / "cat.png")
    dataset = read(values_with([(LEFT, 255)]))
    assert kinds_of(dataset) == ["repeated picture id"]
    assert [picture.id for picture in dataset.pictures] == ["cat.jpg"]


def test_a_mask_fits_a_picture_as_it_is_seen_upright(read, folder):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.new("RGB", (HEIGHT, WIDTH)).save(folder / "images" / "cat.jpg", exif=exif)
    dataset = read(values_with([(LEFT, 255)]))
    assert (dataset.pictures[0].size_hw, boxes_of(dataset)) == ((HEIGHT, WIDTH), BINARY)


def test_hidden_and_foreign_files_are_passed_over(read, folder):
    for name in ("images/._cat.jpg", "images/notes.txt", "masks/.cat.png", "masks/palette.txt"):
        (folder / name).write_text("no picture")
    dataset = read(values_with([(LEFT, 255)]))
    assert (dataset.num_instances, dataset.problems, dataset.kind) == (1, (), "mask folder")


def test_the_hash_changes_with_the_masks_and_the_pictures(read, folder):
    only_cat = read(values_with([(LEFT, 255)])).sha256
    assert read().sha256 == only_cat
    with_mask_of_dog = read(values_with([(LEFT, 255)]), name="dog.png").sha256
    Image.new("RGB", (9, 9)).save(folder / "images" / "dog.png")
    assert len({only_cat, with_mask_of_dog, read().sha256}) == 3


def test_folders_with_nothing_to_use_are_refused(folder):
    images, masks = folder / "images", folder / "masks"
    with pytest.raises(ValueError, match="masks holds no mask"):
        read_mask_folder(images, masks)
    with pytest.raises(ValueError, match="masks holds no picture"):
        read_mask_folder(masks, images)
    with pytest.raises(ValueError, match="both the folder of pictures and the folder of masks"):
        read_mask_folder(images, folder / "masks" / ".." / "images")
    with pytest.raises(ValueError, match="mask_kind must be one of auto, binary, labels, got 'soft'"):
        read_mask_folder(images, masks, "soft")
    with pytest.raises(FileNotFoundError, match=r"no folder of masks at .*gone"):
        read_mask_folder(images, folder / "gone")
    with pytest.raises(FileNotFoundError, match=r"no folder of pictures at .*gone"):
        read_mask_folder(folder / "gone", masks)
    Image.new("L", (WIDTH, HEIGHT)).save(masks / "dog.png")
    with pytest.raises(ValueError, match="1 x picture without masks, 1 x mask without a picture"):
        read_mask_folder(images, masks)

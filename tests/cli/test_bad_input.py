"""What a user can get wrong: one line that says what to do, exit code 2, and no file."""

import errno
import io
import os
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mobile_sam.core.images
import mobile_sam.core.weights
import mobile_sam.engines

CLICK = ("--point", "200,150")
TWO_BOXES = ("--box", "130,80,210,150", "--box", "290,110,350,170")


@pytest.fixture
def photo(examples, tmp_path):
    """A photo in a folder of its own, in which nothing else should appear."""
    copy = tmp_path / "photo.png"
    copy.write_bytes((examples / "chelsea.png").read_bytes())
    return copy


@pytest.fixture
def refused(cli, tmp_path, monkeypatch):
    """Run a command that must fail in the way this file's name promises, and return its one line."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        ended = cli(*arguments)
        assert ended.exit_code == 2
        assert ended.out == ""
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        (line,) = ended.err.splitlines()
        assert line.startswith("mobile-sam: error: ")
        return line

    return run


def cut_short(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:2000])


def bomb(path):
    """A PNG of 100 bytes whose header claims 3.6 thousand million pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, format="PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no picture at bad.jpg (seen from"),
        (lambda path: path.mkdir(), "bad.jpg is a folder; pass one picture inside it"),
        (lambda path: path.write_bytes(b""), "bad.jpg is empty (0 bytes)"),
        (lambda path: path.write_text("no picture"), "bad.jpg is no picture in a format that Pillow knows"),
        (cut_short, "bad.jpg is damaged, cut short"),
        (bomb, "bad.jpg is too large"),
    ],
    ids=["missing", "folder", "empty", "text", "cut short", "bomb"],
)
def test_a_photo_that_cannot_be_read(refused, tmp_path, make, words):
    make(tmp_path / "bad.jpg")
    assert words in refused("segment", "bad.jpg", *CLICK, "-o", "out.png", "--json", "out.json")


def test_a_picture_larger_than_allowed(refused, photo, monkeypatch):
    monkeypatch.setattr(mobile_sam.core.images.read_image, "__kwdefaults__", {"max_pixels": 1000})
    assert "451 x 300 pixels, more than the 1000 allowed" in refused("segment", photo, *CLICK)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ((), "no prompt: say what to cut out with --point"),
        (("--point", "nan,10"), "points must be finite, got [nan]"),
        (("--point", "10,inf"), "points must be finite, got [inf]"),
        (("--point", "-5,10"), "point (-5, 10) lies outside the picture of 451 x 300 px"),
        (("--point=-5,10",), "point (-5, 10) lies outside the picture"),
        (("--point", "300,451"), "point (300, 451) lies outside the picture of 451 x 300 px (width x height)"),
        (("--point", "10"), "--point '10' is not of the form X,Y or X,Y,LABEL"),
        (("--point", "10,10,7"), "the label must be 1 (the object) or 0 (not the object)"),
        (("--box", "10,10,nan,20"), "box must be finite, got [nan]"),
        (("--box", "200,10,100,50"), "swapped or equal corners; expected x1, y1, x2, y2"),
        (("--box", "-100,10,100,50"), "box [-100, 10, 100, 50] lies outside the picture"),
        (("--box", "10,10,100"), "--box '10,10,100' is not of the form X1,Y1,X2,Y2"),
        ((*CLICK, *TWO_BOXES), "it is not clear which box the points belong to; use --prompts FILE.json"),
        (("--prompts", "nowhere.json"), "no prompt file at nowhere.json"),
        (
            (*CLICK, "--engine", "tensorflow"),
            "unknown engine 'tensorflow'; expected auto, onnxruntime, openvino, torch",
        ),
    ],
)
def test_a_prompt_or_engine_that_makes_no_sense(refused, photo, prompt, words):
    assert words in refused("segment", photo, *prompt, "-o", "out.png", "--json", "out.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[{", "prompts.json is not JSON"),
        ('{"points": [[1, 2]]}', "prompts.json must hold a list of objects"),
        ('[{"labels": [1]}]', "object 0 in prompts.json has the keys ['labels']"),
        ('[{"box": [1, 2, 3, 4]}, {"points": [[1, 2]], "labels": [1, 0]}]', "object 1 in prompts.json: labels must be"),
        ('[{"points": [[[1, 2]]]}]', "points must be (N, 2)"),
        ('[{"points": [[NaN, 2]]}]', "points must be finite"),
        ('[{"points": [[9000, 2]]}]', "point (9000, 2) lies outside the picture"),
    ],
)
def test_a_prompt_file_that_makes_no_sense(refused, photo, tmp_path, content, words):
    (tmp_path / "prompts.json").write_text(content)
    assert words in refused("segment", photo, "--prompts", "prompts.json", "-o", "out.png")


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (("-o", "out.xyz"), "suffix '.xyz' names no known format; use one of .png, .jpg"),
        (("-o", "out"), "names no known format"),
        (("-o", "nowhere/out.png"), "the folder"),
        (("-o", "folder.png"), "it is a folder; name a file inside it"),
        (("-o", "photo.png/out.png"), "is a file, not a folder"),
        (("-o", "out.jpg", "--style", "cutout"), "JPEG holds no opacity; use .png"),
        (("-o", "out.bmp", "--style", "cutout"), "BMP holds no opacity"),
        (("-o", "photo.png"), "writing photo.png would replace the photo"),
        (("-o", "./photo.png"), "would replace the photo"),
        (("-o", "link.png"), "writing link.png would replace the photo"),
        (("-o", "out.png", "--json", "photo.png"), "writing photo.png would replace the photo"),
        (("-o", "out.png", "--json", "out.png"), "--json out.png and --output are the same file"),
        (("-o", "out.png", "--json", "./out.png"), "are the same file"),
        (("-o", "out.png", "--json", "nowhere/out.json"), "create it first"),
        (("-o", "out.png", "--json", "folder.png"), "it is a folder"),
        (("-o", "used.png", "--multimask"), "cannot write used-2.png: it is a folder"),
        (("-o", "out.png", "--multimask", "--json", "out-2.png"), "--json out-2.png and --output are the same file"),
    ],
)
def test_a_result_that_cannot_be_written_is_refused_before_the_work(
    refused, photo, tmp_path, monkeypatch, outputs, words
):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "used-2.png").mkdir()
    (tmp_path / "link.png").symlink_to(photo)
    monkeypatch.setattr("mobile_sam.predictor.SamPredictor.set_image", lambda *_: pytest.fail("the work was begun"))
    assert words in refused("segment", photo, *CLICK, *outputs)


def test_a_prompt_file_is_not_replaced_by_the_results(refused, photo, tmp_path):
    (tmp_path / "prompts.json").write_text('[{"points": [[200, 150]]}]')
    line = refused("segment", photo, "--prompts", "prompts.json", "-o", "out.png", "--json", "prompts.json")
    assert "would replace the prompt file prompts.json" in line


def test_a_picture_too_wide_for_the_format_is_refused_before_the_work(refused, tmp_path, monkeypatch):
    Image.new("RGB", (16_384, 2)).save(tmp_path / "wide.png")
    monkeypatch.setattr("mobile_sam.predictor.SamPredictor.set_image", lambda *_: pytest.fail("the work was begun"))
    line = refused("segment", "wide.png", "--point", "1,1", "-o", "out.webp")
    assert "cannot write out.webp: WEBP holds at most 16383 pixels a side" in line


def test_a_folder_without_permission_is_refused_before_the_work(refused, photo, tmp_path, monkeypatch):
    locked = tmp_path / "locked"
    locked.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(locked))  # a superuser may write anywhere
    assert "no permission to create files in" in refused("segment", photo, *CLICK, "-o", "locked/out.png")


@pytest.mark.parametrize("which_fails", [1, 2, 3])
def test_a_disk_that_fills_up_leaves_none_of_the_files(refused, photo, monkeypatch, which_fails):
    """The two masks are written first, then the JSON."""
    num_written = 0

    def failing(write):
        def write_or_fail(path, content, **options):
            nonlocal num_written
            num_written += 1
            if num_written == which_fails:
                write(path, content[: len(content) // 2], **options)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(path, content, **options)

        return write_or_fail

    monkeypatch.setattr(Path, "write_bytes", failing(Path.write_bytes))
    monkeypatch.setattr(Path, "write_text", failing(Path.write_text))
    line = refused("segment", photo, *TWO_BOXES, "--style", "mask", "-o", "out.png", "--json", "out.json")
    assert os.strerror(errno.ENOSPC) in line
    assert ("out-1.png", "out-2.png", "out.json")[which_fails - 1] in line


def test_an_engine_that_is_not_installed_names_its_extra(refused, photo, monkeypatch):
    monkeypatch.setattr(mobile_sam.engines, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    line = refused("segment", photo, *CLICK, "--engine", "torch", "-o", "out.png")
    assert "pip install 'mobile-sam[torch]'" in line


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"\xff"])
def test_corrupted_weights_are_refused_by_name(refused, photo, tmp_path, monkeypatch, damage):
    path = mobile_sam.core.weights.bundled_weights_path()
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / path.name).write_bytes(damage(path.read_bytes()))
    monkeypatch.setattr(mobile_sam.core.weights, "bundled_folder", lambda: folder)
    line = refused("segment", photo, *CLICK, "--engine", "onnxruntime", "-o", "out.png")
    assert "mobile_sam.safetensors" in line
    assert "sha256" in line


def test_too_little_memory_is_said_in_words(refused, photo, monkeypatch):
    def read_image(source):
        raise MemoryError

    monkeypatch.setattr(mobile_sam.core.images, "read_image", read_image)
    assert "not enough memory for this picture; shrink it first" in refused("segment", photo, *CLICK)


def test_an_interruption_while_writing_ends_with_130_and_leaves_no_file(cli, photo, tmp_path, monkeypatch):
    def write_half(path, content):
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", write_half)
    ended = cli("segment", photo, *CLICK, "-o", tmp_path / "out.png")
    assert (ended.exit_code, ended.out, ended.err) == (130, "", "")
    assert list(tmp_path.iterdir()) == [photo]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("segment",), "photo"),
        (("segment", "photo.png", "--style", "sketch"), "sketch"),
        (("segment", "photo.png", "--colour", "red"), "--colour"),
        (("segment", "photo.png", "--point"), "--point"),
        (("cut", "photo.png"), "cut"),
    ],
)
def test_options_that_do_not_exist_are_named(cli, photo, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    ended = cli(*arguments)
    assert ended.exit_code == 2
    assert words in ended.err.lower()
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == [photo]


def run_process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", "from mobile_sam.cli.main import run; run()", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, **options,
    )  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="limits are POSIX")
def test_a_process_that_may_not_write_so_much_says_why_and_leaves_no_file(photo, tmp_path):
    import resource

    ended = run_process(
        "segment", photo, *CLICK, "-o", tmp_path / "out.png",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"mobile-sam: error: [Errno 27] {os.strerror(27)}: '{tmp_path / 'out.png'}'\n"
    assert list(tmp_path.iterdir()) == [photo]


def test_a_reader_that_left_is_no_reason_for_a_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", "from mobile_sam.cli.main import run; run()", "--version"]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.skipif(os.name == "nt", reason="closed by number")
@pytest.mark.parametrize("arguments", [("--version",), ("segment", "nowhere.png", "--point", "1,1")])
def test_an_output_closed_from_the_start_is_no_reason_for_a_traceback(tmp_path, arguments):
    ended = run_process(*arguments, cwd=tmp_path, preexec_fn=lambda: os.close(1))
    assert ended.returncode in (0, 2)
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device")
def test_a_table_that_cannot_be_printed_is_an_error_of_one_line():
    command = [sys.executable, "-c", "from mobile_sam.cli.main import run; run()", "--version"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr == f"mobile-sam: error: [Errno 28] {os.strerror(errno.ENOSPC)}\n"


def test_a_path_that_the_terminal_cannot_show_is_escaped(photo, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = run_process("segment", photo, *CLICK, "-o", tmp_path / "写.png", env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert r"\u5199.png" in ended.stdout
    assert (tmp_path / "写.png").is_file()

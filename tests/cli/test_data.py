"""`mobile-sam data pack`: what it says, writes and leaves, and how it ends."""

import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from mobile_sam.data.picture_set import open_picture_set

RUN = "from mobile_sam.cli.main import run; run()"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four pictures; the working folder is beside theirs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name in ("a", "b", "c", "d"):
        noise = np.random.default_rng(0).integers(0, 255, (100, 150, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "pictures" / f"{name}.jpg")
    return tmp_path / "pictures"


def names_in(folder):
    return sorted(os.listdir(folder))


def test_a_folder_becomes_shards_and_again_they_are_kept(cli, folder):
    ended = cli("data", "pack", folder, "--out", "out", "--shard-size", 3)
    assert ended.exit_code == 0
    assert ended.out.splitlines() == [
        "out/pictures_000000.tar: 3 pictures",
        "out/pictures_000001.tar: 1 pictures",
        "4 pictures in 2 shards: out",
    ]
    assert list(open_picture_set("out").keys) == ["a", "b", "c", "d"]
    again = cli("data", "pack", folder, "--out", "out", "--shard-size", 3)
    assert again.exit_code == 0
    assert again.out.splitlines()[0] == "out/pictures_000000.tar: done before, kept"


def test_broken_pictures_are_named_and_counted_each_time(cli, folder):
    (folder / "b.jpg").write_bytes(b"broken")
    (folder / "d.png").write_bytes((folder / "d.jpg").read_bytes())
    for _ in range(2):
        ended = cli("data", "pack", folder, "--out", "out")
        assert ended.exit_code == 3
        assert "b: corrupt picture: " in ended.err
        assert "d: repeated key: " in ended.err
        assert ended.err.splitlines()[-1] == "2 pictures, annotations or tars could not be used"
        assert ended.out.splitlines()[-1] == "3 pictures in 1 shards: out"


def test_of_many_problems_in_a_source_some_are_shown_and_all_counted(cli, folder):
    for number in range(25):
        for suffix in ("jpg", "png"):
            (folder / f"{number}.{suffix}").write_bytes((folder / "a.jpg").read_bytes())
    ended = cli("data", "pack", folder, "--out", "out")
    assert ended.exit_code == 3
    assert ended.err.count(": repeated key: ") == 20
    assert "... and 5 more x repeated key" in ended.err
    assert ended.err.splitlines()[-1].startswith("25 ")


def test_too_many_broken_pictures_stop_the_run_and_finished_shards_stay(cli, folder):
    for name in ("b", "c", "d"):
        (folder / f"{name}.jpg").write_bytes(b"broken")
    ended = cli("data", "pack", folder, "--out", "out", "--shard-size", 2, "--max-failures", 1)
    assert ended.exit_code == 2
    assert "mobile-sam: error: 2 of the first 3 pictures cannot be used, more than --max-failures 1" in ended.err
    assert names_in("out") == ["pack.json", "pictures_000000.tar"]
    assert cli("data", "pack", folder, "--out", "out", "--shard-size", 2, "--max-failures", 3).exit_code == 3


def test_a_share_is_one_flag(cli, folder):
    assert cli("data", "pack", folder, "--out", "out", "--fraction", 0.5, "--seed", 1).exit_code == 0
    assert list(open_picture_set("out").keys) == list(open_picture_set(folder, fraction=0.5, seed=1).keys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone", "--out", "out"], "nothing at gone"),
        (["pictures", "--out", "pictures"], "--out pictures is the source"),
        (["pictures", "--out", "out", "--fraction", "2"], "fraction must be in (0, 1], got 2.0"),
        (["pictures", "--out", "pictures/a.jpg"], "pictures/a.jpg"),
    ],
)
def test_a_mistake_is_one_line(cli, folder, arguments, said):
    ended = cli("data", "pack", *arguments)
    assert ended.exit_code == 2
    assert said in ended.err.splitlines()[-1]
    assert ended.err.splitlines()[-1].startswith("mobile-sam: error: ")
    assert names_in(folder) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def test_a_full_disk_is_one_line_and_leaves_only_whole_shards(folder):
    resource = pytest.importorskip("resource")

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))  # bytes; as a disk that is full in the middle

    (folder / "a.jpg").write_bytes(Image.new("RGB", (9, 9)).tobytes("jpeg", "RGB"))
    command = [sys.executable, "-c", RUN, "data", "pack", str(folder), "--out", "out", "--shard-size", "1"]
    for picture in ("b", "c"):
        noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{picture}.jpg", quality=95)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=small_files)
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("mobile-sam: error: [Errno 27] File too large: ")
    assert last.endswith("pictures_000001.tar'")
    assert "Traceback" not in ended.stderr
    assert names_in("out") == ["pack.json", "pictures_000000.tar"]


def test_ctrl_c_leaves_whole_shards_and_says_how_to_go_on(folder):
    wait = (
        "import signal, time; from pathlib import Path; import mobile_sam.data.packing as packing\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def sample(self, index, original=packing.Packing._sample):\n"
        "    if index == 3: Path('waiting').touch(); time.sleep(60)\n"
        "    return original(self, index)\n"
        "packing.Packing._sample = sample\n"
    )
    command = [sys.executable, "-c", wait + RUN, "data", "pack", str(folder), "--out", "out", "--shard-size", "2"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not os.path.exists("waiting") and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "stopped; the same command goes on here"
    assert names_in("out") == ["pack.json", "pictures_000000.tar"]
    with tarfile.open("out/pictures_000000.tar") as tar:
        assert tar.getnames() == ["a.jpg", "b.jpg"]

"""`mobile-sam distill embed`: from pictures and a checkpoint to shards, and what a user can get wrong."""

import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

from mobile_sam.build_sam import build_sam_vit_t_1m, save_sam
from mobile_sam.data.embedding_shards import EmbeddingShards

RUN = "from mobile_sam.cli.main import run; run()"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "small.safetensors"
    torch.manual_seed(0)
    save_sam(build_sam_vit_t_1m(input_side=64), path, name="vit_t_1m")
    return path


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def embed(cli, checkpoint, tmp_path, monkeypatch):
    """Run `mobile-sam distill embed SOURCE --teacher SMALL --out tmp_path/out ...`."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def run(source, *arguments, teacher=checkpoint, out="out"):
        options = ("--teacher", teacher, "--out", tmp_path / out, "--workers", 0, "--device", "cpu")
        return cli("distill", "embed", source, *options, *arguments)

    return run


def shards_in(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.*")}


def test_pictures_become_shards(embed, source, tmp_path):
    ended = embed(source, "--shard-size", 4)
    out = tmp_path / "out"
    assert (ended.exit_code, len(EmbeddingShards(out))) == (0, 6)
    assert ended.out.startswith(f"{out}: 2 shards (0 were there), 6 pictures embedded, 0 skipped, ")
    size, room, first, second = ended.err.splitlines()
    assert size.startswith("pictures: 6 pictures, ")
    assert room.startswith("to be written: ")
    assert "; free in " in room
    assert first.startswith("embeddings-000000: 1 of 2 shards; 4 of 6 pictures, ")
    assert second.endswith("left")


def test_the_same_command_goes_on_and_does_nothing_twice(embed, source):
    embed(source)
    ended = embed(source)
    assert (ended.exit_code, ended.out.split(": ")[1]) == (
        0,
        "1 shards (1 were there), 0 pictures embedded, 0 skipped\n",
    )


def test_the_bundled_model_gives_the_embeddings_of_the_original(embed, official, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / official.picture.name).symlink_to(official.picture)
    ended = embed(folder, teacher="mobile_sam")
    assert ended.exit_code == 0
    shards = EmbeddingShards(tmp_path / "out")
    (key,) = shards.keys
    assert (shards.teacher.name, shards.teacher.input_side) == ("vit_t", 1024)
    assert_allclose(shards.read(key).features[None, :, ::4, ::4], official.embedding, atol=4e-3)  # float16


def test_tars_of_sa_1b_are_read(embed, source, tmp_path):
    with tarfile.open(tmp_path / "sa_000000.tar", "w") as tar:
        for number in range(3):
            tar.add(source / f"{number}.png", f"./sa_{number}.png")
    assert embed(tmp_path / "sa_*.tar").exit_code == 0
    assert [key.rpartition("/")[2] for key in EmbeddingShards(tmp_path / "out").keys] == ["sa_0", "sa_1", "sa_2"]


def test_a_tar_that_is_cut_off_is_named_and_its_pictures_are_used(embed, source, tmp_path):
    path = tmp_path / "sa_000000.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(3):
            tar.add(source / f"{number}.png", f"sa_{number}.png")
    with tarfile.open(path) as tar:
        last = tar.getmember("sa_2.png").offset_data
    path.write_bytes(path.read_bytes()[: last + 10])
    ended = embed(path)
    assert ended.exit_code == 3
    assert f"{path}: it ends within sa_2.png; 2 samples up to sa_1 are used" in ended.err
    assert set(EmbeddingShards(tmp_path / "out").keys) == {"sa_0", "sa_1"}


def test_parts_together_are_the_whole(embed, source, tmp_path):
    embed(source, "--shard-size", 2, out="whole")
    assert "part 1 of 2: 4 pictures" in embed(source, "--shard-size", 2, "--part", "1/2").err
    embed(source, "--shard-size", 2, "--part", "2/2")
    assert shards_in(tmp_path / "out") == shards_in(tmp_path / "whole")


def test_torchruns_processes_take_a_part_each(embed, source, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    embed(source, "--shard-size", 2)
    assert set(shards_in(tmp_path / "out")) == {"manifest.json", "embeddings-000001.json", "embeddings-000001.tar"}


def test_a_share_of_the_pictures_is_chosen_by_the_seed(embed, source, tmp_path):
    chosen = []
    for out, seed in (("a", 1), ("b", 1), ("c", 2), ("d", 3), ("e", 4)):
        assert embed(source, "--fraction", 0.5, "--seed", seed, out=out).exit_code == 0
        chosen.append(tuple(EmbeddingShards(tmp_path / out).keys))
    assert [len(keys) for keys in chosen] == [3] * 5
    assert chosen[0] == chosen[1]
    assert len(set(chosen)) > 1


def test_bad_pictures_are_named_and_end_in_an_exit_code(embed, source, monkeypatch):
    (source / "3.png").write_bytes(b"no picture")
    ended = embed(source)
    assert ended.exit_code == 3
    assert "5 pictures embedded, 1 skipped" in ended.out
    (line,) = [line for line in ended.err.splitlines() if line.startswith("skipped ")]
    assert "3" in line
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun takes any other code for a failure, and stops the others
    assert embed(source).exit_code == 0


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_part_that_is_none_is_refused(embed, source, part):
    ended = embed(source, f"--part={part}")
    assert (ended.exit_code, ended.out) == (2, "")
    assert ended.err == f"mobile-sam: error: --part must be I/N with I from 1 to N, as in 2/4, got {part!r}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--precision", "int4"), "unknown precision 'int4'"),
        (("--device", "tpu7"), "torch has no device 'tpu7' here"),
        (("--fraction", "2"), "fraction"),
        (("--batch-size", "0"), "batch-size"),
        (("--max-skipped", "7"), "max-skipped"),
    ],
)
def test_wrong_options_are_told(embed, source, arguments, message):
    ended = embed(source, *arguments)
    assert ended.exit_code == 2
    assert message in ended.err


def test_wrong_files_are_told_in_a_line(embed, source, tmp_path):
    (tmp_path / "page.pth").write_text("<html>")
    for teacher, message in (
        ("sam_vit_h_4b8939.pth", "no checkpoint"),
        (tmp_path / "page.pth", "not a PyTorch checkp"),
    ):
        ended = embed(source, teacher=teacher)
        assert ended.exit_code == 2
        assert message in ended.err
        assert ended.err.count("\n") == 1
    assert "nowhere" in embed(tmp_path / "nowhere").err


def test_a_folder_of_another_teacher_is_refused(embed, source, tmp_path):
    embed(source)
    ended = embed(source, "--precision", "bf16")
    assert ended.exit_code == 2
    assert "teacher's precision is bf16 here, fp32 there" in ended.err.splitlines()[-1]


def test_the_teacher_must_be_named(cli, source, tmp_path):
    ended = cli("distill", "embed", source, "--out", tmp_path / "out")
    assert ended.exit_code == 2
    assert "--teacher" in ended.err


def test_help_names_the_official_files_and_loads_nothing_heavy(cli):
    assert "sam_vit_h_4b8939.pth" in " ".join(cli("distill", "embed", "--help").out.split())
    code = f"import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n{RUN}"
    ended = subprocess.run([sys.executable, "-c", code, "distill", "embed", "--help"], capture_output=True, timeout=60)
    assert ended.returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        ("embed", "pictures", "--teacher", "mobile_sam", "--out", "out"),
        ("train", "recipe.py", "--out", "out"),
        ("finetune", "masks.json", "--out", "out"),
        ("export", "mobile_sam", "--out", "out"),
    ],
    ids=lambda command: command[0],
)
def test_without_torch_it_is_said_what_to_install(command):
    code = f"import sys; sys.modules['torch'] = None\n{RUN}"
    ended = subprocess.run(
        [sys.executable, "-c", code, "distill", *command], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert "needs PyTorch" in ended.stderr
    assert "pip install 'mobile-sam[" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_so_and_leaves_whole_shards(examples, tmp_path, number):
    out = tmp_path / "out"
    command = ("distill", "embed", examples, "--teacher", "mobile_sam", "--out", out, "--shard-size", "1")
    started = subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, command)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests that run in the background ignore it
    )
    with started:
        while not (out / "embeddings-000000.json").exists() and started.poll() is None:
            time.sleep(0.01)
        started.send_signal(number)
        printed, told = started.communicate(timeout=120)
    assert (started.returncode, printed) == (130, "")
    assert told.splitlines()[-1] == "stopped; finished shards stay, the same command goes on here"
    assert "Traceback" not in told
    shards = EmbeddingShards(out)
    assert 1 <= len(shards) < 4
    assert {problem.kind for problem in shards.problems} == {"unfinished shard"}
    assert not list(out.glob(".mobile-sam-*"))

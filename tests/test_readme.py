"""Every block of code in the README and the guide runs as it stands, in a folder that has examples/ beside it."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mobile_sam.cli.main import app
from mobile_sam.export import exporter
from mobile_sam.export.target import ExportOptions
from mobile_sam.export.targets import get_target, target_names

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/guide.md")
DEPLOY = "docs/deploy.md"


def blocks(language: str, pages: tuple[str, ...] = PAGES) -> list[tuple[str, str]]:
    found = []
    for page in pages:
        texts = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
        found += [(f"{page}-{number}", text) for number, text in enumerate(texts, 1)]
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "code"), blocks("python"), ids=[name for name, _ in blocks("python")])
def test_python_block_runs(folder, name, code):
    exec(compile(code, name, "exec"), {"__name__": "__main__"})


COMMANDS = [(name, line) for name, text in blocks("bash") for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize(("name", "line"), COMMANDS, ids=[f"{name}:{line[:50]}" for name, line in COMMANDS])
def test_command_runs(folder, name, line):
    words = shlex.split(line)
    if words[:2] == ["pip", "install"]:
        assert words[2] == "mobile-sam"  # installed by `make demo` and by the environment of these tests
        return
    assert words[0] == "mobile-sam"
    command = [sys.executable, "-c", "from mobile_sam.cli.main import run; run()", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"}, check=False)
    assert done.returncode == 0, done.stderr
    for option, value in itertools.pairwise(words):
        if option in ("-o", "--json"):
            stem = Path(value)
            numbered = list(folder.glob(f"{stem.stem}-*{stem.suffix}"))
            files = ("report.json", "summary.json", "*/metadata.csv")  # of which each command writes one
            is_folder = any(any((folder / stem).glob(file)) for file in files)
            assert (folder / stem).is_file() or is_folder or len(numbered) == 3


def test_first_commands_of_the_training_page_run_one_after_the_other(folder):
    """As they stand, but for other pictures and fewer steps."""
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copy(folder / "examples" / "rocket.jpg", folder / "photo.jpg")
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```sh\n(mobile-sam distill embed.*?)^```", text, re.M | re.S)
    fewer = " --set max_steps=2 --set batch_size=2 --set num_held_out=1 --set num_workers=0"
    for line in block.replace("my_pictures/", "examples/").splitlines():
        words = shlex.split(line + (fewer if " train " in line else ""))
        command = [sys.executable, "-c", "from mobile_sam.cli.main import run; run()", *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (folder / "everything.png").is_file()


def test_blocks_of_the_bulk_page_run_one_after_the_other(folder):
    text = (ROOT / "docs/bulk.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(bash|python)\n(.*?)^```", text, re.M | re.S)
    assert [language for language, _ in found] == ["bash", "python", "python"]
    for language, code in found:
        if language == "python":
            exec(compile(code, "docs/bulk.md", "exec"), {"__name__": "__main__"})
            continue
        for line in code.splitlines():
            command = [sys.executable, "-c", "from mobile_sam.cli.main import run; run()", *shlex.split(line)[1:]]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    for file in ("masks/coco.json", "masks/yolo/data.yaml", "embedded/summary.json", "from_python/summary.json"):
        assert (folder / file).is_file()


def test_first_screen_has_picture_install_line_and_code():
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:22]
    text = "\n".join(first_screen)
    picture = re.search(r"!\[.*\]\((.*)\)", text)
    assert picture is not None
    assert (ROOT / picture[1]).is_file()
    assert "pip install mobile-sam" in text
    assert "predictor.predict(" in text


@pytest.mark.parametrize(
    "page",
    [
        *PAGES, DEPLOY, "CHANGELOG.md", "benchmarks/README.md", "docs/architecture.md", "docs/evaluation.md",
        "docs/training.md", "docs/log.md", "docs/bulk.md", "docs/scale.md",
    ],
)  # fmt: skip
def test_links_between_pages_lead_somewhere(page):
    text = re.sub(r"^```.*?^```|`[^`]*`", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    missing = [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()]
    assert missing == []


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folders that the deploy page loads, all with the bundled model in fp32, since quantizing takes minutes."""
    root = tmp_path_factory.mktemp("deploy")
    source = exporter.resolve_model("mobile_sam", None, None, root)
    for name, options in (
        ("onnx-fp32", ExportOptions(precision="fp32", preprocess=True)),
        ("openvino-int8", ExportOptions(precision="fp32")),
    ):
        target, folder = get_target(name.partition("-")[0]), root / "exported" / name
        folder.mkdir(parents=True)
        written = target.write(source.sam, options, folder)
        exporter.make_manifest(target.spec(), source, options, written, folder).write(folder)
    return root / "exported"


def deploy_block(number: int) -> str:
    return blocks("python", (DEPLOY,))[number][1]


def test_the_graphs_by_hand_as_on_the_deploy_page_give_the_mask_of_the_predictor(folder, exported, onnx_predictor):
    (folder / "exported").symlink_to(exported)
    by_hand: dict[str, np.ndarray] = {}
    exec(compile(deploy_block(0), DEPLOY, "exec"), by_hand)
    onnx_predictor.set_image("examples/coffee.png")
    masks, scores, _ = onnx_predictor.predict(point_coords=[[330, 190]], point_labels=[1])
    expected, found = masks[scores.argmax()], by_hand["mask"]
    assert np.count_nonzero(expected & found) / np.count_nonzero(expected | found) > 0.99
    assert np.allclose(by_hand["scores"][0, 1:], scores, atol=1e-3)


@pytest.mark.parametrize("number", range(1, len(blocks("python", (DEPLOY,)))))
def test_python_block_of_the_deploy_page_runs(folder, exported, number):
    (folder / "exported").symlink_to(exported)
    exec(compile(deploy_block(number), DEPLOY, "exec"), {"__name__": "__main__"})


def test_python_blocks_of_the_deploy_page_that_are_not_run_are_python():
    unrun = blocks("python no-run", (DEPLOY,))
    assert unrun
    for name, code in unrun:
        compile(code, name, "exec")


EXPORTS = [
    line
    for _, text in blocks("sh", (*PAGES, DEPLOY))
    for line in text.splitlines()
    if line.startswith("mobile-sam export ")
]


@pytest.mark.parametrize("line", EXPORTS)
def test_export_command_has_a_target_that_takes_its_options(monkeypatch, line):
    def check(model, target, out, options, **how):
        exporter.check_options(exporter.find_target(target).spec(), options)
        raise typer.Exit

    monkeypatch.setattr(exporter, "export", check)
    ended = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
    assert ended.exit_code == 0, ended.exception


def test_deploy_page_has_a_row_of_parity_for_each_target_and_precision():
    text = (ROOT / DEPLOY).read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| ([a-z-]+)[^|]* \| (fp32|fp16|bf16|int8) \|", text, re.M))
    specs = [get_target(name).spec() for name in target_names()]
    assert rows == {(spec.name, precision) for spec in specs for precision in spec.precisions}


def test_links_within_the_deploy_page_lead_to_its_headings():
    text = (ROOT / DEPLOY).read_text(encoding="utf-8")
    titles = re.findall(r"^##+ (.*)$", text, re.M)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors

"""Every block of code in the README and the guide runs as it stands, in a folder that has examples/ beside it."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/guide.md")


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
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
            is_folder = (folder / stem / "report.json").is_file() or any((folder / stem).glob("*/metadata.csv"))
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


def test_first_screen_has_picture_install_line_and_code():
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:22]
    text = "\n".join(first_screen)
    picture = re.search(r"!\[.*\]\((.*)\)", text)
    assert picture is not None
    assert (ROOT / picture[1]).is_file()
    assert "pip install mobile-sam" in text
    assert "predictor.predict(" in text


@pytest.mark.parametrize(
    "page", [*PAGES, "CHANGELOG.md", "docs/architecture.md", "docs/evaluation.md", "docs/training.md", "docs/log.md"]
)
def test_links_between_pages_lead_somewhere(page):
    text = re.sub(r"^```.*?^```|`[^`]*`", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    missing = [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()]
    assert missing == []

"""The import rules of docs/architecture.md, held by reading every file of the package and by importing it."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mobile_sam

PACKAGE = Path(mobile_sam.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(["mobile_sam", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in FILES
}

# A module may import from its own layer and from lower ones.
LAYERS = [
    {"_version", "core"},
    {"data"},
    {"modeling", "utils"},
    {"checkpoint_files"},
    {"build_sam"},
    {"engines"},
    {"predictor"},
    {"everything"},
    {"automatic_mask_generator"},
    {"results", "one_call"},
    {"evaluate", "export"},
    {"distill"},
    {"bulk", "serve"},
    {"cli"},
]
MAY_IMPORT_TORCH = (
    "build_sam",
    "checkpoint_files",
    "distill",
    "engines.cuda_graphs",
    "engines.pytorch",
    "engines.tensors",
    "export",
    "modeling",
    "utils.onnx",
)
"""At module level; the others may only inside a function that has to do with torch."""


TELLS_TYPER = r"(app|data_app|distill_app|evaluate_app)\.(command\(\)\(|add_typer\()"
"""How a command is announced: the one thing that runs on import."""


def layer_of(module: str) -> int:
    part = module.split(".")[1]
    found = [index for index, layer in enumerate(LAYERS) if part in layer]
    assert found, f"mobile_sam.{part} has no layer; say in LAYERS (and in docs/architecture.md) what it may import"
    return found[0]


def imports_in(node: ast.AST, module: str) -> Iterator[str]:
    """Full names of the modules that the import statements in a tree name, relative ones resolved."""
    is_package = MODULES[module].name == "__init__.py"
    for statement in ast.walk(node):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            package = module if is_package else module.rpartition(".")[0]
            source = importlib.util.resolve_name("." * statement.level + (statement.module or ""), package)
            for alias in statement.names:
                is_module = f"{source}.{alias.name}" in MODULES
                yield f"{source}.{alias.name}" if is_module else source


def module_level(tree: ast.Module) -> list[ast.stmt]:
    """The statements that run on import: what only a type checker reads left out."""
    return [
        statement
        for statement in tree.body
        if not (isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING")
        and not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    ]


@pytest.fixture(params=MODULES)
def module(request):
    return request.param


@pytest.fixture
def tree(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def test_arrows_point_one_way(module, tree):
    if module == "mobile_sam":
        return  # the list of public names: what it loads, and when, is held below
    ours = [name for name in imports_in(tree, module) if name.split(".")[0] == "mobile_sam"]
    assert "mobile_sam" not in ours, "import from the module where a name lives, not from the list of public names"
    upwards = [name for name in ours if layer_of(name) > layer_of(module)]
    assert upwards == []


def test_core_knows_nothing_but_itself(module, tree):
    if not module.startswith("mobile_sam.core"):
        return
    names = list(imports_in(tree, module))
    assert [name for name in names if name.split(".")[0] in ("torch", "onnxruntime", "openvino")] == []
    assert [name for name in names if name.startswith("mobile_sam.") and not name.startswith("mobile_sam.core")] == []


def test_torch_is_imported_on_top_only_where_everything_needs_it(module, tree):
    on_top = {name.split(".")[0] for statement in module_level(tree) for name in imports_in(statement, module)}
    assert on_top & {"onnxruntime", "openvino"} == set()
    if not module.removeprefix("mobile_sam.").startswith(MAY_IMPORT_TORCH):
        assert on_top & {"torch", "onnx", "safetensors"} == set()


def test_importing_does_no_work(module, tree):
    """Names are bound; nothing is run, registered, looped over or opened. Typer's commands are the one exception."""
    for statement in module_level(tree):
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        is_command = module == "mobile_sam.cli.main" and re.match(TELLS_TYPER, ast.unparse(statement))
        is_binding = isinstance(statement, (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign))
        assert is_docstring or is_command or is_binding, f"line {statement.lineno}: {ast.unparse(statement)[:80]}"


def test_no_function_changes_a_global(tree):
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Global)] == []


def test_importing_all_that_is_torch_free_loads_no_torch_and_no_engine():
    torch_free = [name for name in MODULES if not name.removeprefix("mobile_sam.").startswith(MAY_IMPORT_TORCH)]
    assert len(torch_free) > 25
    code = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'onnxruntime', 'openvino', 'cv2', 'PIL', 'pycocotools'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, json.dumps(torch_free)], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("name", ["SAM", "SamPredictor", "Prompt", "Embedding", "Results", "read_image"])
def test_a_public_name_is_usable_where_torch_is_not_installed(name):
    code = f"import sys; sys.modules['torch'] = None\nfrom mobile_sam import {name}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_every_public_name_exists_and_is_listed():
    assert sorted(mobile_sam.__all__) == sorted([*mobile_sam._HOMES, "__version__"])
    for name, home in mobile_sam._HOMES.items():
        assert home in MODULES
        assert f"def {name}(" in (text := MODULES[home].read_text()) or f"class {name}" in text or f"\n{name}" in text
    with pytest.raises(AttributeError, match="has no attribute 'sam_everything'; it has"):
        _ = mobile_sam.sam_everything

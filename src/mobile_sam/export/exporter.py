"""Export: check what is asked for, write the files of a target, and print on the box how near to PyTorch they are.

Nothing heavy is imported before what can be checked without it has been checked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mobile_sam._version import __version__
from mobile_sam.core.embedding import EMBEDDING_STRIDE
from mobile_sam.core.errors import MissingDependencyError
from mobile_sam.core.files import atomic_folder
from mobile_sam.core.manifest import ExportManifest
from mobile_sam.core.weights import (
    DECODER_GRAPH,
    ENCODER_GRAPH,
    FOLDER_WEIGHTS,
    MANIFEST_FILE,
    find_checkpoint,
    is_bundled_name,
    sha256_of_file,
)
from mobile_sam.evaluate.machine import package_versions
from mobile_sam.export.parity import ParityError, ParityTask, measure_parity
from mobile_sam.export.parity_report import ParityReport
from mobile_sam.export.pictures import find_pictures
from mobile_sam.export.target import ExportOptions, TargetSpec, Written
from mobile_sam.export.targets import Target, get_target, target_names

if TYPE_CHECKING:
    from mobile_sam.modeling.sam import Sam

EXPORT_FOLDER = "exported"
OPTION_FLAGS = {"input_hw": "input-size", "calibration": "calibration"}
"""The command's name of an option where it is not that of the field."""

SAME_PICTURES_NOTE = (
    "int8 was calibrated with the built-in pictures, on which parity was measured too; --pictures measures it on others"
)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class ExportResult:
    """What an export came to.

    Attributes:
        folder: where the files are.
        manifest: what they are.
        report: how near to PyTorch, how fast.
    """

    folder: Path
    manifest: ExportManifest
    report: ParityReport


def export(
    model: Sam | str | Path,
    target: str,
    folder: str | Path | None,
    options: ExportOptions,
    *,
    input_side: int | None = None,
    pictures: Sequence[str | Path] = (),
    checks_bound: bool = True,
    num_threads: int = 0,
    on_progress: Tell | None = None,
) -> ExportResult:
    """Export a model for a target, with its parity report; whole or not at all.

    Args:
        model: a module, which is not changed; a checkpoint or model folder; or "mobile_sam" for the bundled weights.
        target: one of `target_names()`.
        folder: where, a new one; None for exported/TARGET-PRECISION.
        options: what is asked for.
        input_side: side of the model frame in pixels, where it shall be another than the model's own; TinyViT only.
        pictures: files and folders for the parity report; none for the built-in ones.
        checks_bound: refuse an export that is farther from PyTorch than its target promises. False keeps it, and the
            report says that it is below.
        num_threads: CPU threads of all that is measured; 0 for each one's own choice.
        on_progress: told what is being done, a short line each.

    Raises:
        ValueError: something that the target or the model cannot do, an output folder that exists, pictures or
            checkpoints that are missing or damaged. MissingDependencyError: packages are missing; names the extra.
        ParityError: the export is below the bound, or does not run; it is a ValueError.
    """
    if folder is not None:
        _check_new(Path(folder))
    if input_side is not None and (input_side < 1 or input_side % EMBEDDING_STRIDE):
        raise ValueError(f"the input size must be a multiple of {EMBEDDING_STRIDE} px, got {input_side}")
    if isinstance(model, (str, Path)):
        find_checkpoint(model)
    chosen = find_target(target)
    spec = chosen.spec()
    options = check_options(spec, options)
    folder = Path(folder or default_folder(target, str(options.precision)))
    _check_new(folder)
    files = _readable(find_pictures(pictures))
    find_pictures(options.calibration)
    _check_packages(spec)
    tell = on_progress or (lambda line: None)
    with tempfile.TemporaryDirectory(prefix="mobile-sam-") as workspace:
        tell("reading the model")
        source = resolve_model(model, input_side, options.input_hw, Path(workspace))
        if options.input_hw == (source.side, source.side):
            options = replace(options, input_hw=None)
        with atomic_folder(folder) as temporary:
            tell(f"writing {target} {options.precision}")
            written = chosen.write(source.sam, options, temporary)
            if "calibration" in spec.options and options.precision == "int8" and not (options.calibration or pictures):
                written = replace(written, notes=(*written.notes, SAME_PICTURES_NOTE))
            manifest = make_manifest(spec, source, options, written, temporary)
            manifest.write(temporary)
            task = ParityTask(temporary, source.weights, source.folder, options.use_stability_score, num_threads)
            report = make_report(spec, manifest, written, task, files, Path(workspace), tell)
            if checks_bound and report.missed:
                advice = "nothing was written; --below-bound (checks_bound=False) keeps the files all the same"
                raise ParityError(f"{report.table()}\n\nthe export is below the bound of its target; {advice}")
            report.write(temporary)
    return ExportResult(folder, manifest, report)


def make_report(
    spec: TargetSpec,
    manifest: ExportManifest,
    written: Written,
    task: ParityTask,
    pictures: Sequence[Path],
    workspace: Path,
    tell: Tell,
) -> ParityReport:
    """Measure parity, where the files run here, and say what is known.

    Raises:
        ParityError: they do not run although they should.
    """
    run_folder = workspace / "parity"
    run_folder.mkdir()
    parity = measure_parity(task, pictures, run_folder, tell) if spec.not_run_here is None else None
    sizes = {name: (task.folder / name).stat().st_size for name in manifest.files}
    bound = spec.bounds[manifest.precision]
    return ParityReport(manifest, bound, parity, spec.not_run_here, sizes, written.facts)


def find_target(name: str) -> Target:
    """Return a target by its name.

    Raises:
        ValueError: there is none of that name. MissingDependencyError: not even its description can be had.
    """
    try:
        return get_target(name)
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "torch"):
            raise
        advice = f"export needs {error.name}, which is not installed; run: pip install 'mobile-sam[export]'"
        raise MissingDependencyError(advice, name=error.name) from error


def default_folder(target: str, precision: str) -> Path:
    """Where an export goes unless told."""
    return Path(EXPORT_FOLDER) / f"{target}-{precision}"


def check_options(spec: TargetSpec, options: ExportOptions) -> ExportOptions:
    """Check what is asked for against what a target has, and return it with the precision filled in.

    Raises:
        ValueError: a precision or an option that the target does not have; says which it has.
    """
    precision = options.precision or spec.precisions[0]
    if precision not in spec.precisions:
        raise ValueError(f"target {spec.name} has no precision {precision!r}; it has {', '.join(spec.precisions)}")
    beyond = sorted(options.asked_for() - spec.options - {"precision"})
    if beyond:
        taken = ", ".join(f"--{_flag(name)}" for name in sorted(spec.options)) or "none"
        raise ValueError(
            f"target {spec.name} does not take {', '.join(f'--{_flag(name)}' for name in beyond)}; "
            f"of the options beside --precision it takes: {taken}"
        )
    return replace(options, precision=precision)


def _flag(option: str) -> str:
    return OPTION_FLAGS.get(option, option.replace("_", "-"))


def _check_new(folder: Path) -> None:
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} exists; name a new folder with -o, since nothing is overwritten")


def _readable(pictures: Sequence[Path]) -> Sequence[Path]:
    """Read each picture once, since it is known only then whether it can be."""
    from mobile_sam.core.images import read_image

    for path in pictures:
        read_image(path)
    return pictures


def _check_packages(spec: TargetSpec) -> None:
    missing = [name for name in dict.fromkeys(("torch", "onnx", *spec.packages)) if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"target {spec.name} needs {', '.join(missing)}, not installed here; "
            f"run: pip install 'mobile-sam[{spec.extra}]'",
            name=missing[0],
        )


@dataclass(frozen=True, eq=False)
class ModelSource:
    """The model that is exported.

    Attributes:
        sam: in eval mode, on the CPU, in fp32.
        name: in `sam_model_registry`.
        folder: the same model for the default engine; None for the bundled one.
    """

    sam: Sam
    name: str
    folder: Path | None

    @property
    def weights(self) -> Path | None:
        """The weights' file; None for the bundled one."""
        return None if self.folder is None else self.folder / FOLDER_WEIGHTS

    @property
    def side(self) -> int:
        """Side of the model frame in pixels."""
        return self.sam.image_encoder.img_size


def resolve_model(
    model: Sam | str | Path, input_side: int | None, input_hw: tuple[int, int] | None, workspace: Path
) -> ModelSource:
    """Make the model, and a folder of it for the default engine where it is not the bundled one.

    Args:
        model: see `export`.
        input_side: see there.
        input_hw: see `ExportOptions`.
        workspace: where the folder goes.

    Raises:
        FileNotFoundError, ValueError: as `export_model`; or an input size that the model does not have.
    """
    from mobile_sam.build_sam import identify_checkpoint, sam_from_checkpoint, sam_model_registry
    from mobile_sam.export.model_folder import export_model

    sam = sam_from_checkpoint(model) if isinstance(model, (str, Path)) else model
    name = identify_checkpoint(sam.state_dict())
    if name is None:
        raise ValueError(f"the model is none of those known here: {', '.join(sam_model_registry)}")
    is_as_given = input_side in (None, sam.image_encoder.img_size)
    if input_side is not None and not is_as_given:
        sam = _built_for(sam, name, input_side)
    _check_input_hw(input_hw, sam.image_encoder.img_size)
    if is_as_given and isinstance(model, (str, Path)):
        if is_bundled_name(model):
            return ModelSource(sam, name, None)
        if all((Path(model) / file).is_file() for file in (FOLDER_WEIGHTS, ENCODER_GRAPH, DECODER_GRAPH)):
            return ModelSource(sam, name, Path(model))
    folder = export_model(sam, workspace / "model", name=name)
    return ModelSource(sam_from_checkpoint(folder / FOLDER_WEIGHTS), name, folder)


def _built_for(sam: Sam, name: str, input_side: int) -> Sam:
    """Build a model with the same weights for another input side."""
    from mobile_sam.build_sam import TINY_VIT_NAMES, sam_model_registry

    if name not in TINY_VIT_NAMES:
        raise ValueError(
            f"the input size of {name} is {sam.image_encoder.img_size} px and cannot be changed to {input_side} px: "
            f"only TinyViT models can ({', '.join(TINY_VIT_NAMES)})"
        )
    built = sam_model_registry[name](None, input_side=input_side)
    built.load_state_dict(sam.state_dict())
    return built


def _check_input_hw(input_hw: tuple[int, int] | None, side: int) -> None:
    if input_hw is not None and max(input_hw) != side:
        raise ValueError(
            f"the input size {input_hw[0]}x{input_hw[1]} (height x width) does not fit the model, whose longer side is "
            f"{side} px: both must be multiples of {EMBEDDING_STRIDE} px and the longer one {side}; for a smaller "
            "square, --input-size S (input_side=S) builds the model for that side, if it is a TinyViT"
        )


def make_manifest(
    spec: TargetSpec, source: ModelSource, options: ExportOptions, written: Written, folder: Path
) -> ExportManifest:
    """Describe what a target wrote to a folder, with the sha256 of each file there."""
    from mobile_sam.engines.pytorch import TorchEngine

    side = source.side
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return ExportManifest(
        target=spec.name,
        runtime=written.runtime,
        precision=str(options.precision),
        model_id=TorchEngine(source.sam, device="cpu").model_id,
        architecture=source.name,
        input_side=side,
        input_hw=options.input_hw or (side, side),
        has_preprocessing=options.preprocess,
        num_prompts=written.num_prompts,
        num_points=written.num_points,
        graphs=dict(written.graphs),
        files={name: sha256_of_file(folder / name) for name in names if name != MANIFEST_FILE},
        versions={"mobile-sam": __version__, **versions_of(("torch", *spec.packages))},
        notes=written.notes,
    )


def versions_of(import_names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the packages that bring modules, by the packages' names on PyPI."""
    from importlib.metadata import packages_distributions

    brought_by = packages_distributions()
    return package_versions(dict.fromkeys(package for name in import_names for package in brought_by.get(name, [name])))


def describe_targets() -> list[TargetSpec]:
    """Describe all targets, in the order of their names.

    Raises:
        MissingDependencyError: as `find_target`.
    """
    return [find_target(name).spec() for name in target_names()]

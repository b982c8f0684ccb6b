"""`mobile-sam info`: what is installed and what it can do."""

from __future__ import annotations


def info() -> None:
    """Print version, engines, weights and parameter counts."""
    import platform

    from mobile_sam._version import __version__
    from mobile_sam.core.weights import BUNDLED, bundled_weights_path, count_parameters, verify_bundled_weights
    from mobile_sam.engines import ENGINES, choose_engine

    print(f"mobile-sam {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print("\nengines")
    for name in ENGINES:
        print(f"  {name:12} {_describe(name)}")
    chosen, reason = choose_engine()
    print(f"  {'auto':12} {chosen}: {reason}")
    verify_bundled_weights()
    path = bundled_weights_path()
    print(f"\nweights\n  {path} ({path.stat().st_size / 1e6:.1f} MB)")
    print(f"  sha256 {BUNDLED.file_sha256} (verified)")
    print(f"  made from {BUNDLED.source_url}\n  sha256 {BUNDLED.source_sha256}, {BUNDLED.licence}")
    counts = count_parameters(path)
    print("\nparameters")
    for part, count in counts.items():
        print(f"  {part:15} {count:>10,}")
    print(f"  {'all':15} {sum(counts.values()):>10,}")


def _describe(engine_name: str) -> str:
    """Say what is known of an engine, or why it cannot run."""
    from mobile_sam.engines import describe_engine, why_unavailable

    try:
        return why_unavailable(engine_name) or describe_engine(engine_name)
    except ImportError as error:
        return f"is installed but does not work: {error}"

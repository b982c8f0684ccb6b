import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

import mobile_sam.engines
from mobile_sam.cli import main


@dataclass
class Outcome:
    """How a command ended."""

    exit_code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch, capsys, onnx_predictor, cat_embedding) -> Callable[..., Outcome]:
    """Run `mobile-sam ...` in this process, the networks loaded once and every picture taken for chelsea.png."""
    make_engine = mobile_sam.engines.make_engine
    engine = onnx_predictor.engine
    monkeypatch.setattr(engine, "encode", lambda images, **_: [cat_embedding for _ in images])

    def take_loaded(name, model=None, *, precision=None):
        is_default = (name, model, precision) == ("auto", None, None)
        return engine if is_default else make_engine(name, model, precision=precision)

    monkeypatch.setattr(mobile_sam.engines, "make_engine", take_loaded)

    def run_with(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mobile-sam", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.run()
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run_with

"""The measuring: in-process with a scripted worker where numbers must be foreseen, else with real processes."""

import contextlib
import io
import json
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mobile_sam import SamPredictor
from mobile_sam.evaluate import latency, worker_process
from mobile_sam.evaluate.latency import LatencyProtocol, measure_latency
from mobile_sam.evaluate.latency_worker import LatencyWorker, WorkerError, WorkerProcess, serve
from mobile_sam.evaluate.models import ModelSpec

A, B, C = (ModelSpec(name, "onnxruntime") for name in "abc")
QUICK = LatencyProtocol(num_starts=1, num_rounds=1, prompt_counts=(1, 3), warmup_rounds=0, pause_s=0)


@pytest.fixture
def pictures(examples):
    return [examples / "chelsea.png", examples / "rocket.jpg"]  # 451 x 300, 640 x 427 (width x height)


# A scripted worker: its n-th encoding takes n seconds, and it dies where it is told to


class ScriptedWorker:
    log: list[tuple]  # (model, command, fields)
    open_workers: list
    dies_at: tuple[str, str, int] | None  # model, command, how many of these it answers before

    def __init__(self):
        self.model, self.counts = "", {}
        self.open_workers.append(self)

    def ask(self, command, **fields):
        self.model = fields["model"]["name"] if command == "load" else self.model
        self.log.append((self.model, command, fields))
        self.counts[command] = self.counts.get(command, 0) + 1
        if self.dies_at and self.dies_at[:2] == (self.model, command) and self.counts[command] > self.dies_at[2]:
            raise WorkerError(f"its process ended at {command!r} with code 9: gone")
        count = self.counts[command]
        if command == "load":
            return {"import_s": 0.25, "make_engine_s": 0.5, "peak_mb": 10.0}
        if command == "facts":
            return {"name": self.model, "weights_sha256": "0"}
        if command == "everything":
            return {"seconds": 10.0 * count, "num_masks": 3, "peak_mb": 5000.0 + count}
        return {"seconds": float(count), "peak_mb": 100.0 * count + (command != "encode")}

    def seconds_since_start(self):
        return 1.5

    def close(self, kill=False):
        if self in self.open_workers:
            self.open_workers.remove(self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(latency, "WorkerProcess", ScriptedWorker)
    ScriptedWorker.log, ScriptedWorker.open_workers, ScriptedWorker.dies_at = [], [], None
    return ScriptedWorker


def row_of(result, model, stage, picture):
    (row,) = [row for row in result.rows if (row.model, row.stage, row.picture) == (model, stage, picture)]
    return row


def test_the_warm_up_does_not_count(scripted, pictures):
    protocol = LatencyProtocol(num_starts=2, num_rounds=3, warmup_rounds=2, prompt_counts=(), pause_s=0)
    result = measure_latency(protocol, [A], pictures[:1])
    row = row_of(result, "a", "encode", "chelsea.png")
    assert (row.min_s, row.median_s, row.num) == (3.0, 4.0, 3)  # encodings 1 and 2 were the warm-up
    start = row_of(result, "a", "start", "")
    assert (start.median_s, start.iqr_s, start.num) == (1.5, 0, 2)
    assert row_of(result, "a", "import", "").median_s == 0.25
    assert row_of(result, "a", "make engine", "").median_s == 0.5


def test_models_take_turns_and_their_order_rotates(scripted, pictures):
    protocol = LatencyProtocol(num_starts=2, num_rounds=3, warmup_rounds=0, prompt_counts=(), pause_s=0)
    measure_latency(protocol, [A, B, C], pictures)
    loads = "".join(model for model, command, _ in scripted.log if command == "load")
    assert loads == "abc" + "abc" + "bca"  # those to keep, then two starts of each
    encodings = "".join(model for model, command, _ in scripted.log if command == "encode")
    assert encodings == "abcabc" + "bcabca" + "cabcab"  # each round: both pictures


def test_all_models_and_rounds_get_the_same_points_within_the_picture(scripted, pictures):
    protocol = LatencyProtocol(num_starts=0, num_rounds=2, prompt_counts=(1, 2, 50), num_masks=1, pause_s=0)
    measure_latency(protocol, [A, B], pictures)
    asked = [fields for _, command, fields in scripted.log if command in ("click", "prompts")]
    points_of_count = {count: [] for count in (1, 2, 50)}
    for fields in asked:
        assert fields["multimask"] is False
        points_of_count[len(fields["points_xy"])].append(fields["points_xy"])
    for several in points_of_count.values():
        assert len(several) == 3 * 2 * 2  # rounds with the warm-up, pictures, models
        assert len({json.dumps(points_xy) for points_xy in several}) == 2  # one choice for each picture
    (most, *_), (click, *_) = points_of_count[50], points_of_count[1]
    assert click == most[:1]
    assert (np.array(most) >= 0).all()
    assert (np.array(most) < [451, 300]).all()
    assert np.ptp(np.array(most), axis=0) == pytest.approx([451, 300], rel=0.2)  # all over the picture


def test_the_seed_chooses_the_points(scripted, pictures):
    chosen = set()
    for seed in (0, 1, 0):
        scripted.log.clear()
        protocol = LatencyProtocol(num_starts=0, num_rounds=1, prompt_counts=(5,), pause_s=0, seed=seed)
        measure_latency(protocol, [A], pictures[:1])
        chosen |= {json.dumps(fields["points_xy"]) for _, command, fields in scripted.log if command == "prompts"}
    assert len(chosen) == 2


def test_memory_is_that_after_the_start_the_first_encoding_and_the_end(scripted, pictures):
    protocol = LatencyProtocol(num_starts=1, num_rounds=2, warmup_rounds=1, prompt_counts=(1,), pause_s=0)
    (row,) = measure_latency(protocol, [A], pictures[:1]).memory
    assert (row.after_start_mb, row.after_encode_mb, row.after_prompts_mb) == (10.0, 100.0, 301.0)


def test_everything_is_segmented_in_rounds_of_its_own_with_models_taking_turns(scripted, pictures):
    protocol = LatencyProtocol(
        num_starts=0, num_rounds=1, warmup_rounds=1, prompt_counts=(), pause_s=0, everything=("exact", "fast"),
        everything_rounds=2,
    )  # fmt: skip
    told = []
    result = measure_latency(protocol, [A, B], pictures, lambda *numbers: told.append(numbers))
    asked = [(model, fields["mode"]) for model, command, fields in scripted.log if command == "everything"]
    assert asked == [
        (model, mode) for models in ("abab", "baba") for model in models for mode in ("exact", "fast")
    ]  # each round: both pictures
    commands = [command for _, command, _ in scripted.log]
    assert commands.index("everything") > len(commands) - 1 - commands[::-1].index("encode")
    row = row_of(result, "a", "everything fast", "rocket.jpg")
    assert row.rounds_s == (40.0, 80.0)  # the fourth and the eighth that the worker has done
    assert [ratio.num for ratio in result.ratios if ratio.stage == "everything exact"] == [2] * 3  # and their mean
    assert [memory.after_everything_mb for memory in result.memory] == [5008.0, 5008.0]
    assert told[-1] == (len(told), 0, len(told))
    assert len(told) == 2 * (1 + 2 * 2 + 2 * 2 + 1)  # models * (start, rounds, rounds of everything, facts)


def test_progress_reaches_its_end(scripted, pictures):
    told = []
    protocol = LatencyProtocol(num_starts=2, num_rounds=3, warmup_rounds=1, pause_s=0)
    measure_latency(protocol, [A, B], pictures, lambda *numbers: told.append(numbers))
    num_turns = 2 * (1 + 2 + 4 * 2 + 1)  # models * (kept start, starts, rounds * pictures, facts)
    assert told == [(done, 0, num_turns) for done in range(1, num_turns + 1)]


@pytest.mark.parametrize(
    ("dies_at", "what"),
    [
        (("b", "load", 0), "first start"),
        (("b", "encode", 0), "warm-up, chelsea.png"),
        (("b", "prompts", 3), "round 2 of 2, rocket.jpg"),
        (("b", "facts", 0), "facts"),
    ],
)
def test_a_model_that_gives_out_is_reported_and_the_others_go_on(scripted, pictures, dies_at, what):
    protocol = LatencyProtocol(num_starts=1, num_rounds=2, warmup_rounds=int("warm" in what), pause_s=0)
    protocol = LatencyProtocol(**{**protocol.to_json(), "prompt_counts": (1, 3)})
    scripted.dies_at = dies_at
    told = []
    result = measure_latency(protocol, [B, A, C], pictures, lambda *numbers: told.append(numbers))
    (failure,) = result.failures
    assert (failure.kind, failure.where) == ("failed model", "model b")
    assert failure.message == f"{what}: its process ended at {dies_at[1]!r} with code 9: gone"
    assert {row.model for row in result.rows} == {row.model for row in result.memory} == {"a", "c"}
    assert {facts["name"] for facts in result.models} == {"a", "c"}
    assert {row.num for row in result.rows if row.stage == "encode"} == {2}
    assert {ratio.baseline for ratio in result.ratios} == {"a"}  # the first that is left
    assert scripted.open_workers == []
    assert told[-1][:2] == (told[-1][2], 1)


def test_that_all_models_failed_is_a_result_too(scripted, pictures):
    scripted.dies_at = ("a", "encode", 0)
    result = measure_latency(QUICK, [A], pictures)
    assert (result.rows, result.ratios, result.memory) == ((), (), ())
    assert result.tables() == []


def test_broken_pictures_are_reported_and_names_that_repeat_are_told_apart(scripted, pictures, tmp_path):
    broken, copy = tmp_path / "broken.png", tmp_path / "chelsea.png"
    broken.write_bytes(b"\x89PNG and nothing else")
    shutil.copy(pictures[0], copy)
    result = measure_latency(QUICK, [A], [broken, pictures[0], copy, pictures[1], tmp_path / "missing.png"])
    assert [problem.kind for problem in result.failures] == ["broken picture"] * 2
    assert [problem.where for problem in result.failures] == ["picture broken.png", "picture missing.png"]
    assert result.num_pictures == 3
    names = {row.picture for row in result.rows if row.stage == "encode"}
    assert names == {
        "all pictures", "rocket.jpg", f"{pictures[0].as_posix()} (2)", f"{copy.as_posix()} (3)",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("models", "names", "message"),
    [
        ([], ["chelsea.png"], r"needs models, each with a name of its own, got \[\]"),
        ([A, A], ["chelsea.png"], r"got \['a', 'a'\]; see with_unique_names"),
        ([A], [], "needs a picture, got 0"),
        ([A], ["no.png"], r"got 1, none of which can be read; the first: .*no\.png"),
    ],
)
def test_nothing_to_measure_is_refused(scripted, examples, models, names, message):
    with pytest.raises(ValueError, match=message):
        measure_latency(QUICK, models, [examples / name for name in names])
    assert scripted.log == []


# The model's end


@pytest.fixture
def disc_worker(disc_engine, monkeypatch):
    monkeypatch.setattr(ModelSpec, "make", lambda self, num_threads: disc_engine)
    return LatencyWorker()


def test_a_worker_runs_the_whole_path_and_times_it(disc_worker, pictures, monkeypatch):
    asked = []
    real = SamPredictor.predict_batch

    def spied(self, prompts, multimask_output=True, return_logits=False):
        predictions = real(self, prompts, multimask_output, return_logits)
        asked.append([(prompt.points_xy.tolist(), prompt.labels.tolist()) for prompt in prompts])
        asked.append([prediction.masks.shape for prediction in predictions])
        return predictions

    monkeypatch.setattr(SamPredictor, "predict_batch", spied)
    loaded = disc_worker.load({"name": "disc"}, 0)
    assert set(loaded) == {"import_s", "make_engine_s", "peak_mb"}
    answers = [
        disc_worker.encode(str(pictures[0])),
        disc_worker.click([[10.5, 20.0]], True),
        disc_worker.prompts([[1.0, 2.0], [3.0, 4.0]], False),
    ]
    assert all(answer["seconds"] > 0 for answer in answers)
    assert asked == [
        [([[10.5, 20.0]], [1])],
        [(3, 300, 451)],
        [([[1.0, 2.0]], [1]), ([[3.0, 4.0]], [1])],
        [(1, 300, 451), (1, 300, 451)],
    ]


def test_a_worker_segments_everything_in_the_mode_that_was_asked(disc_worker, pictures, monkeypatch):
    made = []

    class Generator:
        @classmethod
        def from_config(cls, config, engine):
            made.append((config.mode, engine.name))
            return cls()

        def generate(self, image):
            made.append(image.shape)
            return [{}, {}]

    monkeypatch.setattr("mobile_sam.automatic_mask_generator.SamAutomaticMaskGenerator", Generator)
    disc_worker.load({"name": "disc"}, 0)
    answers = io.StringIO()
    everything = {"command": "everything", "picture": str(pictures[0]), "mode": "fast"}
    serve(disc_worker, requests(everything), answers)
    answer = json.loads(answers.getvalue())
    assert made == [("fast", "disc"), (300, 451, 3)]
    assert (answer["num_masks"], set(answer)) == (2, {"seconds", "num_masks", "peak_mb"})


@pytest.mark.parametrize(("num_threads", "expected"), [(0, []), (2, [2])])
def test_torch_is_held_to_the_threads_only_where_they_are_given(disc_worker, monkeypatch, num_threads, expected):
    threads = []
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=threads.append))
    disc_worker.load({"name": "disc"}, num_threads)
    assert threads == expected


def requests(*lines):
    return io.StringIO("".join(json.dumps(line) + "\n" for line in lines))


def test_each_request_has_one_line_of_answer(disc_worker, pictures):
    answers = io.StringIO()
    load = {"command": "load", "model": A.to_json(), "num_threads": 1}
    serve(disc_worker, requests(load, {"command": "encode", "picture": str(pictures[0])}), answers)
    first, second = map(json.loads, answers.getvalue().splitlines())
    assert first["make_engine_s"] >= 0
    assert second["seconds"] > 0


def test_a_model_that_cannot_be_made_needs_no_traceback_but_later_errors_do(disc_worker):
    load = {"command": "load", "model": {"name": "x", "engine": "onnxrumtime"}, "num_threads": 0}
    with pytest.raises(SystemExit, match=r"^ValueError: unknown engine 'onnxrumtime'; expected auto"):
        serve(disc_worker, requests(load), io.StringIO())
    load["model"] = A.to_json()
    with pytest.raises(ValueError, match="outside the picture"):
        serve(
            disc_worker,
            requests(
                load,
                {"command": "encode", "picture": str(Path(__file__).parents[2] / "examples" / "chelsea.png")},
                {"command": "click", "points_xy": [[452, 0]], "multimask": True},
            ),
            io.StringIO(),
        )


# Real processes


@pytest.fixture
def processes(monkeypatch):
    """The worker processes that a test makes, in order; at its end all must be gone."""
    made: list[WorkerProcess] = []

    class Recorded(WorkerProcess):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(latency, "WorkerProcess", Recorded)
    yield made
    assert made
    assert [worker.process.returncode for worker in made if worker.process.returncode is None] == []


def test_a_real_model_beside_one_without_its_checkpoint(processes, pictures, tmp_path):
    missing = ModelSpec("tuned", "onnxruntime", str(tmp_path / "tuned.safetensors"))
    result = measure_latency(QUICK, [missing, A], pictures[:1])
    (failure,) = result.failures
    assert failure.where == "model tuned"
    assert failure.message.endswith(f"with code 1: FileNotFoundError: no weights at {missing.checkpoint}")
    assert [row.stage for row in result.rows] == list(QUICK.stages)
    assert all(0 < row.min_s <= row.median_s and row.num == 1 for row in result.rows)
    seconds = {row.stage: row.median_s for row in result.rows}
    assert seconds["import"] + seconds["make engine"] < seconds["start"]
    (facts,) = result.models
    assert (facts["name"], facts["engine"], facts["checkpoint"]) == ("a", "onnxruntime", "bundled")
    if sys.platform == "linux":
        (memory,) = result.memory
        assert 20 < memory.after_start_mb < memory.after_encode_mb <= memory.after_prompts_mb
        assert memory.after_encode_mb < 2000


@pytest.mark.skipif(sys.platform == "win32", reason="a killed process has no signal there")
def test_a_model_killed_in_the_middle_is_reported(processes, pictures):
    def kill_the_first(num_done, num_failed, num_turns):
        if num_done == 4:  # both models are loaded and have started once more; the rounds begin
            processes[0].process.kill()

    result = measure_latency(QUICK, [A, B], pictures[:1], kill_the_first)
    (failure,) = result.failures
    assert failure.where == "model a"
    assert f"its process ended at 'encode' by signal {signal.SIGKILL.name}: nothing on its stderr" in failure.message
    assert {row.model for row in result.rows} == {"b"}


def test_an_interruption_ends_all_processes(processes, pictures):
    def interrupt(num_done, num_failed, num_turns):
        if num_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_latency(QUICK, [A, B], pictures[:1], interrupt)
    assert len(processes) == 2


@contextlib.contextmanager
def worker_whose_load(does, monkeypatch):
    """A real process in which `load` is replaced by a line of Python."""
    code = (
        "import os, sys, time\nsys.path[:] = sys.argv[2:]\n"
        "from mobile_sam.evaluate import latency_worker\n"
        f"def load(self, model, num_threads):\n    {does}\n    return {{}}\n"
        "latency_worker.LatencyWorker.load = load\nlatency_worker.main()\n"
    )
    monkeypatch.setattr(worker_process, "RUN_WORKER", code)
    with WorkerProcess() as worker:
        yield worker


LOAD = {"model": A.to_json(), "num_threads": 0}


def test_what_libraries_print_does_not_get_into_the_answers(monkeypatch):
    with worker_whose_load("print('hello'); os.write(1, b'from C\\n')", monkeypatch) as worker:
        assert worker.ask("load", **LOAD) == {}
        assert worker.ask("load", **LOAD) == {}


def test_a_talkative_worker_does_not_stop(monkeypatch):
    with worker_whose_load("sys.stderr.write('x' * 1_000_000)", monkeypatch) as worker:
        assert worker.ask("load", **LOAD) == {}  # a pipe would be full after 64 KiB


@pytest.mark.parametrize(
    ("does", "code", "said"),
    [
        ("[print(i) for i in range(50)]; sys.stdout.flush(); os._exit(3)", 3, "44\n45\n46\n47\n48\n49"),
        ("os._exit(4)", 4, "nothing on its stderr; was there enough memory?"),
        ("sys.stderr.write('one\\n\\n \\ntwo\\n'); sys.exit(7)", 7, "one\ntwo"),
    ],
)
def test_the_error_has_the_last_lines_of_what_the_worker_said(does, code, said, monkeypatch):
    with worker_whose_load(does, monkeypatch) as worker, pytest.raises(WorkerError) as raised:
        worker.ask("load", **LOAD)
    assert str(raised.value) == f"its process ended at 'load' with code {code}: {said}"


def test_an_unforeseen_error_comes_with_its_place(monkeypatch):
    with worker_whose_load("raise RuntimeError('odd')", monkeypatch) as worker, pytest.raises(WorkerError) as raised:
        worker.ask("load", **LOAD)
    assert str(raised.value).endswith("RuntimeError: odd")
    assert "in serve" in str(raised.value)


def test_a_worker_that_ends_within_an_answer_is_an_error(monkeypatch):
    does = "answers = [fd for fd in range(3, 9) if not os.isatty(fd)][0]; os.write(answers, b'{\"pe'); os._exit(5)"
    with worker_whose_load(does, monkeypatch) as worker, pytest.raises(WorkerError, match="with code 5"):
        worker.ask("load", **LOAD)


def test_asking_a_worker_that_is_gone_is_the_same_error(monkeypatch):
    with worker_whose_load("os._exit(6)", monkeypatch) as worker:
        for _ in range(2):
            with pytest.raises(WorkerError, match="with code 6"):
                worker.ask("load", **LOAD)


def test_a_worker_that_does_not_end_by_itself_is_ended(monkeypatch):
    monkeypatch.setattr(worker_process, "SECONDS_TO_END", 0.2)
    with worker_whose_load("time.sleep(600)", monkeypatch) as worker:
        worker.process.stdin.write(json.dumps({"command": "load", **LOAD}) + "\n")
        worker.process.stdin.flush()
    assert worker.process.returncode is not None

"""Students and teachers: fresh or from a file, and what does not fit together."""

import pytest
import torch

from mobile_sam.build_sam import sam_from_checkpoint
from mobile_sam.distill.models import make_student, open_teacher


def same(state, other, prefix=""):
    return all(torch.equal(value, other[name]) for name, value in state.items() if name.startswith(prefix))


def test_a_fresh_student_has_an_encoder_of_the_seed_and_the_decoder_of_the_file(tiny, teacher_file):
    first, again, other = (make_student(tiny(seed=seed)).state_dict() for seed in (1, 1, 2))
    decoder = sam_from_checkpoint(teacher_file).state_dict()
    assert same(first, again)
    assert not same(first, other, "image_encoder.neck")
    for part in ("mask_decoder", "prompt_encoder"):
        assert same(first, decoder, part)


def test_a_student_has_the_input_side_and_depth_that_were_asked_for(tiny):
    student = make_student(tiny(input_side=128, drop_path_rate=0.3))
    assert student.image_encoder.img_size == 128
    assert student.prompt_encoder.image_embedding_size == (8, 8)
    rates = [module.rate for module in student.modules() if type(module).__name__ == "StochasticDepth"]
    assert max(rates) == pytest.approx(0.3)


def test_a_student_from_a_checkpoint_is_that_one_with_the_runs_drop_path_and_seed(tiny, teacher_file):
    config = tiny(start_from=str(teacher_file), input_side=128, drop_path_rate=0.3)
    torch.manual_seed(99)
    student = make_student(config)
    draws = torch.rand(3)
    assert same(student.state_dict(), sam_from_checkpoint(teacher_file).state_dict())
    rates = [module.rate for module in student.modules() if type(module).__name__ == "StochasticDepth"]
    assert max(rates) == pytest.approx(0.3)
    torch.manual_seed(98)
    make_student(config)
    assert torch.equal(torch.rand(3), draws)  # what is drawn in training is of the run's seed, too


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"student": "vit_x"}, ValueError, "student must be one of .*vit_t_1m.*, got 'vit_x'"),
        ({"student": "default"}, ValueError, "student must be one of vit_h, .*, got 'default'"),
        ({"student": "vit_b"}, ValueError, "student 'vit_b' comes as it is: .*'input_side': 1024"),
        ({"start_from": "TEACHER"}, ValueError, "has input_side 128, the run 64; make them equal"),
        (
            {"start_from": "TEACHER", "input_side": 128, "student": "vit_t"},
            ValueError,
            "vit_t_1m checkpoint, not vit_t",
        ),
        ({"start_from": "not/there.pt"}, FileNotFoundError, "there is no checkpoint"),
        ({"decoder_from": "not/there.pt"}, FileNotFoundError, "there is no checkpoint"),
    ],
)
def test_students_that_cannot_be_are_refused(tiny, teacher_file, changes, error, words):
    chosen = {name: str(teacher_file) if value == "TEACHER" else value for name, value in changes.items()}
    with pytest.raises(error, match=words):
        make_student(tiny(**chosen))


def test_a_teacher_in_the_loop_is_frozen(tiny, teacher_file):
    teacher = open_teacher(tiny(teacher=str(teacher_file), embeddings=""))
    assert teacher.embeddings is None
    assert teacher.input_side == 128
    assert not teacher.sam.training
    assert not any(parameter.requires_grad for parameter in teacher.sam.parameters())


def test_embeddings_bring_their_own_side_and_the_decoder_of_the_file(tiny, teacher_file):
    teacher = open_teacher(tiny())
    assert len(teacher.embeddings) == 10
    assert teacher.input_side == 128
    assert same(teacher.sam.mask_decoder.state_dict(), sam_from_checkpoint(teacher_file).mask_decoder.state_dict())


def test_annotations_need_no_teacher(tiny):
    assert open_teacher(tiny(objective="prompted", mask_targets="annotations", embeddings="")) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embeddings": ""}, "objective 'decoupled' needs a teacher: set embeddings .* or teacher"),
        ({"teacher": "TEACHER"}, r"are of another teacher \(vit_h, made up vit_h\) than .*teacher\.safetensors"),
        ({"decoder_from": "mobile_sam"}, "were made at 128 px, the decoder of mobile_sam takes 1024 px"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(tiny, teacher_file, changes, words):
    chosen = {name: str(teacher_file) if value == "TEACHER" else value for name, value in changes.items()}
    with pytest.raises(ValueError, match=words):
        open_teacher(tiny(**chosen))

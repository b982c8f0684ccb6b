"""A fresh student that begins with the scale of its teacher's embeddings."""

import pytest
import torch
from numpy.testing import assert_allclose

from mobile_sam.data.embedding_shards import EmbeddingShards
from mobile_sam.data.picture_set import open_picture_set
from mobile_sam.distill import initialise
from mobile_sam.distill import train as loop
from mobile_sam.distill.distiller import Distiller
from mobile_sam.distill.initialise import match_channels
from mobile_sam.distill.loading import Samples
from mobile_sam.distill.models import make_student, open_teacher
from mobile_sam.distill.train import train


def test_each_channel_begins_with_the_teachers_mean_and_spread(tiny, pictures, embeddings, monkeypatch):
    monkeypatch.setattr(initialise, "NUM_PICTURES", 10)  # all of them, once
    config = tiny()
    shards = EmbeddingShards(embeddings)
    student = make_student(config)
    distiller = Distiller(student, config, open_teacher(config).sam)
    match_channels(distiller, Samples(open_picture_set(pictures), config, shards), torch.device("cpu"))
    cells = []
    for key in shards.keys:
        stored = shards.read(key)
        features = torch.from_numpy(stored.features).float().reshape(256, 4, 2, 4, 2).mean(dim=(2, 4))  # at 64 px
        rows, columns = (-(-length // 32) for length in stored.input_hw)  # a cell is 32 of the teacher's 128 px
        cells.append(features[:, :rows, :columns].flatten(1))
    values = torch.cat(cells, dim=1)  # (256, cells)
    last = student.image_encoder.neck[-1]
    assert_allclose(last.bias.detach(), values.mean(dim=1), atol=1e-5)
    assert_allclose(last.weight.detach(), values.std(dim=1), rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "is_matched"),
    [
        ({}, True),
        ({"match_channels": False}, False),
        ({"start_from": "TEACHER", "input_side": 128}, False),
    ],
)
def test_only_fresh_encoders_are_matched_and_only_if_wanted(
    tiny, tmp_path, teacher_file, monkeypatch, changes, is_matched
):
    asked = []
    monkeypatch.setattr(loop, "match_channels", lambda *args: asked.append(args))
    chosen = {name: str(teacher_file) if value == "TEACHER" else value for name, value in changes.items()}
    train(tiny(max_steps=1, **chosen), tmp_path)
    assert len(asked) == is_matched

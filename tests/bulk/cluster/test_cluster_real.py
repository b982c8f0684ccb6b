import shutil

from safetensors.numpy import load_file

from mobile_sam.bulk.cluster import RayExecutor, RayOptions
from mobile_sam.bulk.items import Batch, Item, Place
from mobile_sam.bulk.settings import BulkSettings
from mobile_sam.bulk.worker import Worker


def test_embeddings_are_those_of_a_worker_here(ray_cluster, stop, examples, tmp_path):
    items = []
    for i, name in enumerate(["chelsea.png", "rocket.jpg", "coffee.png"] * 2, 1):
        path = tmp_path / f"{i}-{name}"
        shutil.copyfile(examples / name, path)
        items.append(Item(i, f"picture{i}", path.name, Place(str(path))))
    batches = [Batch(number, tuple(items[2 * number : 2 * number + 2])) for number in range(3)]

    def settings(name):
        (tmp_path / name).mkdir()
        out = str(tmp_path / name)
        return BulkSettings("embed", out, formats=("safetensors",), engine="onnxruntime", num_threads=1, batch_size=2)

    here, there = settings("here"), settings("there")
    Worker(here).run(batches, lambda report: None)
    options = RayOptions(address=ray_cluster.address, max_actors=2)
    reports = list(RayExecutor(there, options).run(iter(batches), stop))

    assert sorted(done.item_id for report in reports for done in report.done) == [1, 2, 3, 4, 5, 6]
    expected = sorted((tmp_path / "here").rglob("*.safetensors"))
    assert len(expected) == 6
    for path in expected:
        found = load_file(tmp_path / "there" / path.relative_to(tmp_path / "here"))
        (features, wanted) = (tensors["features"] for tensors in (found, load_file(path)))
        assert features.shape == (256, 64, 64)
        assert (features == wanted).all()

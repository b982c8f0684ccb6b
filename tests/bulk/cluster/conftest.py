import importlib
import os
import sys
from pathlib import Path

import pytest

from mobile_sam.bulk.cluster import RayExecutor, RayOptions
from mobile_sam.bulk.items import Batch, Item, Place
from mobile_sam.bulk.settings import BulkSettings

BATCH_SIZE = 5


class FakeStop:
    is_asked = False
    is_urgent = False


@pytest.fixture(scope="session")
def workers():
    """The module of fake workers, which the processes of nodes that are started later find, too."""
    folder = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", folder, prepend=os.pathsep)
        yield importlib.import_module("cluster_workers")


@pytest.fixture(scope="session")
def ray_cluster(workers):
    """A head without cores and two nodes with one each, all on this machine; a node's death shows in two seconds."""
    if sys.platform == "win32":
        pytest.skip("Ray's clusters of several nodes on one machine are not for Windows")
    pytest.importorskip("ray", reason="needs mobile-sam[bulk-ray]")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    watch = {"health_check_period_ms": 500, "health_check_failure_threshold": 4, "health_check_initial_delay_ms": 500}
    head = {"num_cpus": 0, "object_store_memory": 100_000_000, "include_dashboard": False, "_system_config": watch}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def settings(tmp_path):
    return BulkSettings("everything", str(tmp_path), batch_size=BATCH_SIZE)


@pytest.fixture
def stop():
    return FakeStop()


@pytest.fixture
def executor(ray_cluster, settings, workers):
    """Make an executor on the cluster."""

    def make(make_worker=workers.FakeWorker, **options):
        return RayExecutor(settings, RayOptions(address=ray_cluster.address, **options), make_worker)

    return make


@pytest.fixture
def batches():
    """Batches of pictures with the names given; ids from 1, `BATCH_SIZE` in a batch."""

    def make(names):
        items = [Item(i, f"key{i}", f"{name}-{i}.png", Place(f"/{i}.png")) for i, name in enumerate(names, 1)]
        for start in range(0, len(items), BATCH_SIZE):
            yield Batch(start // BATCH_SIZE, tuple(items[start : start + BATCH_SIZE]))

    return make

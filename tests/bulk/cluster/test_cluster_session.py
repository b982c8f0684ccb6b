import os

import pytest

from mobile_sam.bulk import cluster_session
from mobile_sam.bulk.cluster_session import RayOptions, choose_pool, joined, ray_module
from mobile_sam.core.errors import MissingDependencyError


def node(cpus, gpus=0.0, alive=True):
    resources = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("options", "nodes", "expected"),
    [
        (RayOptions(), [node(4.0), node(2.0)], (1, 6, 6)),
        (RayOptions(), [node(4.0), node(2.0, alive=False)], (1, 4, 4)),
        (RayOptions(num_cpus=3), [node(8.0), node(2.0)], (1, 2, 2)),  # 2 on the first node, none across two nodes
        (RayOptions(num_gpus=1), [node(8.0, 2.0), node(64.0)], (1, 2, 2)),
        (RayOptions(num_gpus=0.5), [node(8.0, 2.0)], (1, 4, 4)),
        (RayOptions(max_actors=3), [node(8.0)], (1, 3, 3)),
        (RayOptions(min_actors=2, max_actors=20), [node(8.0)], (2, 8, 20)),  # more nodes may come
        (RayOptions(min_actors=5), [node(4.0)], (5, 5, 5)),
    ],
)
def test_a_pool_has_as_many_actors_as_fit(options, nodes, expected):
    assert choose_pool(options, nodes) == expected


@pytest.mark.parametrize("nodes", [[], [node(0.0)], [node(4.0, alive=False)], [node(4.0)]])
def test_a_cluster_without_room_is_refused(nodes):
    with pytest.raises(ValueError, match="no node of the Ray cluster has 1 CPUs and 2 GPUs"):
        choose_pool(RayOptions(num_gpus=2), nodes)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"min_actors": 0}, "min_actors must be at least 1, got 0"),
        ({"min_actors": 3, "max_actors": 2}, "max_actors must be at least min_actors, 3, got 2"),
        ({"num_cpus": 0}, "num_cpus must be above 0"),
        ({"num_cpus": float("nan")}, "num_cpus must be above 0"),
        ({"num_gpus": -1}, "num_gpus must not be negative"),
        ({"address": "ray://head:10001"}, "Ray Client"),
    ],
)
def test_options_out_of_range_are_refused(given, says):
    with pytest.raises(ValueError, match=says):
        RayOptions(**given)


@pytest.mark.parametrize("package", ["ray", "pyarrow"])
def test_a_missing_package_is_named_with_the_extra(monkeypatch, package):
    monkeypatch.setattr(cluster_session, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(MissingDependencyError, match=rf"needs {package}; run: pip install 'mobile-sam\[bulk-ray\]'"):
        ray_module()


def test_ray_is_told_not_to_report_before_it_is_imported(monkeypatch):
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    told = []
    monkeypatch.setattr(cluster_session, "find_spec", lambda name: object())
    monkeypatch.setattr(
        cluster_session, "import_module", lambda name: told.append(os.environ["RAY_USAGE_STATS_ENABLED"])
    )
    ray_module()
    assert told == ["0"]


def test_no_cluster_at_the_address_is_said_with_what_to_do():
    pytest.importorskip("ray", reason="needs mobile-sam[bulk-ray]")
    with pytest.raises(ValueError, match=r"127.0.0.1:1'.*ray start --head"), joined(RayOptions(address="127.0.0.1:1")):
        pass

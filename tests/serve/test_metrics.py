import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from mobile_sam.serve.metrics import STAGES, ServeMetrics


@pytest.fixture
def metrics():
    return ServeMetrics()


def values(metrics):
    """All samples as Prometheus would read them: (name, labels) -> value."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics, name, **labels):
    return values(metrics)[f"mobile_sam_{name}", frozenset(labels.items())]


def test_counters_have_the_names_that_the_documentation_gives(metrics):
    metrics.requests.labels(route="/v1/segment", method="POST", status="200").inc()
    metrics.errors.labels(kind="decode").inc(2)
    metrics.cache_hits.inc(3)
    metrics.cache_misses.inc(4)
    metrics.cache_evictions.inc(5)
    assert value(metrics, "requests_total", route="/v1/segment", method="POST", status="200") == 1
    assert value(metrics, "errors_total", kind="decode") == 2
    found = [value(metrics, f"embedding_cache_{name}_total") for name in ("hits", "misses", "evictions")]
    assert found == [3, 4, 5]


def test_every_stage_is_there_before_it_was_ever_run(metrics):
    counts = [value(metrics, "stage_seconds_count", stage=stage) for stage in STAGES]
    assert counts == [0] * 7


def test_a_stage_is_counted_where_its_time_belongs(metrics):
    metrics.observe("draw", 0.02)
    metrics.observe("draw", 0.7)
    assert value(metrics, "stage_seconds_count", stage="draw") == 2
    assert value(metrics, "stage_seconds_sum", stage="draw") == pytest.approx(0.72)
    assert value(metrics, "stage_seconds_bucket", stage="draw", le="0.025") == 1
    assert value(metrics, "stage_seconds_bucket", stage="draw", le="1.0") == 2


def test_a_timed_block_counts_also_when_it_raises(metrics):
    with pytest.raises(KeyError), metrics.timed("answer"):
        raise KeyError
    assert value(metrics, "stage_seconds_count", stage="answer") == 1


def test_an_unknown_stage_or_queue_is_a_mistake_of_ours(metrics):
    with pytest.raises(AssertionError, match="lunch"):
        metrics.observe("lunch", 1)
    with pytest.raises(AssertionError, match="lunch"):
        metrics.watch_queue("lunch", lambda: 1)


def test_queues_and_cache_are_asked_when_metrics_are_rendered(metrics):
    waiting = [1]
    metrics.watch_queue("encode", lambda: len(waiting))
    metrics.watch_cache_bytes(lambda: 100 * len(waiting))
    waiting += [2, 3]
    assert value(metrics, "queue_depth", queue="encode") == 3
    assert value(metrics, "embedding_cache_bytes") == 300


def test_servers_of_one_process_count_apart(metrics):
    other = ServeMetrics()
    other.cache_hits.inc()
    assert value(metrics, "embedding_cache_hits_total") == 0
    assert "mobile_sam_embedding_cache_hits" not in {family.name for family in REGISTRY.collect()}

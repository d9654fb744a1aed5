"""Each service has metrics of its own, in Prometheus' form."""

from prometheus_client.parser import text_string_to_metric_families

from patchrec_hf.serving.service_metrics import ServiceMetrics


def samples(metrics):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_metrics_of_a_service():
    one, other = ServiceMetrics(), ServiceMetrics()
    waiting = [3]
    one.watch_queue("model", lambda: waiting[0])
    one.requests.labels("/health", "GET", "200").inc()
    one.batch_size.labels("model").observe(5)
    found = samples(one)
    assert found["patchrec_requests_total", ("method", "GET"), ("route", "/health"), ("status", "200")] == 1
    assert found["patchrec_batch_size_bucket", ("le", "4.0"), ("queue", "model")] == 0
    assert found["patchrec_batch_size_bucket", ("le", "8.0"), ("queue", "model")] == 1
    assert found["patchrec_queue_length", ("queue", "model")] == 3
    waiting[0] = 7
    assert samples(one)["patchrec_queue_length", ("queue", "model")] == 7
    assert not [name for name in samples(other) if name[0].startswith("patchrec_requests")]

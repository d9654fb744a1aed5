"""The command `patchrec serve`: its arguments, and the process that serves."""

import signal
import socket
import sys
import threading

import pytest
from redis_server import free_port, redis_server
from served import IDS
from served_checkpoint import save_checkpoint, served

from patchrec_hf.commands.serve import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("served") / "final"
    return directory, save_checkpoint(directory)


def fails_with(arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, arguments)))
    message = str(caught.value.code)
    assert "\n" not in message
    return message


def test_wrong_arguments(checkpoint, tmp_path, monkeypatch):
    directory, _ = checkpoint
    assert "required: checkpoint" in fails_with([])
    assert fails_with([directory, "--prot", "1"]) == "ValueError: There is no option --prot; did you mean '--port'?"
    assert "ValueError: --port: invalid int value: 'x'" in fails_with([directory, "--port", "x"])
    assert "--port must be a number from 0 to 65535, got 65536" in fails_with([directory, "--port", "65536"])
    assert "`max_k` must be at least 1, got 0" in fails_with([directory, "--max_k", "0"])
    assert "`cache_bytes` must be at least 0" in fails_with([directory, "--cache_bytes", "-1"])
    assert "ValueError: --method: invalid choice: 'items'" in fails_with([directory, "--method", "items"])
    assert "--index takes flat, ivf, ivfpq, hnsw or saved, got 'x'" in fails_with([directory, "--index", "x"])
    missing = fails_with([directory.with_name("finale")])
    assert missing.startswith("FileNotFoundError: There is no checkpoint ")
    assert missing.endswith(f"Did you mean {directory}?")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert fails_with([directory, "--port", port]).startswith(f"OSError: Port {port} of 127.0.0.1 is in use.")


def test_wrong_tokens(checkpoint, tmp_path, monkeypatch):
    directory, _ = checkpoint
    assert "There is no file" in fails_with([directory, "--token_file", tmp_path / "token"])
    (tmp_path / "token").write_text("\n")
    assert "must be at least one printable ASCII character" in fails_with(
        [directory, "--token_file", tmp_path / "token"]
    )
    monkeypatch.setenv("PATCHREC_SERVE_TOKEN", "two words")
    assert "The token in PATCHREC_SERVE_TOKEN must be" in fails_with([directory])


def test_histories_that_cannot_be_opened(checkpoint, tmp_path):
    directory, _ = checkpoint
    start = [directory, "--port", 0]
    assert "Name a file, such as" in fails_with([*start, "--store", tmp_path])
    url = f"redis://127.0.0.1:{free_port()}"
    assert fails_with([*start, "--redis", url]).startswith(f"ConnectionError: Redis at {url} does not answer")
    assert "Give one of them" in fails_with([*start, "--redis", url, "--store", "x"])
    assert fails_with([*start, "--store", tmp_path / "a.sqlite", "--block_size", 99]).startswith(
        "ValueError: `block_size` must be a whole number from 0 to 7"
    )


def test_an_index_is_built_or_read(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("faiss", reason="an item index needs the extra `index`")
    directory, recommender = checkpoint
    start = [directory, "--port", 0, "--store", tmp_path / "histories.sqlite", "--index"]
    assert "There is no item index in" in fails_with([*start, "saved"])
    assert "or `method='exact'`, got 'fusion'" in fails_with([*start, "flat", "--method", "fusion"])
    services = []
    monkeypatch.setattr("patchrec_hf.serving.http_server.run_server", lambda app, *_: None)
    monkeypatch.setattr("patchrec_hf.serving.application.create_app", lambda service, _: services.append(service))
    recommender.build_index("hnsw").save_pretrained(tmp_path / "final")
    recommender.model.save_pretrained(tmp_path / "final")
    recommender.processor.save_pretrained(tmp_path / "final")
    main(list(map(str, [tmp_path / "final", *start[1:], "saved"])))
    main(list(map(str, [*start, "flat"])))
    assert [service.method for service in services] == ["item", "item"]


def test_missing_packages(checkpoint, monkeypatch):
    for name in list(sys.modules):
        if name.startswith("patchrec_hf.serving"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    message = fails_with([checkpoint[0]])
    assert message == 'ImportError: `patchrec serve` needs uvicorn: pip install "patchrec-hf[serve]".'


def test_help_is_one_screen(capsys):
    def printed(argument):
        with pytest.raises(SystemExit) as caught:
            main([argument])
        assert not caught.value.code
        return capsys.readouterr().out

    text, whole = printed("--help"), printed("--help-all")
    assert "PATCHREC_SERVE_TOKEN" in text
    assert "--max_queue" not in text
    assert len(text.splitlines()) <= 45
    assert "--max_queue" in whole
    assert "(default: 256)" in whole


@pytest.mark.slow
def test_no_acknowledged_event_is_lost_when_the_server_is_killed(checkpoint, tmp_path):
    directory, _ = checkpoint
    arguments = [directory, "--store", tmp_path / "histories.sqlite", "--log_level", "warning"]
    acknowledged = []
    with served(arguments) as server:

        def send_until_killed(user):
            try:
                for number in range(10_000):
                    event = {"item_id": IDS[number % 30], "timestamp": number, "event_id": f"{user}-{number}"}
                    status, _ = server.ask(f"/users/{user}/events", {"events": [event]})
                    assert status == 200
                    acknowledged.append((user, number))
            except OSError:  # the answer to the latest one is lost
                pass

        threads = [threading.Thread(target=send_until_killed, args=(user,)) for user in ("ada", "ben")]
        for thread in threads:
            thread.start()
        while len(acknowledged) < 60:
            threads[0].join(0.01)
        server.process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
    counts = {user: sum(name == user for name, _ in acknowledged) for user in ("ada", "ben")}
    with served(arguments) as server:
        for user, count in counts.items():
            # The client sends all of them again, and one more. Each is stored once.
            events = [
                {"item_id": IDS[number % 30], "timestamp": number, "event_id": f"{user}-{number}"}
                for number in range(count + 1)
            ]
            num_stored = 0
            for first in range(0, len(events), 500):
                status, answer = server.ask(f"/users/{user}/events", {"events": events[first : first + 500]})
                assert status == 200
                num_stored += answer["num_stored"]
            assert answer["num_events"] == count + 1
            assert num_stored <= 1
            status, answer = server.ask(f"/users/{user}/recommendations?k=3&exclude_seen=false")
            held = answer["recommendations"]
            assert (status, len(held)) == (200, 3)
        # Shutting down ends the process in order.
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() in (0, -signal.SIGTERM)


@pytest.mark.slow
def test_a_served_checkpoint_with_redis_and_a_token(checkpoint, tmp_path):
    directory, recommender = checkpoint
    with (
        redis_server(tmp_path) as url,
        served([directory, "--redis", url, "--max_wait_ms", 1000, "--log_level", "warning"], token="right") as server,
    ):
        plain = {"Content-Type": "application/json"}
        assert server.ask("/recommend", {"history": IDS[:2]}, headers=plain)[0] == 401
        status, answer = server.ask("/recommend", {"history": IDS[:3], "k": 4})
        expected = [item.item_id for item in recommender.recommend(IDS[:3], 4)]
        assert status == 200
        assert [item["item_id"] for item in answer["recommendations"]] == expected
        assert server.ask("/users/ada/events", {"events": [{"item_id": item} for item in IDS[:3]]})[0] == 200
        # SIGTERM while requests wait: all of them are answered.
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(server.ask("/users/ada/recommendations?k=4")))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        while server.ask("/health")[1]["waiting"] + len(answers) < 6:
            threads[0].join(0.005)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        printed, _ = server.process.communicate()
        assert [status for status, _ in answers] == [200] * len(answers)
        assert {tuple(item["item_id"] for item in answer["recommendations"]) for _, answer in answers} == {
            tuple(expected)
        }
        assert f"Serving {directory} (38 items, method 'fusion') at http://127.0.0.1:{server.port}" in printed
        assert "Traceback" not in printed

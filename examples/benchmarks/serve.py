"""
Measures the service under load on this machine, and kills it while it stores events.

    python examples/benchmarks/serve.py --json outputs/serve.json           # 10,000 events, five kills
    python examples/benchmarks/serve.py --json outputs/serve.json --quick   # less of both

Two servers take turns: one reads requests together, the other reads one at a time. Clients ask over the loopback
interface, each as soon as its answer has come. A request `recommend` holds a history; a `click` sends an event of a
user and then asks for the user's recommendations. The script prints requests per second and the time of an answer.

Then clients send events with ids, and send each one again until it is acknowledged, while the server is killed and
started again. The script counts the events that were lost or doubled. It fails if there are any.

Without a checkpoint, the script makes a tiny one from the embedded sample. It is untrained: speed does not depend on
training.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm


SERVE = [sys.executable, "-c", "import sys; from patchrec_hf.commands.serve import main; main(sys.argv[1:])"]
CLIENTS = (1, 8, 32)
SIDES = {
    "batched": [],
    "one at a time": ["--max_batch_size", "1", "--max_wait_ms", "0"],
}
HISTORY = 20


def make_checkpoint(directory: Path) -> None:
    """Saves an untrained checkpoint with an item head, whose layout reads a click at its own cost."""
    from patchrec_hf import (
        BOOK_PROMPT_INSTRUCTION_FIRST,
        ItemPatchLayout,
        PatchRecForCausalLM,
        PatchRecProcessor,
        build_tiny_backbone,
        load_recommendation_data,
    )

    _, catalog = load_recommendation_data("sample", max_history=50)
    backbone, tokenizer = build_tiny_backbone(catalog)
    model = PatchRecForCausalLM.from_backbone(backbone, tokenizer)
    model.add_item_head(catalog)
    model.save_pretrained(directory)
    processor = PatchRecProcessor(
        tokenizer, catalog, BOOK_PROMPT_INSTRUCTION_FIRST, ItemPatchLayout(0), 50, item_residuals=len(catalog)
    )
    processor.save_pretrained(directory)


class Server:
    """A server process, and where it listens."""

    def __init__(self, checkpoint: Path, store: Path, arguments: list[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.command = [*SERVE, str(checkpoint), "--store", str(store), "--log_level", "error", *arguments]
        self.command += ["--port", str(self.port), "--max_queue", "10000"]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        while True:
            try:
                with closing(HTTPConnection("127.0.0.1", self.port)) as connection:
                    ask(connection, "GET", "/health")
                return
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("The server has ended before it answered.") from None
                time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@contextmanager
def serving(checkpoint: Path, store: Path, arguments: list[str]) -> Iterator[Server]:
    server = Server(checkpoint, store, arguments)
    try:
        yield server
    finally:
        server.stop()


def ask(connection: HTTPConnection, method: str, path: str, body: Any = None) -> Any:
    """Sends a request, and returns the JSON of its answer."""
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{method} {path} was answered with {answer.status}: {text.decode()[:300]}")
    return json.loads(text)


def recommend(connection: HTTPConnection, item_ids: list[Any], draw: random.Random) -> None:
    ask(connection, "POST", "/recommend", {"history": draw.choices(item_ids, k=HISTORY)})


def click(connection: HTTPConnection, item_ids: list[Any], draw: random.Random) -> None:
    user = draw.randrange(200)
    ask(connection, "POST", f"/users/{user}/events", {"events": [{"item_id": draw.choice(item_ids)}]})
    ask(connection, "GET", f"/users/{user}/recommendations")


WORKLOADS: dict[str, Callable[[HTTPConnection, list[Any], random.Random], None]] = {
    "recommend": recommend,
    "click": click,
}


def load(server: Server, workload: str, num_clients: int, seconds: float, item_ids: list[Any]) -> dict[str, Any]:
    """Lets clients ask for some seconds, and returns their rate and the times of their answers."""
    times: list[list[float]] = [[] for _ in range(num_clients)]
    barrier = threading.Barrier(num_clients + 1)

    def run(number: int) -> None:
        draw = random.Random(number)
        with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
            WORKLOADS[workload](connection, item_ids, draw)
        barrier.wait()
        with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
            end = time.perf_counter() + seconds
            while (start := time.perf_counter()) < end:
                WORKLOADS[workload](connection, item_ids, draw)
                times[number].append(time.perf_counter() - start)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(num_clients)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - start
    flat = np.concatenate(times)
    p50, p99 = np.percentile(flat, [50, 99]) * 1000
    return {"requests": len(flat), "per_second": len(flat) / elapsed, "p50_ms": p50, "p99_ms": p99}


def measure_load(checkpoint: Path, directory: Path, seconds: float, item_ids: list[Any]) -> list[dict[str, Any]]:
    """Measures both sides, one after the other at each number of clients."""
    rows = []
    with (
        serving(checkpoint, directory / "batched.sqlite", SIDES["batched"]) as batched,
        serving(checkpoint, directory / "alone.sqlite", SIDES["one at a time"]) as alone,
    ):
        servers = dict(zip(SIDES, (batched, alone), strict=True))
        turns = [(workload, clients, side) for workload in WORKLOADS for clients in CLIENTS for side in SIDES]
        for workload, clients, side in tqdm(turns, desc="Load", unit="turn"):
            found = load(servers[side], workload, clients, seconds, item_ids)
            rows.append({"workload": workload, "clients": clients, "side": side, **found})
    return rows


def measure_losses(
    checkpoint: Path, store: Path, num_events: int, num_kills: int, item_ids: list[Any], num_clients: int = 8
) -> dict[str, Any]:
    """Sends events to a server that is killed and started again, and counts what its store holds."""
    from patchrec_hf.serving.sqlite_histories import SqliteHistories

    server = Server(checkpoint, store, [])
    per_client = num_events // num_clients
    acknowledged = [0] * num_clients
    known, retries = [0] * num_clients, [0] * num_clients

    def send(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", server.port)
        for event in range(per_client):
            body = {"item_id": item_ids[event % len(item_ids)], "timestamp": event, "event_id": str(event)}
            while True:
                try:
                    answer = ask(connection, "POST", f"/users/client-{number}/events", {"events": [body]})
                    break
                except (OSError, HTTPException):
                    retries[number] += 1
                    connection.close()
                    time.sleep(0.2)
            acknowledged[number] += 1
            known[number] += answer["num_known"]
        connection.close()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(num_clients)]
    for thread in threads:
        thread.start()
    kills = [(turn + 1) * num_events // (num_kills + 1) for turn in range(num_kills)]
    with tqdm(total=per_client * num_clients, desc="Events", unit="event") as progress:
        while any(thread.is_alive() for thread in threads):
            done = sum(acknowledged)
            progress.update(done - progress.n)
            if kills and done >= kills[0]:
                kills.pop(0)
                server.kill()
                server.start()
            time.sleep(0.005)
        progress.update(sum(acknowledged) - progress.n)
    server.stop()
    lost = doubled = 0
    with closing(SqliteHistories(store, isinstance(item_ids[0], str))) as histories:
        for number in range(num_clients):
            (history,) = histories.read([f"client-{number}"], 10 * num_events)
            counts = np.bincount(history.timestamps, minlength=per_client)
            lost += int((counts == 0).sum())
            doubled += int((counts > 1).sum())
    return {
        "acknowledged": sum(acknowledged),
        "kills": num_kills - len(kills),
        "retries": sum(retries),
        "stored_before_their_answer_was_lost": sum(known),
        "lost": lost,
        "doubled": doubled,
    }


def show(rows: list[dict[str, Any]]) -> None:
    print("| request | clients | side | requests per second | p50 | p99 |\n|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['workload']} | {row['clients']} | {row['side']} | {row['per_second']:.0f} | "
            f"{row['p50_ms']:.1f} ms | {row['p99_ms']:.1f} ms |"
        )
    rates = {(row["workload"], row["clients"], row["side"]): row["per_second"] for row in rows}
    for workload in WORKLOADS:
        ratio = rates[workload, CLIENTS[-1], "batched"] / rates[workload, 1, "one at a time"]
        print(
            f"{workload}: with {CLIENTS[-1]} clients, the batched side answers {ratio:.2f} times as many requests as "
            "one client gets answered one at a time."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="a directory (default: a tiny one from the sample)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--quick", action="store_true", help="2 seconds for each load, 1,000 events and one kill")
    parser.add_argument("--only", choices=["load", "events"], help="only one of both parts")
    args = parser.parse_args()
    seconds, num_events, num_kills = (2.0, 1_000, 1) if args.quick else (10.0, 10_000, 5)
    results: dict[str, Any] = {"cpu_count": os.cpu_count(), "seconds_per_load": seconds}
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent)
        checkpoint = args.checkpoint
        if checkpoint is None:
            checkpoint = directory / "checkpoint"
            make_checkpoint(checkpoint)
        from patchrec_hf import PatchRecProcessor

        item_ids = PatchRecProcessor.from_pretrained(checkpoint).catalog.item_ids.tolist()[:1000]
        if args.only != "events":
            results["load"] = measure_load(checkpoint, directory, seconds, item_ids)
            show(results["load"])
        if args.only != "load":
            found = measure_losses(checkpoint, directory / "events.sqlite", num_events, num_kills, item_ids)
            results["events"] = found
            print(
                f"{found['acknowledged']:,} acknowledged events, kills: {found['kills']}, lost: {found['lost']}, "
                f"doubled: {found['doubled']}. {found['stored_before_their_answer_was_lost']} were stored before a "
                "kill took their answer, and were sent again."
            )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=2), encoding="utf-8")
    if results.get("events", {}).get("lost", 0) + results.get("events", {}).get("doubled", 0):
        raise SystemExit("Events were lost or doubled.")


if __name__ == "__main__":
    main()

"""A small checkpoint in a directory, and the server process that serves it."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

from processes import start_process
from redis_server import free_port
from user_states import make_recommender

from patchrec_hf import ItemPatchLayout


MAIN = "import sys; from patchrec_hf.commands.serve import main; main(sys.argv[1:])"


def save_checkpoint(directory):
    recommender = make_recommender(ItemPatchLayout(0))
    recommender.model.save_pretrained(directory)
    recommender.processor.save_pretrained(directory)
    return recommender


class Server:
    """A process that serves, and requests to it."""

    def __init__(self, arguments, token=None):
        self.port = free_port()
        self.headers = {"Content-Type": "application/json"}
        environment = dict(os.environ)
        if token is not None:
            environment["PATCHREC_SERVE_TOKEN"] = token
            self.headers["Authorization"] = f"Bearer {token}"
        command = [sys.executable, "-c", MAIN, *arguments, "--port", self.port]
        self.process = start_process(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)

    def wait(self):
        while True:
            try:
                return self.ask("/health")
            except OSError:
                assert self.process.poll() is None, self.process.stdout.read()
                time.sleep(0.05)

    def ask(self, path, body=None, headers=None):
        """The status and the JSON of an answer."""
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, self.headers if headers is None else headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@contextmanager
def served(arguments, token=None):
    server = Server(arguments, token)
    try:
        server.wait()
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()

#!/usr/bin/env python3
"""Clients for tools/demo: each connects, sends a line, wants it back, closes, and begins anew.

  demo_load.py ENDPOINT ...     ENDPOINT: unix:PATH or inet:HOST:PORT

Two clients per endpoint. Prints a line when they run and, on SIGTERM, "N requests, N failed" with
the first failures. A client that the kernel refused, that was cut off, or that had to wait for
longer than 10 s has failed.
"""

import signal
import socket
import sys
import threading

CLIENTS_PER_ENDPOINT = 2
PATIENCE_S = 10


class Clients:
    def __init__(self):
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.requests = 0
        self.failures = []

    def ask(self, endpoint, line):
        kind, _, rest = endpoint.partition(":")
        if kind == "unix":
            client, address = socket.socket(socket.AF_UNIX), rest
        else:
            host, _, port = rest.rpartition(":")
            client, address = socket.socket(socket.AF_INET), (host, int(port))
        with client:
            client.settimeout(PATIENCE_S)
            client.connect(address)
            client.sendall(line)
            answer = b""
            while not answer.endswith(b"\n"):
                piece = client.recv(4096)
                if not piece:
                    raise ConnectionError("closed without an answer")
                answer += piece
            if answer != line:
                raise ValueError(f"wrong answer {answer!r}")

    def run(self, endpoint, name):
        number = 0
        while not self.stop.is_set():
            number += 1
            failure = None
            try:
                self.ask(endpoint, f"client {name} request {number}\n".encode())
            except (OSError, ValueError) as error:
                failure = f"{endpoint}: {error}"
            with self.lock:
                self.requests += 1
                if failure:
                    self.failures.append(failure)


def main(endpoints):
    clients = Clients()
    signal.signal(signal.SIGTERM, lambda *_: clients.stop.set())
    threads = [
        threading.Thread(target=clients.run, args=(endpoint, f"{index}.{copy}"))
        for index, endpoint in enumerate(endpoints) for copy in range(CLIENTS_PER_ENDPOINT)
    ]
    for thread in threads:
        thread.start()
    print(f"{len(threads)} clients", flush=True)
    while not clients.stop.wait(0.1):
        pass
    for thread in threads:
        thread.join()
    for failure in clients.failures[:5]:
        print(failure)
    print(f"{clients.requests} requests, {len(clients.failures)} failed")


if __name__ == "__main__":
    main(sys.argv[1:])

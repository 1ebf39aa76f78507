"""The frontend: asks the backend and wraps its answer; and a way to crash it."""

import json
import os
import socket

from flask import Flask

HOST = os.environ["API_BACKEND_URL"]
PORT = int(os.environ["API_BACKEND_PORT"])

app = Flask(__name__)


def ask():
    """The JSON that the backend answers."""
    with socket.create_connection((HOST, PORT), timeout=5) as backend:
        request = f"GET / HTTP/1.1\r\nHost: {HOST}:{PORT}\r\nConnection: close\r\n\r\n"
        backend.sendall(request.encode())
        answer = backend.makefile("rb").read()
    return json.loads(answer.partition(b"\r\n\r\n")[2])


@app.get("/")
def root():
    return {"return": ask(), "status": "[SUCESS]"}


@app.get("/traceback")
def traceback():
    os._exit(1)


if __name__ == "__main__":
    app.run("0.0.0.0", 8000)

"""The frontend: asks the backend and wraps its answer; and a way to crash it."""

import functools
import json
import os
import socket
from http.client import HTTPResponse

from flask import Flask

HOST = os.environ["API_BACKEND_URL"]
PORT = int(os.environ["API_BACKEND_PORT"])

app = Flask(__name__)


@functools.cache
def connection():
    """The one connection, kept for good."""
    return socket.create_connection((HOST, PORT), timeout=5)


def ask():
    """The JSON that the backend answers."""
    connection().sendall(f"GET / HTTP/1.1\r\nHost: {HOST}:{PORT}\r\n\r\n".encode())
    answer = HTTPResponse(connection())
    answer.begin()
    return json.load(answer)


@app.get("/")
def root():
    return {"return": ask(), "status": "[SUCESS]"}


@app.get("/traceback")
def traceback():
    os._exit(1)


if __name__ == "__main__":
    app.run("0.0.0.0", 8000)

"""The backend: one fixed JSON, and a way to crash it."""

import os

from flask import Flask
from werkzeug.serving import WSGIRequestHandler

app = Flask(__name__)


@app.get("/")
def root():
    return {"body": "Je suis une réponse du backend"}


@app.get("/traceback")
def traceback():
    os._exit(1)


if __name__ == "__main__":
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    app.run("0.0.0.0", 8001)

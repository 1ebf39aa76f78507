"""The backend: one fixed JSON, and a way to crash it."""

import os

from flask import Flask

app = Flask(__name__)


@app.get("/")
def root():
    return {"body": "Je suis une réponse du backend"}


@app.get("/traceback")
def traceback():
    os._exit(1)


if __name__ == "__main__":
    app.run("0.0.0.0", 8001)

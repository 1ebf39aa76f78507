"""The backend: one fixed JSON, and a way to crash it."""

import os

import waitress
from flask import Flask

app = Flask(__name__)


@app.get("/")
def root():
    return {"body": "Je suis une réponse du backend"}


@app.get("/traceback")
def traceback():
    os._exit(1)


if __name__ == "__main__":
    waitress.serve(app, port=8001)

FROM grade-flask
LABEL hub_url="https://hub.docker.com/r/student/api-backend"
COPY app.py /
CMD ["python3", "/app.py"]

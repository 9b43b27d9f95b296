# Trains. Build it from the root of the repository:
#     docker build -f deploy/train.Dockerfile -t mnist_tf-train .
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/out:/work/out" mnist_tf-train \
#         train --flagfile=base.cfg --log_dir=out/logs
FROM python:3.11-slim

WORKDIR /app
COPY setup.cfg pyproject.toml README.md LICENSE NOTICE ./
COPY configs configs
COPY mnist_tf mnist_tf
RUN pip install --no-cache-dir . \
    && useradd --system --uid 10001 --create-home mnist
USER 10001
WORKDIR /work
ENTRYPOINT ["mnist_tf"]

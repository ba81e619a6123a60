# One image that trains and serves. The CPU build of PyTorch by default; for NVIDIA GPUs
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
# and run it with `--gpus all`. Nothing else differs: jobs whose `device` is `auto` find the GPU.

FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PATH=/opt/bernoulli/bin:$PATH
# Compiles engine/kernels. Debian offers one version of a package at a time, so that a pinned one is
# gone with its next fix; the base image's tag says which release it is from.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# From the largest and steadiest layer to the smallest: PyTorch, the other libraries, our code.
RUN python -m venv /opt/bernoulli \
    && pip install --index-url "$TORCH_INDEX" torch==2.13.0
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
RUN python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["otel"], sep="\n")' > requirements.txt \
    && pip install --requirement requirements.txt
COPY engine engine
COPY service service
RUN pip install --no-deps .

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin bernoulli \
    && install --directory --owner bernoulli --group bernoulli /data
COPY --from=build /opt/bernoulli /opt/bernoulli
ENV PATH=/opt/bernoulli/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
# Beyond loopback the service refuses to start without keys: give BERNOULLI_KEYS, or BERNOULLI_KEYS_FILE
# with the path of a mounted secret.
ENV BERNOULLI_HOST=0.0.0.0 BERNOULLI_PORT=8000 BERNOULLI_DATA=/data
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
# With a read-only root the service writes to /data and /tmp alone.
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['BERNOULLI_PORT'] + '/health/live', timeout=4)"]
# In exec form: the supervisor is process 1, gets SIGTERM itself, and reaps its workers.
ENTRYPOINT ["bernoulli"]
CMD ["serve"]

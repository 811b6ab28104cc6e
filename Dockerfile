# Three images from one file: `docker build --target service|dashboard|worker .`
#
#   service    API, migrations, command line   no torch, no optuna
#   dashboard  the Optuna dashboard            no torch
#   worker     meta-training, judging, timing  torch, and a C++ compiler for the compiled runtime
#
# BASE_IMAGE        any Debian-based Python 3.11 or newer; builder and images must share it
# TORCH_INDEX_URL   an extra package index for torch: CPU-only wheels, or another CUDA version; empty takes pip's own choice
# BUCKET_PACKAGES   what workers need to reach a bucket, for example `s3fs`; empty where artifacts are in a folder
ARG BASE_IMAGE=python:3.11-slim-bookworm

# ---- what the images are made of -----------------------------------------------------------------------------------

FROM ${BASE_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/lambda-search
WORKDIR /build
COPY constraints.txt ./

FROM builder AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY search_service search_service
COPY workers workers
COPY migrations migrations
RUN pip wheel --quiet --no-deps --wheel-dir /wheels .

FROM builder AS service-packages
COPY --from=wheel /wheels /wheels
RUN /opt/lambda-search/bin/pip install --quiet -c constraints.txt "$(ls /wheels/*.whl)"

FROM builder AS dashboard-packages
COPY --from=wheel /wheels /wheels
RUN /opt/lambda-search/bin/pip install --quiet -c constraints.txt "$(ls /wheels/*.whl)[dashboard]"

FROM builder AS worker-packages
ARG TORCH_INDEX_URL=
# torch first, in a layer of its own: it is most of the image and changes least.
RUN /opt/lambda-search/bin/pip install --quiet -c constraints.txt \
      ${TORCH_INDEX_URL:+--extra-index-url "${TORCH_INDEX_URL}"} torch
ARG BUCKET_PACKAGES=
COPY --from=wheel /wheels /wheels
RUN /opt/lambda-search/bin/pip install --quiet -c constraints.txt "$(ls /wheels/*.whl)[worker]" ${BUCKET_PACKAGES}

# ---- the images ----------------------------------------------------------------------------------------------------

FROM ${BASE_IMAGE} AS runtime
# Volumes mounted on these folders take over their owner.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin lambda \
    && install --directory --owner=lambda --group=lambda /data /datasets /locks
ENV PATH=/opt/lambda-search/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LAMBDA_SEARCH_HOME=/data \
    LAMBDA_SEARCH_DATA_DIR=/datasets
WORKDIR /home/lambda

FROM runtime AS service
COPY --from=service-packages /opt/lambda-search /opt/lambda-search
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=3)"]
CMD ["lambda-search", "api", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS dashboard
COPY --from=dashboard-packages /opt/lambda-search /opt/lambda-search
USER 10001
EXPOSE 8080
# Asking for a key is an answer too; only no answer, or a server error, is ill health.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8080, timeout=3); c.request('GET', '/'); sys.exit(c.getresponse().status >= 500)"]
CMD ["lambda-search", "dashboard", "--host", "0.0.0.0", "--port", "8080"]

FROM runtime AS worker
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=worker-packages /opt/lambda-search /opt/lambda-search
# A worker touches its heartbeat file every few seconds while it can take work. Workers of one host share the lock
# folder (mount the same volume there), so that no two of them measure time at once.
ENV LAMBDA_SEARCH_HEARTBEAT_FILE=/tmp/lambda-search-worker.heartbeat \
    LAMBDA_SEARCH_LOCK_DIR=/locks
USER 10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, sys, time; sys.exit(time.time() - os.stat(os.environ['LAMBDA_SEARCH_HEARTBEAT_FILE']).st_mtime > 30)"]
CMD ["lambda-search", "worker"]

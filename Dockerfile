# An image with repro and its locked environment (the CUDA build of torch, from PyPI).
#
# Not tried: where this was written no base image and no container engine could be had. Build it with
#     docker build -t repro .
#     docker run --rm -v "$PWD:/work" repro run experiments/digits/experiment.yaml
# For the same image again, name the base by digest: --build-arg BASE=python:3.11-slim@sha256:…
ARG BASE=python:3.11-slim
FROM ${BASE}

# git: repro captures code with it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*

# In a virtual environment, since the lock pins pip itself. Ahead of the code, so that a change of it keeps this layer.
RUN python -m venv /opt/repro
ENV PATH=/opt/repro/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY lockfiles/public.txt /opt/repro/public.txt
RUN pip install --require-hashes -r /opt/repro/public.txt

COPY pyproject.toml README.md LICENSE repro_hook.pth /opt/repro/src/
COPY repro /opt/repro/src/repro
RUN pip install --no-build-isolation --no-deps /opt/repro/src && rm -rf /opt/repro/src

# The project's files belong to another user than the container's: without this git refuses to read them.
RUN git config --system --add safe.directory '*'
WORKDIR /work
ENTRYPOINT ["repro"]

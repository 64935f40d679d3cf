# An image with repro, its locked environment and its tests.
#
#     docker build -t repro .                      # or podman build
#     docker run --rm -v "$PWD:/work" repro run experiments/digits/experiment.yaml
#     docker run --rm --entrypoint make repro -C /opt/repro/src test
#
# For the same base again, name it by digest: --build-arg BASE=python:3.11-slim@sha256:…
# The lock is the one that fits (lockfiles/choose): cpu.txt where pip finds its torch wheel, else public.txt, which is
# the CUDA build. A site's own index: --secret id=pip,src=pip.conf.
ARG BASE=python:3.11-slim
FROM ${BASE}

# git: repro captures code with it. make and ssh-keygen: the tests. A base that has them needs no network for this.
RUN command -v git >/dev/null && command -v make >/dev/null && command -v ssh-keygen >/dev/null \
    || { apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends git make openssh-client \
    && rm -rf /var/lib/apt/lists/*; }

# In a virtual environment, since the lock pins pip itself. Ahead of the code, so that a change of it keeps this layer.
RUN python3 -m venv /opt/repro
ENV PATH=/opt/repro/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY lockfiles /opt/repro/src/lockfiles
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    lock=$(/opt/repro/src/lockfiles/choose pip) && pip install --require-hashes -r "$lock"

# The sources stay: the tests run from there, and repro is installed editable as `make venv` does it.
COPY . /opt/repro/src
RUN pip install --no-build-isolation --no-deps -e /opt/repro/src \
    && python -m compileall -q /opt/repro/src/repro \
    && ln -s /opt/repro /opt/repro/src/.venv && touch /opt/repro/.made

# The project's files belong to another user than the container's: without this git refuses to read them.
RUN git config --system --add safe.directory '*'
WORKDIR /work
ENTRYPOINT ["repro"]

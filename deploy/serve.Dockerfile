# The scoring daemon's image: docker build --file deploy/serve.Dockerfile --tag anomvae-serve .   (from the repository's root)
# No torch, no pandas, no pip inside; any user; a read-only root file system will do.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY anomvae anomvae
COPY deploy/install_serve.sh deploy/install_serve.sh
RUN python -m pip wheel --quiet --no-deps --wheel-dir /dist .
RUN deploy/install_serve.sh /opt/anomvae /dist/anomvae-*.whl

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="anomvae-serve" \
      org.opencontainers.image.description="Scores rows with anomvae bundles over HTTP and gRPC" \
      org.opencontainers.image.licenses="Apache-2.0"
# The folders exist with their owner, since a new named volume takes both from the image.
RUN groupadd --system --gid 10001 anomvae \
 && useradd --system --uid 10001 --gid 10001 --home-dir /var/cache/anomvae --no-create-home --shell /usr/sbin/nologin anomvae \
 && install --directory --owner=10001 --group=10001 --mode=0750 /var/cache/anomvae /models
COPY --from=build /opt/anomvae /opt/anomvae
COPY deploy/healthcheck.py /usr/local/lib/anomvae/healthcheck.py
# A read-only root: no bytecode is written (what serving imports is compiled already); what is written goes to the cache and /tmp.
ENV PATH=/opt/anomvae/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/var/cache/anomvae \
    ANOMVAE_CACHE=/var/cache/anomvae \
    ANOMVAE_SERVE_HOST=0.0.0.0 \
    ANOMVAE_SERVE_PORT=8080 \
    ANOMVAE_SERVE_GRPC_PORT=8081 \
    MLFLOW_ALLOW_MODEL_CODE_EXECUTION=false
USER 10001:10001
WORKDIR /models
VOLUME ["/var/cache/anomvae", "/tmp"]
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python3", "-IS", "/usr/local/lib/anomvae/healthcheck.py"]
ENTRYPOINT ["anomvae", "serve"]

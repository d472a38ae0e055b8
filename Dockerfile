# Two images from one file:
#   docker build --target cpu -t boomerang:0.1.0-cpu .
#   docker build --target gpu -t boomerang:0.1.0-gpu .
# BASE is any Debian 12 with apt; give it by digest where builds must repeat to the byte.  A pip
# index of your own is a secret, so that no address or password stays in a layer or the history:
#   docker build --secret id=pip,src=pip.conf …
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS python
ENV PATH=/opt/boomerang/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# tini is process 1: it passes SIGTERM on from the first moment and reaps what the engine leaves.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libnuma1 python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt/* /var/log/*.log

FROM python AS builder
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/boomerang
WORKDIR /src

# The dependencies change seldom: layers of their own, before any source.
FROM builder AS cpu-packages
COPY requirements/cpu.txt ./
# PyTorch's CPU wheel needs no more than that.  Where pip sees the CUDA build alone, the second
# command brings what it runs on, 4 GB: let pip.conf name PyTorch's index of CPU wheels.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --no-cache-dir --no-deps -r cpu.txt \
    && pip install --no-cache-dir -c cpu.txt torch \
    && pip uninstall --yes pip

FROM builder AS gpu-packages
COPY requirements/gpu.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --no-cache-dir --no-deps -r gpu.txt \
    && pip uninstall --yes pip

# Ours, as files below /staged that are laid over the packages.
FROM builder AS ours
COPY requirements/cpu.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    grep -E '^(setuptools|wheel)==' cpu.txt > build.txt \
    && pip install --no-cache-dir --no-deps -r build.txt
COPY pyproject.toml README.md LICENSE ./
COPY boomerang_core boomerang_core
COPY server server
RUN pip install --no-cache-dir --no-deps --no-build-isolation --root /staged --prefix /opt/boomerang .

# What both images have beside their packages.  Everything that is written goes below /cache and
# /tmp, which the container mounts: the root can be read-only.
FROM python AS runtime
RUN groupadd --gid 10001 boomerang \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin boomerang \
    && install -d -o 10001 -g 10001 /cache /families
ENV HOME=/cache \
    XDG_CACHE_HOME=/cache \
    XDG_CONFIG_HOME=/cache/config \
    HF_HOME=/cache/huggingface \
    TRITON_CACHE_DIR=/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    BOOMERANG_CACHE=/cache/boomerang \
    BOOMERANG_HOST=0.0.0.0
VOLUME ["/cache"]
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "boomerang"]
CMD ["serve"]
# Over TLS where the server has a certificate; it names a host, not this address.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python3", "-c", "import os, ssl, urllib.request as r; e = os.environ; s = 's' if e.get('BOOMERANG_TLS_CERT_FILE') else ''; r.build_opener(r.ProxyHandler({}), r.HTTPSHandler(context=ssl._create_unverified_context())).open(f'http{s}://127.0.0.1:' + e.get('BOOMERANG_PORT', '8000') + '/health')"]

FROM runtime AS gpu
# Triton compiles a small C stub for every kernel that it launches: the one compiler that stays.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt/* /var/log/*.log
# Which GPUs is for whoever starts the container: an `all` here would give a pod that asked for none
# every GPU of its node.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-packages /opt/boomerang /opt/boomerang
COPY --from=ours /staged/ /
USER 10001:10001
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="boomerang" \
    org.opencontainers.image.description="Every size of an LLM between a student and its teacher, from one engine (CUDA)" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"

FROM runtime AS cpu
COPY --from=cpu-packages /opt/boomerang /opt/boomerang
COPY --from=ours /staged/ /
USER 10001:10001
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="boomerang" \
    org.opencontainers.image.description="Every size of an LLM between a student and its teacher, from one engine (CPU)" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"

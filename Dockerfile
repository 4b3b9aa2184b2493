# For users without root, whichever their id; see docs/container.md.  For CPUs: --build-arg BASE=debian:bookworm
# The smallest of NVIDIA's images will do: pip brings CUDA's libraries along with torch.
ARG BASE=nvidia/cuda:12.8.1-base-ubuntu24.04
FROM ${BASE}

WORKDIR /opt/vintix-fast
# By itself, so that a change of the sources installs no packages again.
COPY csrc/ensure_system.sh csrc/
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends make \
    && sh csrc/ensure_system.sh && rm -rf /var/lib/apt/lists/*

COPY . .
# pip reads it: an index that has torch without CUDA's libraries makes the image some gigabytes smaller.
ARG PIP_EXTRA_INDEX_URL
# Compiled now, because users cannot keep bytecode beside our sources.
RUN PIP_NO_CACHE_DIR=1 make install && .venv/bin/python -m compileall -q benchmarks cli kernels vintix_fast

# What users write: the caches, make demo's run, eval's results.  Any id may, and nobody removes another's.
RUN mkdir -p -m 1777 /cache runs eval .pytest_cache
# An id that the system does not know has no home.  The rest stays here for those who come with a HOME of their own.
ENV HOME=/cache \
    XDG_CACHE_HOME=/cache \
    MPLCONFIGDIR=/cache/matplotlib \
    TRITON_CACHE_DIR=/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    CUDA_CACHE_PATH=/cache/cuda \
    PATH=/opt/vintix-fast/.venv/bin:$PATH
# A number, by which a cluster can tell that it is not root.
USER 1000:1000
CMD ["vintix-fast", "doctor"]

# The package on the CPU: workers of the docker and kubernetes pools, and both servers of compose.yaml (extra `server`).
#   docker build --file deployments/docker/cpu.Dockerfile --tag msft:cpu .        (from the repository's root)
# The Python version of constraints.txt. Debian's name is part of the tag, so that its packages stay of one release.
FROM python:3.11-slim-bookworm

# tini is process 1: it passes signals on to the command, which would not end on SIGTERM otherwise, and reaps orphans.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home msft \
    && install --directory --owner msft --group msft /msft

WORKDIR /opt/msft
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
# PyPI's torch is the CUDA build, with gigabytes of NVIDIA libraries. PyTorch's index has 2.x.y+cpu, which satisfies the
# constraint torch==2.x.y, and which pip prefers as the higher version.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt ./
RUN grep '^torch==' constraints.txt > torch.txt \
    && pip install --constraint constraints.txt --extra-index-url "$TORCH_INDEX" --requirement torch.txt \
    && python -c 'import torch; assert torch.version.cuda is None, torch.__version__'
COPY pyproject.toml README.md LICENSE ./
COPY flows flows
COPY tasks tasks
COPY deployments deployments
RUN pip install --constraint constraints.txt '.[server]'

# A number, so that Kubernetes can verify that it is not root.
USER 1000:1000
# The working directory of runs: a volume with configurations, data and searches/.
WORKDIR /msft
ENTRYPOINT ["tini", "-s", "--"]
CMD ["msft", "--help"]

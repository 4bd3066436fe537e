# The package with CUDA: workers of the docker and kubernetes pools.
#   docker build --file deployments/docker/gpu.Dockerfile --tag msft:gpu .        (from the repository's root)
# torch's wheels contain the CUDA libraries; the host provides the driver, through the NVIDIA container toolkit.
FROM python:3.11-slim-bookworm

# tini is process 1: it passes signals on to the command, which would not end on SIGTERM otherwise, and reaps orphans.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home msft \
    && install --directory --owner msft --group msft /msft

WORKDIR /opt/msft
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Empty: PyPI's build of torch. For a driver that is too old for its CUDA, use another of PyTorch's indexes, such as
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126
ARG TORCH_INDEX=
COPY constraints.txt ./
RUN grep '^torch==' constraints.txt > torch.txt \
    && pip install --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --requirement torch.txt \
    && python -c 'import torch; assert torch.version.cuda is not None, torch.__version__'
COPY pyproject.toml README.md LICENSE ./
COPY flows flows
COPY tasks tasks
COPY deployments deployments
RUN pip install --constraint constraints.txt .

# A number, so that Kubernetes can verify that it is not root.
USER 1000:1000
# The working directory of runs: a volume with configurations, data and searches/.
WORKDIR /msft
ENTRYPOINT ["tini", "-s", "--"]
CMD ["msft", "--help"]

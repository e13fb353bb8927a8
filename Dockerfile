# cifar-trainer in a container, for an unprivileged user. CI lints this file and does not build it.
#
#   docker build --target cpu --tag cifar-trainer .
#   docker build --target gpu --tag cifar-trainer:gpu .
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" cifar-trainer train --epochs 10
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" --volume "$PWD:/work" cifar-trainer:gpu env
#   docker run --rm --publish 8501:8501 --volume "$PWD:/work" cifar-trainer serve --host 0.0.0.0 runs/RUN

FROM python:3.13-slim AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
# Matplotlib and Keras want a writable home, whatever --user is.
ENV HOME=/tmp
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY cifar_trainer ./cifar_trainer

FROM base AS gpu
# CUDA and cuDNN come from pip; the host needs the NVIDIA driver and its container toolkit.
# pyproject.toml has the versions.
# hadolint ignore=DL3013
RUN pip install '.[all,gpu]'
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["cifar-trainer"]
CMD ["--help"]

FROM base AS cpu
# pyproject.toml has the versions.
# hadolint ignore=DL3013
RUN pip install '.[all]'
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["cifar-trainer"]
CMD ["--help"]

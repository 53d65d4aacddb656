# CPU:  docker build -t pynas .
# CUDA: docker build -t pynas:cuda --build-arg TARGET=cuda .   and   docker run --gpus all pynas:cuda doctor
ARG TARGET=cpu

FROM python:3.12-slim-trixie AS build-cpu
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
ENV PYNAS_CUDA=0

# nvcc alone comes from here: the core links CUDA's runtime statically, and torch brings its own libraries.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build-cuda
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-dev python3-pip \
    && rm -rf /var/lib/apt/lists/*
ENV PYNAS_CUDA=1

FROM build-${TARGET} AS build
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in CMakeLists.txt README.md LICENSE ./
COPY cmake cmake
COPY csrc csrc
COPY pynas pynas
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# torch.compile builds its kernels with g++, on a GPU their launchers.
FROM python:3.12-slim-trixie
COPY --from=build /wheels /wheels
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -m pip install --no-cache-dir "$(echo /wheels/*.whl)[onnx,tensorboard,webdataset]" \
    && rm -rf /wheels \
    && useradd --create-home --uid 1000 pynas \
    && chmod 1777 /home/pynas
# HOME and USER hold for any --user too: caches go below the one, and torch.compile asks for the other.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HOME=/home/pynas \
    USER=pynas
USER 1000
WORKDIR /home/pynas
# Runs and data lie outside: docker run --user "$(id -u)" --volume "$PWD:/home/pynas" pynas run --max-madds 16M
ENTRYPOINT ["pynas"]
CMD ["--help"]

# The CPU engine in a container: docker build -t quasar-rt . && docker run --rm quasar-rt demo
# One stage builds the wheel; the image has Python, the wheel and what it needs to run subnets.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends curl gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN curl --proto =https --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain stable
ENV PATH=/root/.cargo/bin:$PATH
COPY . /source
WORKDIR /source
RUN pip install --no-cache-dir 'maturin>=1.9.4,<2' && bash tools/build-wheel.sh /wheels

FROM python:${PYTHON}-slim-bookworm
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[web]" && rm -rf /wheels && useradd --create-home quasar
USER quasar
WORKDIR /home/quasar
ENTRYPOINT ["quasar-rt"]
CMD ["--help"]

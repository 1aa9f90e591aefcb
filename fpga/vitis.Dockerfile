# What `make hls-reports` needs but Vitis itself, which is mounted. This recipe was never built: docs/vitis-hour.md.
#     docker build -t quasar-vitis -f fpga/vitis.Dockerfile fpga
#     docker run --rm -it -v /tools/Xilinx:/tools/Xilinx:ro -v "$PWD":/quasar quasar-vitis make hls-reports BOARD=kv260
FROM ubuntu:22.04
# Those of the second line are libraries of Vitis that its installLibs.sh would install.
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
    ca-certificates curl g++ git libc6-dev make python-is-python3 python3 python3-venv \
    libncurses5 libtinfo5 libx11-6 locales unzip && locale-gen en_US.UTF-8 && rm -rf /var/lib/apt/lists/*
RUN curl --proto =https --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain stable
# Of the host's checkout, only build/ and the package's native module are written.
ENV PATH=/root/.cargo/bin:$PATH LANG=en_US.UTF-8 VITIS=/tools/Xilinx/Vitis/2024.2 VENV=/opt/venv CARGO_TARGET_DIR=/opt/target
WORKDIR /quasar
ENTRYPOINT ["bash", "-c", "source $VITIS/settings64.sh && exec \"$@\"", "quasar-vitis"]

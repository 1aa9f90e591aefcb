SUMMARY = "u-dma-buf: DMA memory for programs"
HOMEPAGE = "https://github.com/ikwzm/udmabuf"
LICENSE = "BSD-2-Clause"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/BSD-2-Clause;md5=cb641bc04cda31daea161b1bc15da69f"

# Copy the sources of a udmabuf release to files/, next to the Makefile.
SRC_URI = " \
    file://Makefile \
    file://u-dma-buf.c \
    file://u-dma-buf-ioctl.h \
"
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"

inherit module

RPROVIDES:${PN} += "kernel-module-u-dma-buf"
KERNEL_MODULE_AUTOLOAD += "u-dma-buf"

SUMMARY = "The quasar_rt accelerator: bitstream, device-tree overlay, description"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

# Copy to files/ the files of lib/firmware/xilinx that `make bitstream` writes, and the description and the clock's overlay next to it.
QUASAR_NAME = "quasar-${QUASAR_BOARD}"
SRC_URI = " \
    file://${QUASAR_NAME}.bit.bin \
    file://${QUASAR_NAME}.dtbo \
    file://shell.json \
    file://${QUASAR_BOARD}.json \
    file://quasar-clock.dtbo \
"
# Newer releases of Yocto unpack into UNPACKDIR, older ones into WORKDIR.
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"

COMPATIBLE_MACHINE = "^$"
COMPATIBLE_MACHINE:zynqmp = "zynqmp"
COMPATIBLE_MACHINE:zynq = "zynq"
PACKAGE_ARCH = "${MACHINE_ARCH}"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    folder=${D}${nonarch_base_libdir}/firmware/xilinx/${QUASAR_NAME}
    install -d $folder
    install -m 0644 ${S}/${QUASAR_NAME}.bit.bin ${S}/${QUASAR_NAME}.dtbo ${S}/shell.json $folder
    install -d ${D}${datadir}/quasar
    install -m 0644 ${S}/${QUASAR_BOARD}.json ${S}/quasar-clock.dtbo ${D}${datadir}/quasar/
}

FILES:${PN} = "${nonarch_base_libdir}/firmware/xilinx/${QUASAR_NAME} ${datadir}/quasar"

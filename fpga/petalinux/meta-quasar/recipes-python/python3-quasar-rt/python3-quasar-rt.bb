SUMMARY = "Vision Transformers on small FPGA boards, in integers"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

# Copy the board's wheel to files/ under this name.
SRC_URI = "file://quasar_rt.whl;unpack=0"
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"
DEPENDS = "unzip-native"

inherit python3-dir

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${PYTHON_SITEPACKAGES_DIR} ${D}${bindir}
    unzip -q ${S}/quasar_rt.whl -d ${D}${PYTHON_SITEPACKAGES_DIR}
    printf '#!/usr/bin/env python3\nfrom quasar_rt.cli import main\n\nmain()\n' > ${D}${bindir}/quasar-rt
    chmod 0755 ${D}${bindir}/quasar-rt
}

FILES:${PN} = "${PYTHON_SITEPACKAGES_DIR} ${bindir}/quasar-rt"
# The wheel's native module is stripped already.
INSANE_SKIP:${PN} += "already-stripped"
RDEPENDS:${PN} = "python3-core python3-modules python3-numpy python3-pillow python3-click python3-rich"

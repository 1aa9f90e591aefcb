# zcu102: part and board files as Vivado names them, and the processing system. The rest is in python/quasar_rt/boards/zcu102.toml.
set part xczu9eg-ffvb1156-2-e
set board_part xilinx.com:zcu102:part0
set processor zynq_ultra_ps_e

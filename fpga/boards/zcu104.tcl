# zcu104: part and board files as Vivado names them, and the processing system. The rest is in python/quasar_rt/boards/zcu104.toml.
set part xczu7ev-ffvc1156-2-e
set board_part xilinx.com:zcu104:part0
set processor zynq_ultra_ps_e

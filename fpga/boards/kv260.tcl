# kv260: part and board files as Vivado names them, and the processing system. The rest is in python/quasar_rt/boards/kv260.toml.
set part xck26-sfvc784-2LV-c
set board_part xilinx.com:kv260_som:part0
set processor zynq_ultra_ps_e

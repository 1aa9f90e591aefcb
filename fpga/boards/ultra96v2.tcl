# ultra96v2: part and board files as Vivado names them, and the processing system. The rest is in python/quasar_rt/boards/ultra96v2.toml.
set part xczu3eg-sbva484-1-e
set board_part avnet.com:ultra96v2:part0
set processor zynq_ultra_ps_e

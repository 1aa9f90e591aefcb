# pynq-zu: part and board files as Vivado names them, and the processing system. The rest is in python/quasar_rt/boards/pynq-zu.toml.
set part xczu5eg-sfvc784-1-e
set board_part tul.com.tw:pynqzu:part0
set processor zynq_ultra_ps_e

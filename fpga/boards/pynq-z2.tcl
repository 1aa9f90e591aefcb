# pynq-z2: part and board files as Vivado names them, and the processing system. The rest is in python/quasar_rt/boards/pynq-z2.toml.
set part xc7z020clg400-1
set board_part tul.com.tw:pynq-z2:part0
set processor processing_system7

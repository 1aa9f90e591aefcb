# For all boards. The IPs of the processing system and of the MMCM constrain the clocks; the fabric has no external
# pins.
set_property BITSTREAM.GENERAL.COMPRESS TRUE [current_design]

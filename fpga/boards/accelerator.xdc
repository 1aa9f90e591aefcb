# For all boards. The fabric has no external pins. The IP of the processing system constrains its clock. With
# clock_ratio = 2, the IP of the MMCM derives two clocks from it: clk_out1 (kernels) and clk_out2 (array, twice as fast).
# They are synchronous, and every path between them is timed with one period of the array: no false path, no multicycle
# path and no clock group may be set between them. On UltraScale+ design.tcl asks the IP for matched routing of both nets
# (CLOCK_DELAY_GROUP). The watchdog synchronises `locked` and the processing system's reset to the MMCM's input,
# clock_status both clocks, divided.
set_false_path -quiet -to [get_pins -quiet -hierarchical -filter {NAME =~ *watchdog*locked_here_reg*0*/D}]
set_false_path -quiet -to [get_pins -quiet -hierarchical -filter {NAME =~ *watchdog*resetn_here_reg*0*/D}]
set_false_path -quiet -to [get_pins -quiet -hierarchical -filter {NAME =~ *clock_status*here_reg*0*/D}]
set_property BITSTREAM.GENERAL.COMPRESS TRUE [current_design]

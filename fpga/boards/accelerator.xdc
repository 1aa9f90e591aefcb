# Of all boards. The fabric has one clock, which the processing system makes and whose IP constrains it; no pin leaves the fabric.
set_property BITSTREAM.GENERAL.COMPRESS TRUE [current_design]

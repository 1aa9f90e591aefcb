# Synthesises a kernel with the Tcl front end instead of v++: vitis-run --mode hls --tcl fpga/scripts/kernel.tcl, or vitis_hls -f.
#
# In the environment: KERNEL_CFG, the path of the kernel's cfg file, as tools/bitstream.py writes it; KERNEL_FOLDER, where
# to work (by default, here); ONLY_SYNTHESIS, which leaves out the packaging.

set file [open $::env(KERNEL_CFG)]
set settings [dict create]
foreach line [split [read $file] \n] {
  if {[regexp {^([a-z0-9_.]+)=(.*)$} $line -> key value]} { dict set settings $key $value }
}
close $file
set top [dict get $settings syn.top]
if {[info exists ::env(KERNEL_FOLDER)]} { cd $::env(KERNEL_FOLDER) }
open_project -reset $top
set_top $top
add_files [dict get $settings syn.file] -cflags [dict get $settings syn.cflags]
open_solution -reset solution -flow_target vivado
set_part [dict get $settings part]
create_clock -period [dict get $settings clock]
config_rtl -reset [dict get $settings syn.rtl.reset] -reset_level [dict get $settings syn.rtl.reset_level]
config_interface -m_axi_conservative_mode=1 -m_axi_addr64=1
if {[catch csynth_design message]} { puts "ERROR: $message"; exit 1 }
if {[info exists ::env(ONLY_SYNTHESIS)]} { exit }
export_design -format ip_catalog -vendor xilinx.com -library hls -ipname $top -version 1.0 -output $top.zip

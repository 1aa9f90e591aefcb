# vivado -mode batch -source fpga/scripts/bitstream.tcl -tclargs WORK
#
# Reads WORK/settings.tcl (written by tools/bitstream.py: name, root, board (dictionary), part, board_part) and the kernels' IP in
# WORK/kernels. Writes WORK/NAME.bit, WORK/NAME.hwh, WORK/NAME.xsa and reports.

set work [file normalize [lindex $argv 0]]
source [file join $work settings.tcl]
source [file join $root fpga scripts headers.tcl]
source [file join $root fpga scripts design.tcl]

create_project -force accelerator [file join $work project] -part $part
set board_parts [get_board_parts -quiet $board_part:*]
if {[llength $board_parts] == 0} {
  error "Vivado has no board files $board_part (Tools > Vivado Store, or xhub::install): the processing system's settings come from them"
}
set_property board_part [lindex [lsort -dictionary $board_parts] end] [current_project]
set_property ip_repo_paths [file join $work kernels] [current_project]
update_ip_catalog -rebuild
add_files -norecurse [glob [file join $root fpga rtl *.v] [file join $root fpga rtl *.sv]]
add_files -norecurse [glob [file join $work *_cell.v]]
add_files -fileset constrs_1 -norecurse [file join $root fpga boards accelerator.xdc]

accelerator_design [header_constants [file join $root fpga include isa.hpp]] [design_lists [file join $work design.txt]] $board
set design [get_files accelerator.bd]
add_files -norecurse [make_wrapper -files $design -top]
set_property top accelerator_wrapper [current_fileset]
generate_target all $design

set_property strategy Performance_ExplorePostRoutePhysOpt [get_runs impl_1]
launch_runs impl_1 -to_step write_bitstream -jobs 4
wait_on_run impl_1
if {[get_property PROGRESS [get_runs impl_1]] ne "100%"} { error "implementation failed: see [get_property DIRECTORY [get_runs impl_1]]" }
open_run impl_1
report_timing_summary -file [file join $work timing.rpt]
report_utilization -hierarchical -file [file join $work utilization.rpt]
# WNS, WHS and WPWS of the whole design: a path has no slack of a pulse width, and a run has no property for it.
if {![regexp {WNS\(ns\)[^\n]*\n[- ]+\n([^\n]+)} [report_timing_summary -return_string] -> slacks]} {
  error "Vivado's timing summary has no figures: read timing.rpt"
}
foreach {check column} {setup 0 hold 4 {pulse width} 8} {
  set slack [lindex $slacks $column]
  if {![string is double -strict $slack] || $slack < 0} {
    set advice [expr {$check eq "hold" ? "" : "; lower clock_mhz in the configuration"}]
    error "timing is not met at [dict get $board clock_mhz] MHz: $check slack $slack ns (timing.rpt)$advice"
  }
}

file copy -force [file join [get_property DIRECTORY [get_runs impl_1]] accelerator_wrapper.bit] [file join $work $name.bit]
foreach probes [glob -nocomplain -directory [get_property DIRECTORY [get_runs impl_1]] *.ltx] {
  file copy -force $probes [file join $work $name.ltx] ;# probes of the ILAs
}
set handoff [glob [file join $work project accelerator.gen sources_1 bd accelerator hw_handoff accelerator.hwh]]
file copy -force [lindex $handoff 0] [file join $work $name.hwh]
write_hw_platform -fixed -force -include_bit -file [file join $work $name.xsa]

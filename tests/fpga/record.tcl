# Vivado's commands, as far as fpga/scripts/design.tcl uses them: they print their arguments.
# tclsh record.tcl SCRIPTS ISA LISTS BOARD [MISSING...]   MISSING: IPs that the catalogue does not have

proc names {arguments} { return [lindex $arguments end] }
foreach command {get_bd_pins get_bd_intf_pins get_bd_cells get_bd_addr_spaces get_bd_addr_segs} {
  proc $command args { return [names $args] }
}
proc get_ipdefs args {
  set vln [string map {:* ""} [names $args]]
  if {$vln in $::missing} return
  return [list $vln:1.0]
}
proc create_bd_design name { puts [list design $name] }
proc create_bd_cell {- type - source name} {
  if {$type eq "inline_hdl" ^ [string match *:inline_hdl:* $source]} { error "$source is no $type" }
  puts [list cell $name $type $source]
  return $name
}
# The processing system's clock differs from the one that it is asked for. An MMCM's input has no frequency of its own.
set hertz [dict create ps/pl_clk0 149985016 ps/FCLK_CLK0 142857132]
proc get_property {name object} {
  if {$name ne "CONFIG.FREQ_HZ"} { error "$name of $object is not recorded" }
  return [dict get $::hertz $object]
}
proc set_property {- properties cell} {
  if {[dict exists $properties CONFIG.PRIM_IN_FREQ]} { error "BD 41-238: FREQ_HZ of $cell/clk_in1 does not match its source" }
  puts [list set $cell {*}$properties]
}
proc connect_bd_net {from to} { puts [list net $from $to] }
proc connect_bd_intf_net {from to} { puts [list bus $from $to] }
proc apply_bd_automation args { puts [list automation [names $args]] }
proc assign_bd_address args {
  if {[llength $args] == 0} return
  puts [list address [dict get $args -offset] [dict get $args -range] [lindex $args end-1]]
}
proc validate_bd_design {} { puts validate }
proc save_bd_design {} { puts save }

set missing [lassign $argv scripts isa lists board]
source $scripts/headers.tcl
source $scripts/design.tcl
accelerator_design [header_constants $isa] [design_lists $lists] $board

# Builds the block design: kernels, the queues and memories between them, the processing system, registers and reset.
#
#   accelerator_design ISA LISTS BOARD   ISA: constants of isa.hpp (headers.tcl)
#                                        LISTS: kernels, queues and memories (headers.tcl; from rust/hardware/src/design)
#                                        BOARD: dictionary with processor and clock_mhz, and ila: 1 adds System ILAs
# For Vivado 2023.2 and later. tests/fpga/test_kit.py runs it with stubs that record Vivado's commands.

# Register blocks: a register of isa.hpp in the block -> the block's slave interface and address segment.
set BLOCKS {
  reg::fetch_CTRL {fetch/s_axi_control Reg}
  reg::store_CTRL {store/s_axi_control Reg}
  reg::load_ARENA0 {load/s_axi_control Reg}
  reg::reset      {reset_register/S_AXI Reg}
  reg::counters_IDENTITY {counters/s_axi reg0}
}
set BLOCK_BYTES 0x10000

# Queues whose writer's side an ILA records: commands, sums, credits.
set ILA_STREAMS {
  load_commands array_commands drain_commands norm_commands softmax_commands score_commands passes sums
  load_to_array array_to_load drain_to_array norm_to_array softmax_to_array
}

# Creates a cell of the first of these IPs that the catalogue has, in its newest version. From 2024.2 on Vivado has inline HDL for
# the utility IPs, with the same properties and pins; later versions may drop the IPs.
proc ip {vlns name {properties {}}} {
  foreach vln $vlns {
    set versions [lsort -dictionary [get_ipdefs -quiet -all $vln:*]]
    if {[llength $versions] == 0} continue
    set type [expr {[lindex [split $vln :] 1] eq "inline_hdl" ? "inline_hdl" : "ip"}]
    set cell [create_bd_cell -type $type -vlnv [lindex $versions end] $name]
    if {[llength $properties]} { set_property -dict $properties $cell }
    return
  }
  error "the IP catalogue has no [join $vlns { or }] (kernels: those that Vitis HLS packaged)"
}

proc wire {from args} {
  foreach to $args { connect_bd_net [get_bd_pins $from] [get_bd_pins $to] }
}

# Connects two interfaces. Counters and ILAs have monitor interfaces, which join an existing connection and drive nothing.
proc bus {from to} {
  connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $to]
}

# Returns the pin of a signal of bank i of a kernel's memory port. HLS numbers the banks of a completely partitioned array; a
# single bank may have no number.
proc memory_pin {port i banks signal} {
  set names [list ${port}_${i}_$signal]
  if {$banks == 1} { lappend names ${port}_$signal }
  foreach name $names {
    if {[llength [get_bd_pins -quiet $name]]} { return $name }
  }
  error "$port has no signal $signal of bank $i: is its interface ap_memory, partitioned completely in dimension 1?"
}

# Drives pins with a constant 1.
proc constant {name to} {
  ip {xilinx.com:ip:xlconstant xilinx.com:inline_hdl:ilconstant} $name {CONFIG.CONST_WIDTH 1 CONFIG.CONST_VAL 1}
  foreach pin $to { wire $name/dout $pin }
}

# Concatenates signals to a vector.
proc concatenate {name signals} {
  ip {xilinx.com:ip:xlconcat xilinx.com:inline_hdl:ilconcat} $name [list CONFIG.NUM_PORTS [llength $signals]]
  set i 0
  foreach signal $signals { wire $signal $name/In$i; incr i }
}

proc processing_system {board ports} {
  set clock [dict get $board clock_mhz]
  if {[dict get $board processor] eq "zynq_ultra_ps_e"} {
    ip xilinx.com:ip:zynq_ultra_ps_e ps
    apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e -config {apply_board_preset 1} [get_bd_cells ps]
    set properties [list CONFIG.PSU__USE__M_AXI_GP0 1 CONFIG.PSU__USE__M_AXI_GP1 0 CONFIG.PSU__USE__M_AXI_GP2 0 \
      CONFIG.PSU__USE__IRQ0 1 CONFIG.PSU__FPGA_PL0_ENABLE 1 CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ $clock \
      CONFIG.PSU__GPIO_EMIO__PERIPHERAL__ENABLE 1 CONFIG.PSU__GPIO_EMIO__PERIPHERAL__IO 32]
    set memory {}
    for {set i 0} {$i < $ports} {incr i} {
      # S_AXI_GP2 to GP5 are the high-performance ports HP0 to HP3.
      lappend properties CONFIG.PSU__USE__S_AXI_GP[expr {$i + 2}] 1 CONFIG.PSU__SAXIGP[expr {$i + 2}]__DATA_WIDTH 128
      lappend memory [list ps/S_AXI_HP${i}_FPD ps/saxihp${i}_fpd_aclk]
    }
    set_property -dict $properties [get_bd_cells ps]
    return [dict create clock ps/pl_clk0 reset ps/pl_resetn0 interrupts ps/pl_ps_irq0 gpio ps/emio_gpio_i base 0xA0000000 \
      registers {ps/M_AXI_HPM0_FPD ps/maxihpm0_fpd_aclk} memory $memory space ps/Data]
  }
  ip xilinx.com:ip:processing_system7 ps
  apply_bd_automation -rule xilinx.com:bd_rule:processing_system7 \
    -config {make_external "FIXED_IO, DDR" apply_board_preset 1 Master Disable Slave Disable} [get_bd_cells ps]
  set properties [list CONFIG.PCW_USE_M_AXI_GP0 1 CONFIG.PCW_USE_FABRIC_INTERRUPT 1 CONFIG.PCW_IRQ_F2P_INTR 1 \
    CONFIG.PCW_EN_CLK0_PORT 1 CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ $clock \
    CONFIG.PCW_GPIO_EMIO_GPIO_ENABLE 1 CONFIG.PCW_GPIO_EMIO_GPIO_IO 32]
  set memory {}
  for {set i 0} {$i < $ports} {incr i} {
    lappend properties CONFIG.PCW_USE_S_AXI_HP$i 1 CONFIG.PCW_S_AXI_HP${i}_DATA_WIDTH 64
    lappend memory [list ps/S_AXI_HP$i ps/S_AXI_HP${i}_ACLK]
  }
  set_property -dict $properties [get_bd_cells ps]
  return [dict create clock ps/FCLK_CLK0 reset ps/FCLK_RESET0_N interrupts ps/IRQ_F2P gpio ps/GPIO_I base 0x40000000 \
    registers {ps/M_AXI_GP0 ps/M_AXI_GP0_ACLK} memory $memory space ps/Data]
}

# Returns the kernels that report the ends of commands. The lanes end those of the drain.
proc counted_kernels {kernels} { return [lsearch -all -inline -not -exact $kernels drain] }

proc accelerator_design {isa lists board} {
  global BLOCKS BLOCK_BYTES
  set kernels [dict get $lists kernels]
  set counted [dict get $lists counters]
  set blocks $BLOCKS
  if {[dict size $counted] == 0} { dict unset blocks reg::counters_IDENTITY }
  set ports [dict get $lists ports]
  create_bd_design accelerator
  set ps [processing_system $board $ports]
  set clock [dict get $ps clock]
  set array_clock $clock

  # If the array's clock is twice the kernels' clock, one MMCM generates both, in phase. The processing system's clock is only near
  # the one that it is asked for. Vivado refuses any other frequency at the MMCM's input (BD 41-238), so PRIM_IN_FREQ is left to
  # parameter propagation.
  if {[dict get $lists clock_ratio] == 2} {
    set mhz [expr {[get_property CONFIG.FREQ_HZ [get_bd_pins $clock]] / 1e6}]
    set properties [list CONFIG.PRIM_SOURCE No_buffer \
      CONFIG.CLKOUT1_REQUESTED_OUT_FREQ $mhz CONFIG.CLKOUT2_USED true CONFIG.CLKOUT2_REQUESTED_OUT_FREQ [expr {2 * $mhz}] \
      CONFIG.RESET_TYPE ACTIVE_LOW]
    # Many paths cross between these clocks, so both get the same buffers and matched routes (UG949, "Synchronous CDC").
    if {[dict get $board processor] eq "zynq_ultra_ps_e"} {
      foreach output {1 2} { lappend properties CONFIG.CLKOUT${output}_DRIVES Buffer CONFIG.CLKOUT${output}_MATCHED_ROUTING true }
    }
    ip xilinx.com:ip:clk_wiz clocks $properties
    wire $clock clocks/clk_in1
    # The processing system may change the MMCM's input at any time.
    create_bd_cell -type module -reference clock_watchdog watchdog
    wire $clock watchdog/clk
    wire [dict get $ps reset] watchdog/resetn
    wire clocks/locked watchdog/locked
    wire watchdog/mmcm_resetn clocks/resetn
    set clock clocks/clk_out1
    set array_clock clocks/clk_out2
  }

  # Shows the processing system whether these clocks run. It is no AXI slave: an access to a slave without a clock never ends.
  set cell [create_bd_cell -type module -reference clock_status clock_status]
  set_property -dict [list CONFIG.RATIO [dict get $lists clock_ratio]] $cell
  wire [dict get $ps clock] clock_status/clk
  wire $clock clock_status/clk_kernels
  wire $array_clock clock_status/clk_array
  if {[dict get $lists clock_ratio] == 2} {
    wire clocks/locked clock_status/locked
  } else {
    wire [dict get $ps reset] clock_status/locked
  }
  wire clock_status/status [dict get $ps gpio]

  # Kernels. The kernels without registers start after a reset and never end.
  foreach kernel $kernels {
    ip xilinx.com:hls:$kernel $kernel
    wire $clock $kernel/ap_clk
  }
  constant start {plan/ap_start scores/ap_start drain/ap_start norm/ap_start softmax/ap_start}
  create_bd_cell -type module -reference array_cell array_cell
  create_bd_cell -type module -reference lanes_cell lanes
  foreach cell {array_cell lanes} {
    wire $clock $cell/clk
    wire $array_clock $cell/clk_array
  }

  # Resets. The processing system resets everything. The reset register resets only the kernels, the array and the queues, once the memory ports are
  # idle.
  ip xilinx.com:ip:proc_sys_reset main_reset
  wire $clock main_reset/slowest_sync_clk
  wire [dict get $ps reset] main_reset/ext_reset_in
  set resetn main_reset/peripheral_aresetn
  ip xilinx.com:ip:axi_gpio reset_register {CONFIG.C_GPIO_WIDTH 1 CONFIG.C_ALL_OUTPUTS 1 CONFIG.C_DOUT_DEFAULT 0x00000000}
  wire $clock reset_register/s_axi_aclk
  wire $resetn reset_register/s_axi_aresetn
  ip xilinx.com:ip:proc_sys_reset kernel_reset {CONFIG.C_AUX_RESET_HIGH 1}
  wire $clock kernel_reset/slowest_sync_clk
  wire [dict get $ps reset] kernel_reset/ext_reset_in
  foreach kernel $kernels { wire kernel_reset/peripheral_aresetn $kernel/ap_rst_n }
  foreach cell {array_cell lanes} { wire kernel_reset/peripheral_aresetn $cell/resetn }
  if {[dict get $lists clock_ratio] == 2} { wire clocks/locked main_reset/dcm_locked kernel_reset/dcm_locked }

  # Queues.
  dict for {queue shape} [dict get $lists queues] {
    ip xilinx.com:ip:axis_data_fifo ${queue}_queue [list CONFIG.FIFO_DEPTH [dict get $shape depth] \
      CONFIG.FIFO_MEMORY_TYPE [dict get $shape ram]]
    wire $clock ${queue}_queue/s_axis_aclk
    wire kernel_reset/peripheral_aresetn ${queue}_queue/s_axis_aresetn
    bus [dict get $shape writer] ${queue}_queue/S_AXIS
    bus ${queue}_queue/M_AXIS [dict get $shape reader]
  }

  # The counters monitor the queues and two memory ports. Without counters, a constant accepts the items of the kernels' `retired`
  # streams.
  if {[dict size $counted]} {
    create_bd_cell -type module -reference counters_cell counters
    wire $clock counters/clk
    wire $resetn counters/resetn
    wire kernel_reset/peripheral_aresetn counters/kernels_resetn
    foreach event {retired starved} { wire array_cell/$event counters/array_$event }
    wire lanes/retired counters/lanes_retired
    foreach kernel [counted_kernels $kernels] { bus $kernel/retired counters/${kernel}_retired }
    foreach queue [dict get $counted written] {
      bus [dict get $lists queues $queue writer] counters/${queue}_written
    }
    foreach queue [dict get $counted read] { bus ${queue}_queue/M_AXIS counters/${queue}_read }
    dict for {unit port} [dict get $counted memories] { bus $port counters/${unit}_memory }
  } else {
    foreach kernel [counted_kernels $kernels] { lappend ready $kernel/retired_TREADY }
    constant taken $ready
  }

  # Memories: a dual-port RAM for each bank.
  dict for {memory shape} [dict get $lists memories] {
    dict with shape {
      for {set i 0} {$i < $banks} {incr i} {
        set cell [create_bd_cell -type module -reference bank ${memory}_$i]
        set_property -dict [list CONFIG.WIDTH $bits CONFIG.WORDS $words CONFIG.ADDRESS_BITS $address_bits \
          CONFIG.STYLE $ram] $cell
        wire $clock ${memory}_$i/clk
        wire [memory_pin $writer $i $banks address0] ${memory}_$i/write_address
        wire [memory_pin $writer $i $banks ce0] ${memory}_$i/write_ce
        wire [memory_pin $writer $i $banks we0] ${memory}_$i/write_we
        wire [memory_pin $writer $i $banks d0] ${memory}_$i/write_d
        wire [memory_pin $reader $i $banks address0] ${memory}_$i/read_address
        wire [memory_pin $reader $i $banks ce0] ${memory}_$i/read_ce
        wire ${memory}_$i/read_q [memory_pin $reader $i $banks q0]
      }
    }
  }

  # Memories inside the array, which has a write port for each bank.
  dict for {memory shape} [dict get $lists array_memories] {
    set banks [dict get $shape banks]
    for {set i 0} {$i < $banks} {incr i} {
      foreach signal {address0 ce0 we0 d0} {
        wire [memory_pin [dict get $shape writer] $i $banks $signal] array_cell/${memory}_${i}_$signal
      }
    }
  }

  # Memory ports. Each kernel port passes through a shutdown manager; commands and logits share the first port of load.
  set masters [list {fetch m_axi_commands 128} {store m_axi_memory 128}]
  for {set i 0} {$i < $ports} {incr i} { lappend masters [list load m_axi_memory$i 128] }
  set idle {}
  foreach master $masters {
    lassign $master kernel port width
    set gate ${kernel}_${port}_gate
    ip xilinx.com:ip:dfx_axi_shutdown_manager $gate [list CONFIG.CTRL_INTERFACE_TYPE 0 CONFIG.RP_IS_MASTER true \
      CONFIG.DP_AXI_ADDR_WIDTH 64 CONFIG.DP_AXI_DATA_WIDTH $width]
    wire $clock $gate/clk
    wire $resetn $gate/resetn
    wire reset_register/gpio_io_o $gate/request_shutdown
    bus $kernel/$port $gate/S_AXI
    lappend idle $gate/in_shutdown
  }
  # load always has four ports; those beyond the configuration's number stay unconnected.
  concatenate ports_idle $idle
  ip {xilinx.com:ip:util_reduced_logic xilinx.com:inline_hdl:ilreduced_logic} all_idle [list CONFIG.C_OPERATION and CONFIG.C_SIZE [llength $idle]]
  wire ports_idle/dout all_idle/Op1
  wire all_idle/Res kernel_reset/aux_reset_in
  for {set i 0} {$i < $ports} {incr i} {
    lassign [lindex [dict get $ps memory] $i] slave slave_clock
    set sources [list load_m_axi_memory${i}_gate]
    if {$i == 0} { lappend sources fetch_m_axi_commands_gate store_m_axi_memory_gate }
    ip xilinx.com:ip:smartconnect memory$i [list CONFIG.NUM_SI [llength $sources] CONFIG.NUM_MI 1]
    wire $clock memory$i/aclk $slave_clock
    wire $resetn memory$i/aresetn
    set j 0
    foreach source $sources { bus $source/M_AXI memory$i/S0${j}_AXI; incr j }
    bus memory$i/M00_AXI $slave
  }

  # Registers.
  lassign [dict get $ps registers] master master_clock
  ip xilinx.com:ip:smartconnect registers [list CONFIG.NUM_SI 1 CONFIG.NUM_MI [dict size $blocks]]
  wire $clock registers/aclk $master_clock
  wire $resetn registers/aresetn
  bus $master registers/S00_AXI
  set i 0
  dict for {constant slave} $blocks {
    bus registers/M0${i}_AXI [lindex $slave 0]
    incr i
  }
  dict for {constant slave} $blocks {
    set offset [expr {[dict get $ps base] + [dict get $isa $constant] / $BLOCK_BYTES * $BLOCK_BYTES}]
    assign_bd_address -offset [format 0x%08X $offset] -range 64K \
      -target_address_space [get_bd_addr_spaces [dict get $ps space]] [get_bd_addr_segs [join $slave /]] -force
  }
  assign_bd_address

  # A UIO device has one interrupt, so store and fetch share it. The host reads the status of both.
  concatenate interrupts {store/interrupt fetch/interrupt}
  ip {xilinx.com:ip:util_reduced_logic xilinx.com:inline_hdl:ilreduced_logic} interrupt {CONFIG.C_OPERATION or CONFIG.C_SIZE 2}
  wire interrupts/dout interrupt/Op1
  wire interrupt/Res [dict get $ps interrupts]

  if {[dict exists $board ila] && [dict get $board ila]} { add_ilas $lists $clock $masters }

  validate_bd_design
  save_bd_design
}

# Adds two System ILAs for Vivado's hardware manager: one on streams between units, one on the memory ports. docs/building.md
# lists the slots in this order.
proc add_ilas {lists clock masters} {
  global ILA_STREAMS
  foreach queue $ILA_STREAMS { lappend streams [dict get $lists queues $queue writer] }
  foreach master $masters { lappend memories [join [lrange $master 0 1] /] }
  foreach {name kind suffix watched} [list ila_streams axis AXIS $streams ila_memory aximm AXI $memories] {
    set properties [list CONFIG.C_MON_TYPE INTERFACE CONFIG.C_NUM_MONITOR_SLOTS [llength $watched] CONFIG.C_DATA_DEPTH 1024]
    for {set i 0} {$i < [llength $watched]} {incr i} {
      lappend properties CONFIG.C_SLOT_${i}_INTF_TYPE xilinx.com:interface:${kind}_rtl:1.0 CONFIG.C_SLOT_${i}_APC_EN 0
    }
    ip xilinx.com:ip:system_ila $name $properties
    wire $clock $name/clk
    wire kernel_reset/peripheral_aresetn $name/resetn
    set i 0
    foreach port $watched { bus $port $name/SLOT_${i}_$suffix; incr i }
  }
}

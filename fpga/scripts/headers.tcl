# Reads files that the build generates.

# Returns the constants of a C++ header (isa.hpp) as a dictionary: NAME or namespace::NAME -> value.

proc header_constants {path} {
  set file [open $path]
  set text [read $file]
  close $file
  set constants [dict create]
  set scope {}
  foreach line [split $text \n] {
    if {[regexp {^namespace (\w+) \{} $line -> name]} {
      lappend scope $name
    } elseif {[regexp {^\} // namespace} $line]} {
      set scope [lrange $scope 0 end-1]
    } elseif {[regexp {^constexpr unsigned (\w+) = (0x[0-9a-f]+|\d+)u?;} $line -> name value]} {
      # The outermost namespace is the header's own.
      dict set constants [join [concat [lrange $scope 1 end] $name] ::] [expr {$value}]
    }
  }
  return $constants
}

# Returns the lists of the design as a dictionary.
proc design_lists {path} {
  set file [open $path]
  set lists [read $file]
  close $file
  return $lists
}

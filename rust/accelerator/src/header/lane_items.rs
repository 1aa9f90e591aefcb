//! Generates the items of the lanes' queues, in C++ and in `SystemVerilog`.

use std::fmt::Write;

use quasar_hardware::design::{
    ItemField, COLUMN_BITS, FILL_BITS, LANE_ADDRESS_BITS, LANE_BANK_BITS, LANE_JOB, LANE_JOB_BITS,
    LANE_PARAMETERS, LANE_ROW, LANE_ROW_BITS, MOMENT_BITS, RECIPROCAL_BITS, SCALE_BITS, TOKEN_BITS,
    ZERO_POINT_BITS,
};

use super::{packed_struct, sentence, value_constants};
use crate::isa::{Destination, Unit, OPERATIONS};

const GENERATED: &str = "// Generated from rust/hardware/src/design/lane_items.rs; do not edit.";
const JOB: &str = "A command, as the lanes need it.";
const PARAMETERS: &str = "The parameters of a row.";
const ROW: &str = "A row of a tile of tokens, with its addresses.";

/// Generates `fpga/include/lane_items.hpp`.
pub fn lane_header() -> String {
    let mut text = format!(
        "{GENERATED}\n// clang-format off\n#pragma once\n\n#include \"packing.hpp\"\n\
         #include \"types.hpp\"\n"
    );
    text += &item("lane_job_t", JOB, None, LANE_JOB);
    text += &item("row_t", PARAMETERS, None, LANE_PARAMETERS);
    text + &item("lane_row_t", ROW, Some("row"), LANE_ROW)
}

/// Writes a struct, behind a `row_t` of that name if there is one, with what packs it.
fn item(name: &str, about: &str, row: Option<&str>, fields: &[ItemField]) -> String {
    let (mut members, mut visits, mut bits) = (String::new(), String::new(), Vec::new());
    if let Some(row) = row {
        let _ = writeln!(members, "  row_t {row};");
        let _ = writeln!(visits, "  each_number(f, item.{row});");
        bits.push("ITEM_BITS<row_t>".to_owned());
    }
    for field in fields {
        let kind = if field.signed { 's' } else { 'u' };
        let about = sentence(field.about);
        let _ = writeln!(
            members,
            "  // {about}\n  {kind}<{}> {};",
            field.bits, field.name
        );
        let _ = writeln!(visits, "  f(item.{});", field.name);
    }
    bits.push(
        fields
            .iter()
            .map(|field| field.bits)
            .sum::<u32>()
            .to_string(),
    );
    format!(
        "\n// {about}\nstruct {name} {{\n{members}}};\ntemplate <> struct item_bits<{name}> {{\n  \
         static constexpr int value = {};\n}};\ntemplate <typename F> void each_number(F& f, \
         {name}& item) {{\n#pragma HLS INLINE\n{visits}}}\n",
        bits.join(" + ")
    )
}

/// Generates `fpga/rtl/lane_types.sv`.
pub fn lane_package() -> String {
    let mut text = format!("{GENERATED}\n\npackage lane_types;\n\n");
    for (name, bits) in [
        ("LANE_JOB_BITS", LANE_JOB_BITS),
        ("LANE_ROW_BITS", LANE_ROW_BITS),
        ("SCALE_BITS", SCALE_BITS),
        ("MOMENT_BITS", MOMENT_BITS),
        ("TOKEN_BITS", TOKEN_BITS.into()),
        ("COLUMN_BITS", COLUMN_BITS.into()),
        ("ZERO_POINT_BITS", ZERO_POINT_BITS.into()),
        ("RECIPROCAL_BITS", RECIPROCAL_BITS.into()),
        ("FILL_BITS", FILL_BITS.into()),
        ("LANE_BANK_BITS", LANE_BANK_BITS.into()),
        ("LANE_ADDRESS_BITS", LANE_ADDRESS_BITS.into()),
    ] {
        let _ = writeln!(text, "    localparam int {name} = {bits};");
    }
    let jobs = OPERATIONS
        .iter()
        .filter(|operation| operation.unit == Unit::Drain)
        .map(|operation| (operation.name.to_uppercase(), operation.code));
    text += "\n    // Commands.\n";
    text += &value_constants("JOB", bits_of(LANE_JOB, "operation"), jobs);
    let destinations = Destination::VALUES.values.iter();
    text += "\n    // Destinations of a row.\n";
    text += &value_constants(
        "TO",
        bits_of(LANE_PARAMETERS, "destination"),
        destinations.map(|value| (value.name.to_uppercase(), value.code)),
    );
    text += &packed_struct("lane_job_t", JOB, 0, LANE_JOB);
    text += &packed_struct("lane_row_t", ROW, 0, &[LANE_PARAMETERS, LANE_ROW].concat());
    text + "\nendpackage\n"
}

fn bits_of(fields: &[ItemField], name: &str) -> u32 {
    let field = fields.iter().find(|field| field.name == name);
    field.expect("the field is declared").bits
}

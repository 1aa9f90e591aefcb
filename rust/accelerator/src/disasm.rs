//! Prints commands as text. Depends on [`crate::isa`] and [`crate::program`].

use std::fmt::Write;

use crate::isa::{Command, Form};
use crate::program::{Program, Segment};

/// Formats a command: its name, named values, set flags and non-zero numbers. Frame and parity are
/// printed even if they are 0.
pub fn command(command: Command) -> String {
    let operation = command.operation();
    let mut text = operation.name.to_owned();
    for (field, code) in operation.fields.iter().zip(command.codes()) {
        let name = field.name;
        let _ = match field.form {
            Form::Named(values) => {
                let value = values.values[code as usize].name.to_lowercase();
                write!(text, " {name}={value}")
            }
            Form::Flag if code == 1 => write!(text, " {name}"),
            Form::Unsigned | Form::Signed if code != 0 || matches!(name, "frame" | "parity") => {
                write!(text, " {name}={code}")
            }
            _ => Ok(()),
        };
    }
    text
}

/// Lists a segment's commands, one a line: index, unit, slot.phase, stage, command.
///
/// # Panics
/// For a segment that a configuration with one frame in flight does not have.
pub fn disassemble(program: &Program, segment: Segment) -> String {
    let (commands, places) = (program.commands(segment), program.places(segment));
    let c = program.hardware().configuration();
    let mut text = format!(
        "; {}: {} commands; {:?} on {}, {} x {} row pairs, {} requantizing lanes; arena: {} beats of {} bytes\n",
        segment,
        commands.len(),
        program.name(),
        c.board,
        c.array.tokens,
        c.array.pairs,
        c.lanes.requantize,
        program.arena().len() / program.beat_bytes(),
        program.beat_bytes(),
    );
    for (index, (&one, place)) in commands.iter().zip(places).enumerate() {
        let _ = writeln!(
            text,
            "{index:5}  {:<7}  {}.{:<3} {:<13} {}",
            one.unit().name(),
            place.slot,
            place.phase,
            place.stage,
            command(one)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Gemm, Load, LoadEnd, Source, Target};
    use crate::testing::{golden, hardware};

    #[test]
    fn a_command_shows_what_it_says() {
        let load = Load {
            target: Target::Patches,
            input: true,
            wait_array: true,
            beats: 7,
            ..Load::default()
        };
        assert_eq!(
            command(load.into()),
            "Load target=patches input wait_array frame=0 beats=7"
        );
        let gemm = Gemm {
            source: Source::Normed,
            frame: 1,
            tokens: 3,
            ..Gemm::default()
        };
        assert_eq!(command(gemm.into()), "Gemm source=normed frame=1 tokens=3");
        assert_eq!(
            command(
                LoadEnd {
                    frame: 1,
                    transfers: 7
                }
                .into()
            ),
            "LoadEnd frame=1 transfers=7"
        );
    }

    /// Compares the listing of a small network with the committed listing. `UPDATE=1 cargo test
    /// disassembly` writes it anew.
    #[test]
    fn the_disassembly_is_the_committed_one() {
        let subnet = golden("overlap");
        let hardware = hardware(&subnet, "zcu102", [7, 8, 4, 3, 3, 1, 2]);
        let program = Program::compile(&subnet, &hardware).unwrap();
        let text: String = [Segment::Start(0), Segment::Step(0), Segment::End(1)]
            .map(|segment| disassemble(&program, segment))
            .concat();
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/vectors/overlap.commands.txt"
        );
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), text);
    }
}

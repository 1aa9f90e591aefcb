//! The compiler: makes command lists and the arena's image of a subnet, for a configuration.
//!
//! | module | what it does |
//! |---|---|
//! | `plan` | gives each transfer its place in the arena, from sizes and row widths alone |
//! | `numbers` | collects the numbers of commands that only weights have |
//! | `phases` | makes the commands of each phase of a frame, and interleaves the phases of two frames |
//! | `arena` | fills the arena |
//!
//! Commands stand in the order of one sequential program. A matrix's transfers follow the commands
//! that take them, tile by tile: so load's consumers have their commands, whatever the number of
//! transfers. A frame's transfers stand in the arena in the order in which the frame reads them.
//! Depends on [`crate::arena_layout`], [`crate::isa`], [`crate::program`], [`crate::shape`]
//! and `unit`.

mod arena;
mod numbers;
mod phases;
mod plan;

use quasar_core::error::{Error, Result};
use quasar_core::memory;
use quasar_core::Subnet;
use quasar_hardware::{Hardware, Workload};

use self::numbers::Numbers;
use self::phases::segments;
use self::plan::{Outline, Plan};
use crate::program::{List, Program};
use crate::shape::Shape;

impl Program {
    /// Compiles a subnet. The same subnet and configuration always give the same program.
    ///
    /// # Errors
    /// [`Error::InvalidSettings`] for a configuration that the HLS sources cannot be built for,
    /// [`Error::DoesNotFit`] if a buffer or a command's field cannot hold what the subnet needs,
    /// [`Error::InvalidValue`] for a subnet that no accelerator runs.
    pub fn compile(subnet: &Subnet, hardware: &Hardware) -> Result<Self> {
        let outline = Outline {
            workload: Workload::of_subnet(subnet)?,
        };
        check(&outline.workload, hardware)?;
        // The arena, and lists of commands on their way to it.
        memory::check("compiling the subnet", 6 * subnet.summary().tensor_bytes)?;
        let shape = Shape::of(hardware);
        let plan = Plan::new(&outline, hardware);
        let numbers = Numbers::of(subnet);
        let lists = segments(&outline, hardware, &plan, &numbers);
        encodable(&lists)?;
        let (arena, output_of_logit) = arena::write(subnet, &outline, &plan, &shape);
        let (arena, arena_checks) = arena.into_parts();
        Ok(Self {
            hardware: hardware.clone(),
            name: outline.workload.name.clone(),
            sizes: outline.sizes(),
            lists,
            arena,
            arena_checks,
            output_of_logit,
            outputs: subnet.config().outputs(),
            head_rows: subnet.config().head_rows(),
            first_code: if subnet.config().repeats_inputs() {
                subnet.config().classes.len()
            } else {
                subnet.config().head_rows()
            },
        })
    }
}

/// Makes the command lists of a network of which only sizes and row widths are known. Numbers that
/// do not matter for time are 0: those of norms and attention, and zero points.
///
/// # Errors
/// As [`Program::compile`].
pub fn schedule(workload: &Workload, hardware: &Hardware) -> Result<Vec<List>> {
    let outline = Outline {
        workload: workload.clone(),
    };
    check(workload, hardware)?;
    let plan = Plan::new(&outline, hardware);
    let lists = segments(&outline, hardware, &plan, &Numbers::unknown(workload));
    encodable(&lists)?;
    Ok(lists)
}

/// Refuses values that a command's field cannot hold.
fn encodable(lists: &[List]) -> Result<()> {
    lists
        .iter()
        .flat_map(|list| &list.commands)
        .try_for_each(|command| command.encode().map(|_| ()))
}

/// Refuses lanes without a table, which are modelled only, and subnets that do not fit the buffers.
fn check(workload: &Workload, hardware: &Hardware) -> Result<()> {
    let c = hardware.configuration();
    if c.lanes.gelu != c.lanes.requantize {
        return Err(Error::settings(
            "hardware configuration",
            "lanes.gelu",
            format!(
                "is {}; the accelerator's lanes all have a table, so it must be lanes.requantize ({})",
                c.lanes.gelu, c.lanes.requantize
            ),
        ));
    }
    hardware.check_fit(workload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Command, LayerNorm, RowsCommand, Softmax};
    use crate::testing::{golden, hardware, GOLDEN};
    use quasar_hardware::Hardware;

    /// Returns the command without the numbers that only weights have.
    fn without_numbers(command: Command) -> Command {
        match command {
            Command::LayerNorm(c) => LayerNorm {
                frac: 0,
                epsilon: 0,
                ..c
            }
            .into(),
            Command::Softmax(c) => Softmax {
                out_shift: 0,
                out_mult: 0,
                mult: 0,
                cap: 0,
                ..c
            }
            .into(),
            Command::Rows(c) => RowsCommand { zero_point: 0, ..c }.into(),
            other => other,
        }
    }

    #[test]
    fn a_schedule_is_the_programs_but_for_its_numbers() {
        for name in GOLDEN {
            let subnet = golden(name);
            let hardware = hardware(&subnet, "zcu102", [5, 3, 2, 2, 2, 1, 2]);
            let program = Program::compile(&subnet, &hardware).unwrap();
            let lists = schedule(&Workload::of_subnet(&subnet).unwrap(), &hardware).unwrap();
            for list in lists {
                let commands = program.commands(list.segment).iter();
                let commands: Vec<_> = commands.map(|&c| without_numbers(c)).collect();
                assert_eq!(commands, list.commands, "{name} {}", list.segment);
                assert_eq!(program.places(list.segment), list.places);
            }
        }
    }

    #[test]
    fn what_has_no_table_or_is_not_held_is_refused_by_name() {
        let subnet = golden("token");
        let good = hardware(&subnet, "zcu102", [5, 3, 2, 2, 2, 1, 2]);
        let error = |change: fn(&mut quasar_hardware::Configuration)| {
            let mut configuration = good.configuration().clone();
            change(&mut configuration);
            let hardware = Hardware::new(configuration, good.board().clone()).unwrap();
            Program::compile(&subnet, &hardware)
                .unwrap_err()
                .to_string()
        };
        for (message, expected) in [
            (error(|c| c.lanes.gelu = 1), "lanes.gelu: is 1"),
            (
                error(|c| c.buffers.input = 15),
                "the input buffer needs 16 words a lane, 1 more than the 15",
            ),
            (error(|c| c.buffers.hidden = 1), "the hidden buffer needs"),
        ] {
            assert!(message.contains(expected), "{message}");
        }
    }
}

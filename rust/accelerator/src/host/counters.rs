//! Reads the counters on the chip (*Counters* in `docs/accelerator.md`).
//!
//! The values come from a device, so they are checked before use. Depends on [`super::transport`]
//! and [`crate::isa`].

use quasar_core::error::{Error, Result};
use quasar_hardware::Hardware;

use crate::counts::{Counts, UnitCounts};
use crate::host::transport::{register, Transport};
use crate::isa::{counter_offset, CountedUnit, Counter, COUNTERS_IDENTITY, COUNTERS_RUN};

/// Checks that a configuration has counters. Without counters, an access to their registers may get
/// no response.
///
/// # Errors
/// [`Error::DeviceUnavailable`] for a configuration without counters.
pub fn expect_counters(hardware: &Hardware, device: &str) -> Result<()> {
    if hardware.configuration().counters {
        return Ok(());
    }
    Err(Error::DeviceUnavailable {
        device: device.to_owned(),
        problem: "the configuration has no counters (counters = false); build one with \
            counters = true"
            .into(),
    })
}

/// Clears and starts the counters.
///
/// # Errors
/// [`Error::DeviceFault`] if the counters' identity is wrong.
pub fn start<T: Transport + ?Sized>(transport: &mut T) -> Result<()> {
    let identity = transport.read(register::COUNTERS_IDENTITY)?;
    if identity != COUNTERS_IDENTITY {
        return Err(fault(
            transport,
            &format!("their identity is {identity:#x} instead of {COUNTERS_IDENTITY:#x}"),
        ));
    }
    control(transport, COUNTERS_RUN)
}

/// Stops the counters and reads them.
///
/// # Errors
/// [`Error::DeviceFault`] for impossible values or saturated counters.
pub fn stop<T: Transport + ?Sized>(transport: &mut T) -> Result<Counts> {
    control(transport, 0)?;
    let mut counts = Counts {
        cycles: transport.read(register::COUNTERS_CYCLES)?.into(),
        ..Counts::default()
    };
    for unit in CountedUnit::ALL {
        let mut read = |counter| transport.read(counter_offset(unit, counter)).map(u64::from);
        counts.units[unit as usize] = UnitCounts {
            commands: read(Counter::Commands)?,
            busy: read(Counter::Busy)?,
            blocked: read(Counter::Blocked)?,
            starved: read(Counter::Starved)?,
        };
    }
    let again = transport.read(register::COUNTERS_CYCLES)?;
    match check(&counts, again.into()) {
        Ok(()) => Ok(counts),
        Err(problem) => Err(fault(transport, &problem)),
    }
}

fn control<T: Transport + ?Sized>(transport: &mut T, value: u32) -> Result<()> {
    transport.write(register::COUNTERS_CONTROL, value)?;
    let read = transport.read(register::COUNTERS_CONTROL)?;
    if read == value {
        return Ok(());
    }
    Err(fault(
        transport,
        &format!("counters_CONTROL is {read:#x} after {value} was written"),
    ))
}

/// Checks that the values of stopped counters are possible. `again`: a second read of the cycles,
/// after all others.
fn check(counts: &Counts, again: u64) -> Result<(), String> {
    let cycles = counts.cycles;
    if again != cycles {
        return Err(format!(
            "{cycles} cycles become {again} while they are held"
        ));
    }
    if cycles == u64::from(u32::MAX) {
        return Err(format!(
            "{cycles} cycles are all that they count; profile fewer frames at a time"
        ));
    }
    for unit in CountedUnit::ALL {
        let UnitCounts {
            commands,
            busy,
            blocked,
            starved,
        } = counts.unit(unit);
        for (what, count, whole, most) in [
            ("commands", commands, "cycles", cycles),
            ("busy", busy, "cycles", cycles),
            ("blocked", blocked, "busy ones", busy),
            ("starved", starved, "busy ones", busy),
        ] {
            if count > most {
                let unit = unit.name();
                return Err(format!("{unit} has {count} {what} of {most} {whole}"));
            }
        }
    }
    Ok(())
}

fn fault<T: Transport + ?Sized>(transport: &T, problem: &str) -> Error {
    Error::DeviceFault {
        device: transport.name(),
        problem: format!("the counters: {problem}"),
    }
}

#[cfg(test)]
mod tests {
    use quasar_hardware::configuration::Configuration;

    use super::*;
    use crate::testing::{golden, hardware};

    #[test]
    fn a_configuration_without_counters_is_not_accessed() {
        let with = hardware(&golden("token"), "zcu102", [8, 8, 1, 1, 1, 1, 1]);
        expect_counters(&with, "uio:uio0").unwrap();
        let configuration = Configuration {
            counters: false,
            ..with.configuration().clone()
        };
        let without = Hardware::new(configuration, with.board().clone()).unwrap();
        let error = expect_counters(&without, "uio:uio0").unwrap_err();
        assert_eq!(error.kind(), "DeviceUnavailable");
        assert!(error.to_string().contains("build one with counters = true"));
    }
}

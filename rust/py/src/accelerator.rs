//! `_native.Program`: a subnet compiled for an accelerator. `python/quasar_rt/accelerator.py` is
//! the public API.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use quasar_accelerator::compile::schedule;
use quasar_accelerator::disasm::disassemble;
use quasar_accelerator::run::check::check_schedule;
use quasar_accelerator::run::time::{frame_alone, intervals, steady, Cause};
use quasar_core::Error;
use quasar_hardware::declared::segment_gap;

use crate::errors::to_py;
use crate::hardware::{period, period_with_gaps, Hardware, Workload};
use crate::space::Space;
use crate::subnet::Subnet;

/// Each queue's name, the most items in it, its depth; a frame's beats.
type Report = (Vec<(&'static str, usize, usize)>, usize);

/// A compiled subnet, immutable.
#[pyclass(frozen, module = "quasar_rt._native")]
pub struct Program {
    program: quasar_accelerator::Program,
}

#[pymethods]
impl Program {
    #[staticmethod]
    fn compile(py: Python<'_>, subnet: &Subnet, hardware: &Hardware) -> PyResult<Self> {
        let (subnet, hardware) = (&subnet.subnet, &hardware.hardware);
        py.detach(|| quasar_accelerator::Program::compile(subnet, hardware))
            .map(|program| Self { program })
            .map_err(to_py)
    }

    /// Returns the segments' names and numbers of commands.
    fn segments(&self) -> Vec<(String, usize)> {
        self.program
            .segments()
            .map(|(segment, commands)| (segment.to_string(), commands.len()))
            .collect()
    }

    fn disassemble(&self, segment: &str) -> PyResult<String> {
        let segment = self.program.segment(segment).map_err(to_py)?;
        Ok(disassemble(&self.program, segment))
    }

    /// Returns a segment's commands in memory's format.
    fn commands<'py>(
        &self,
        py: Python<'py>,
        segment: &str,
        seed: u32,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let segment = self.program.segment(segment).map_err(to_py)?;
        Ok(PyBytes::new(
            py,
            &self.program.command_bytes(segment, seed, 0),
        ))
    }

    fn arena<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.program.arena())
    }

    fn beat_bytes(&self) -> usize {
        self.program.beat_bytes()
    }

    /// Returns the initiation intervals of the kernels' loops in a run of these segments.
    fn intervals(&self, segments: Vec<String>) -> PyResult<BTreeMap<&'static str, u64>> {
        let lists = segments
            .iter()
            .map(|name| {
                self.program
                    .segment(name)
                    .map(|segment| self.program.commands(segment))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(to_py)?;
        Ok(intervals(self.program.hardware(), &lists))
    }

    fn verify(&self, py: Python<'_>) -> PyResult<Report> {
        let report = py.detach(|| check_schedule(&self.program)).map_err(to_py)?;
        Ok((report.queues, report.beats))
    }
}

/// Unit, frame slot, phase, stage, first cycle, end, cycles of work, stalled cycles by cause.
type Span = (&'static str, u8, u16, &'static str, u64, u64, u64, Vec<u64>);
/// Cycles between two frames, without and with the host's gaps between segments; the gaps of a
/// frame; cycles of one frame alone, causes, the commands of the steady state, the number of their
/// frames.
type Replay = (u64, u64, u64, u64, Vec<&'static str>, Vec<Span>, u64);

/// Returns the cycles between two frames of a network, event by event, without and with the host's
/// gaps between segments.
#[pyfunction]
pub fn periods(py: Python<'_>, workload: &Workload, hardware: &Hardware) -> PyResult<(u64, u64)> {
    let (workload, hardware) = (&workload.workload, &hardware.hardware);
    py.detach(|| {
        let with_gaps = period_with_gaps(workload, hardware)?;
        Ok((period(workload, hardware, None)?, with_gaps))
    })
    .map_err(to_py)
}

/// Returns the cycles between two frames of each genome, event by event: for many genomes, on
/// `threads` threads. Each must fit the hardware. `gaps`: with the host's gaps between segments.
#[pyfunction]
pub fn replay_periods<'py>(
    py: Python<'py>,
    space: &Space,
    hardware: &Hardware,
    genomes: PyReadonlyArray2<'py, u8>,
    gaps: bool,
    threads: usize,
) -> PyResult<Bound<'py, PyArray1<u64>>> {
    let [count, genes] = [genomes.shape()[0], genomes.shape()[1]];
    let genomes = genomes.as_slice()?;
    let (space, hardware) = (&space.space, &hardware.hardware);
    let gap = gaps.then(|| segment_gap(hardware));
    let period = |genome: &[u8]| {
        let workload = space.workload(&space.name, &space.decode(genome)?)?;
        period(&workload, hardware, gap)
    };
    let next = AtomicUsize::new(0);
    // A thread takes the next genome when it is done with one, and keeps the numbers of its own.
    let work = || {
        let mut found = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return Ok(found);
            }
            found.push((at, period(&genomes[at * genes..][..genes])?));
        }
    };
    let periods = py.detach(|| {
        let parts: Result<Vec<Vec<(usize, u64)>>, Error> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads.clamp(1, count.max(1)))
                .map(|_| scope.spawn(work))
                .collect();
            let parts = handles
                .into_iter()
                .map(|handle| handle.join().expect("no panic"));
            parts.collect()
        });
        let mut periods = vec![0; count];
        for (at, period) in parts?.into_iter().flatten() {
            periods[at] = period;
        }
        Ok(periods)
    });
    Ok(periods.map_err(to_py)?.into_pyarray(py))
}

/// Replays the command lists of a network on the event-driven model.
#[pyfunction]
pub fn replay(py: Python<'_>, workload: &Workload, hardware: &Hardware) -> PyResult<Replay> {
    let (workload, hardware) = (&workload.workload, &hardware.hardware);
    py.detach(|| {
        let lists = schedule(workload, hardware)?;
        let alone = frame_alone(hardware, &lists)?;
        let gap = segment_gap(hardware);
        let with_gaps = steady(hardware, &lists, Some(gap))?;
        let steady = steady(hardware, &lists, None)?;
        let spans = steady.trace.spans.iter();
        let spans = spans.filter(|span| steady.window.contains(&span.segment));
        let spans = spans.filter_map(|span| {
            let segment = steady.segments[span.segment];
            let list = lists.iter().find(|list| list.segment == segment)?;
            let (place, unit) = (list.places[span.index], span.command.unit().name());
            let (slot, phase, stage) = (place.slot, place.phase, place.stage);
            let stalls = span.stalls.to_vec();
            Some((
                unit, slot, phase, stage, span.start, span.end, span.busy, stalls,
            ))
        });
        let causes = Cause::ALL.map(Cause::name).to_vec();
        Ok((
            steady.period,
            with_gaps.period,
            gap * steady.window.len() as u64 / steady.frames,
            alone.end(),
            causes,
            spans.collect(),
            steady.frames,
        ))
    })
    .map_err(to_py)
}
